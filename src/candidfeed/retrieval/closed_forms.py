"""The closed forms that the two-tower model starts from: iALS fold-ins and EASE at a low rank."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.content import Content
from candidfeed.retrieval.factorise import FactorSettings, factorise
from candidfeed.retrieval.neighbours import Ease

# Above this, inverting the items' Gram matrix takes longer than all the rest.
MAX_NEIGHBOUR_ITEMS = 6_000

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ClosedFormSettings:
    """A fold-in part and, where the catalogue allows, a neighbour part.

    Attributes:
        factors: of the fold-in part.
        n_members: factorisations from different random starts whose scores are averaged.
        asked_reg: `factors.reg` of the fold-in of a user who is asked for. Above that of the fit:
            the items were fitted with the history in them, and what comes next was not.
        n_neighbour_dims: rank that EASE is cut to; 0 leaves the neighbour part out.
        l2: EASE's regularisation.
        neighbour_weight: weight of the neighbour part beside the fold-in part.
        new_item_weight: of the vectors that items nobody touched get from their content.
    """

    factors: FactorSettings = field(default_factory=FactorSettings)
    n_members: int = 1
    asked_reg: float = 0.02
    n_neighbour_dims: int = 0
    l2: float = 1000.0
    neighbour_weight: float = 1.0
    new_item_weight: float = 0.0

    @property
    def asked(self) -> FactorSettings:
        """Of the fold-in of a user who is asked for."""
        return replace(self.factors, reg=self.asked_reg)


@dataclass(frozen=True)
class ClosedForms:
    """Item vectors; a user's scores are the mean over the members plus the neighbour part.

    Attributes:
        items: fold-in vectors, float32 [n_members, n_items, dim].
        neighbour_in: summed over the history they give the user's neighbour vector, float32
            [n_items, n_neighbour_dims].
        neighbour_out: what that vector is multiplied with, float32 [n_items, n_neighbour_dims].
    """

    items: Floats
    neighbour_in: Floats
    neighbour_out: Floats


def fit_closed_forms(
    train: Interactions, content: Content, settings: ClosedFormSettings, *, seed: int
) -> ClosedForms:
    members = fit_members(train, settings.factors, settings.n_members, seed=seed)
    if settings.n_neighbour_dims == 0:
        left = right = np.zeros((train.n_items, 0), np.float32)
    else:
        left, right = low_rank_ease(train, l2=settings.l2, rank=settings.n_neighbour_dims)
    return with_new_items(
        ClosedForms(members, settings.neighbour_weight * left, right),
        content,
        settings.new_item_weight,
    )


def with_new_items(closed: ClosedForms, content: Content, weight: float) -> ClosedForms:
    """The same with vectors of the items that nobody touched."""
    return ClosedForms(
        items=np.stack([content.completed(items, weight=weight) for items in closed.items]),
        neighbour_in=closed.neighbour_in,
        neighbour_out=content.completed(closed.neighbour_out, weight=weight),
    )


def fit_members(
    train: Interactions, settings: FactorSettings, n_members: int, *, seed: int
) -> Floats:
    """Item vectors of independent factorisations, float32 [n_members, n_items, dim]."""
    starts = np.random.default_rng(seed).spawn(n_members)
    return np.stack([factorise(train.matrix, settings, rng=rng) for rng in starts])


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
