"""The closed forms that the two-tower model starts from, and how they are chosen."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.factorise import FactorSettings, factorise, fold_in
from candidfeed.retrieval.neighbours import Ease

# Above this, inverting the items' Gram matrix takes longer than all the rest.
MAX_NEIGHBOUR_ITEMS = 6_000
# Low on purpose: 16 to 64 dimensions rank unseen items as well as all of EASE, and unlike it they
# do not push down what the user has touched.
_NEIGHBOUR_DIMS = 32
_FACTORS = (
    FactorSettings(unseen_weight=0.1, reg=0.03),
    FactorSettings(unseen_weight=0.1, reg=0.01),
    FactorSettings(unseen_weight=0.3, reg=0.01),
    FactorSettings(unseen_weight=1.0, reg=0.003),
)
_OTHER_DIMS = (32, 128)
# With fewer events 128 dimensions are hardly ever chosen, and cost more than all other trials.
_MIN_EVENTS_FOR_WIDE = 300_000
_L2 = (300.0, 1000.0, 3000.0)
_NEIGHBOUR_WEIGHTS = (0.5, 1.0, 2.0)
_CHOOSING_ITERATIONS = 4

Floats = NDArray[np.float32]
# Scores of users' rows, float32 [len(users), n_items].
Scores = Callable[[NDArray[np.int32]], Floats]


@dataclass(frozen=True)
class ClosedFormSettings:
    """A fold-in part and, where the catalogue allows, a neighbour part.

    Attributes:
        factors: of the fold-in part.
        n_neighbour_dims: rank that EASE is cut to; 0 leaves the neighbour part out.
        l2: EASE's regularisation.
        neighbour_weight: weight of the neighbour part beside the fold-in part.
    """

    factors: FactorSettings = field(default_factory=FactorSettings)
    n_neighbour_dims: int = 0
    l2: float = 1000.0
    neighbour_weight: float = 1.0


@dataclass(frozen=True)
class ClosedForms:
    """Item vectors, each float32 [n_items, d]; a user's scores are the sum of the two parts.

    Attributes:
        items: fold-in vectors.
        neighbour_in: summed over the history they give the user's neighbour vector.
        neighbour_out: what that vector is multiplied with.
    """

    items: Floats
    neighbour_in: Floats
    neighbour_out: Floats


def fit_closed_forms(
    train: Interactions, settings: ClosedFormSettings, *, seed: int
) -> ClosedForms:
    items = factorise(train.matrix, settings.factors, rng=np.random.default_rng(seed))
    if settings.n_neighbour_dims == 0:
        nothing = np.zeros((train.n_items, 0), np.float32)
        return ClosedForms(items, nothing, nothing)
    left, right = low_rank_ease(train, l2=settings.l2, rank=settings.n_neighbour_dims)
    return ClosedForms(items, settings.neighbour_weight * left, right)


def low_rank_ease(train: Interactions, *, l2: float, rank: int) -> tuple[Floats, Floats]:
    """EASE's weights as a product of two tables, float32 [n_items, rank] both.

    The best approximation in the sum of squares (Eckart-Young).
    """
    weights = Ease.fit(train, known=train, l2=l2).weights
    if not weights.any():
        # No two items were touched by one user; the decomposition can't begin with nothing.
        nothing = np.zeros((len(weights), rank), np.float32)
        return nothing, nothing
    # A fixed start makes the iterative decomposition repeatable.
    start = np.random.default_rng(0).standard_normal(len(weights)).astype(np.float32)
    decomposed: Any = svds(weights, k=rank, v0=start)
    left, scale, right = decomposed
    root = np.sqrt(scale)
    return (left * root).astype(np.float32), (right.T * root).astype(np.float32)


def choose_closed_forms(
    train: Interactions,
    known: sp.csr_matrix,
    ndcg: Callable[[Scores], float],
    *,
    seed: int,
) -> ClosedFormSettings:
    """The settings that rank a validation part best: first the fold-in, then what is added to it.

    Args:
        known: what each user is known to have touched when asked for, CSR [n_users, n_items].
        ndcg: how well scores rank the validation part.
    """

    def folded(factors: FactorSettings) -> Scores:
        brief = replace(factors, n_iterations=_CHOOSING_ITERATIONS)
        items = factorise(train.matrix, brief, rng=np.random.default_rng(seed))
        vectors = fold_in(known, items, factors)
        return lambda users: vectors[users] @ items.T

    def best(candidates: list[FactorSettings]) -> FactorSettings:
        fitting = [each for each in candidates if each.dim < train.n_items]
        return max(fitting, key=lambda each: ndcg(folded(each)))

    if train.n_items <= min(_OTHER_DIMS):
        return ClosedFormSettings(FactorSettings(dim=max(1, train.n_items // 2)))
    narrow = [replace(each, dim=min(each.dim, train.n_items // 2)) for each in _FACTORS]
    first = best(narrow)
    is_wide = len(train) >= _MIN_EVENTS_FOR_WIDE
    dims = [dim for dim in _OTHER_DIMS if dim < first.dim or is_wide]
    factors = best([first, *(replace(first, dim=dim) for dim in dims)])
    alone = ClosedFormSettings(factors)
    if train.n_items > MAX_NEIGHBOUR_ITEMS:
        return alone
    return _choose_neighbours(train, known, ndcg, alone, folded(factors))


def _choose_neighbours(
    train: Interactions,
    known: sp.csr_matrix,
    ndcg: Callable[[Scores], float],
    alone: ClosedFormSettings,
    folded: Scores,
) -> ClosedFormSettings:
    rank = min(_NEIGHBOUR_DIMS, train.n_items // 2)
    chosen, highest = alone, ndcg(folded)
    for l2 in _L2:
        left, right = low_rank_ease(train, l2=l2, rank=rank)
        for weight in _NEIGHBOUR_WEIGHTS:

            def summed(
                users: NDArray[np.int32],
                left: Floats = left * weight,
                right: Floats = right,
            ) -> Floats:
                return folded(users) + (known[users] @ left) @ right.T

            reached = ndcg(summed)
            if reached > highest:
                highest = reached
                chosen = replace(alone, n_neighbour_dims=rank, l2=l2, neighbour_weight=weight)
    return chosen
