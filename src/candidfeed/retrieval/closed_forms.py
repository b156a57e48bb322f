"""What the two-tower model starts from: iALS fold-ins, and neighbours at a low rank."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.content import Content
from candidfeed.retrieval.factorise import FactorSettings, factorise
from candidfeed.retrieval.neighbours import Ease
from candidfeed.retrieval.spectrum import Spectrum, leading_spectrum

# Above this, inverting the items' Gram matrix takes longer than all the rest.
MAX_NEIGHBOUR_ITEMS = 6_000

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ClosedFormSettings:
    """A fold-in part and, where it helps, a neighbour part.

    Attributes:
        factors: of the fold-in part.
        n_members: factorisations from different random starts whose scores are averaged.
        asked_reg: `factors.reg` of the fold-in of a user who is asked for. Above that of the fit:
            the items were fitted with the history in them, and what comes next was not.
        n_neighbour_dims: rank of the neighbour part; 0 leaves it out.
        l2: EASE's regularisation.
        neighbour_weight: weight of the neighbour part beside the fold-in part.
        new_item_weight: of the vectors that items nobody touched get from their content.
        is_spectral: whether the neighbour part is the leading spectrum of the links, and not EASE,
            and a factorisation begins with that, and not at random.
    """

    factors: FactorSettings = field(default_factory=FactorSettings)
    n_members: int = 1
    asked_reg: float = 0.02
    n_neighbour_dims: int = 0
    l2: float = 1000.0
    neighbour_weight: float = 1.0
    new_item_weight: float = 0.0
    is_spectral: bool = False

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
    rank, spectrum = settings.n_neighbour_dims, None
    if settings.is_spectral:
        spectrum = leading_spectrum(train.matrix, max(rank, settings.factors.dim))
    members = fit_members(train, settings.factors, settings.n_members, seed=seed, spectrum=spectrum)
    left, right = neighbour_tables(train, settings, spectrum)
    return with_new_items(
        ClosedForms(members, settings.neighbour_weight * left, right),
        content,
        settings.new_item_weight,
    )


def neighbour_tables(
    train: Interactions, settings: ClosedFormSettings, spectrum: Spectrum | None
) -> tuple[Floats, Floats]:
    """`ClosedForms.neighbour_in`, without its weight, and `neighbour_out`.

    Args:
        spectrum: of train; needed where the neighbour part is spectral.
    """
    rank = settings.n_neighbour_dims
    if spectrum is not None:
        return spectrum.tables(rank)
    if rank:
        return low_rank_ease(train, l2=settings.l2, rank=rank)
    nothing = np.zeros((train.n_items, 0), np.float32)
    return nothing, nothing


def with_new_items(closed: ClosedForms, content: Content, weight: float) -> ClosedForms:
    """The same with vectors of the items that nobody touched."""
    return ClosedForms(
        items=np.stack([content.completed(items, weight=weight) for items in closed.items]),
        neighbour_in=closed.neighbour_in,
        neighbour_out=content.completed(closed.neighbour_out, weight=weight),
    )


def fit_members(
    train: Interactions,
    settings: FactorSettings,
    n_members: int,
    *,
    seed: int,
    spectrum: Spectrum | None = None,
) -> Floats:
    """Item vectors of factorisations, float32 [n_members, n_items, dim].

    They begin with the spectrum, all alike, or at random, independent of each other.
    """
    start = None if spectrum is None else spectrum.start(settings.dim)
    rngs = np.random.default_rng(seed).spawn(n_members)
    return np.stack([factorise(train.matrix, settings, rng=rng, start=start) for rng in rngs])


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
