"""Items that nobody has touched yet: what to compare with, and figures among them alone."""

import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.splits import Split
from candidfeed.evaluation.bootstrap import Figure
from candidfeed.evaluation.ranking_metrics import Scorer, evaluate_ranking
from candidfeed.retrieval.content import Content
from candidfeed.retrieval.factorise import FactorSettings, factorise, fold_in

PROTOCOL = "item-cold"
AMONG_NEW = ("top@10/new", "top@100/new", "ndcg@10/new")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RandomOrder:
    """A random order for each user: what any model has to beat."""

    n_items: int
    seed: int

    def scores(self, users: NDArray[np.int32]) -> Floats:
        """float32 [len(users), n_items]; a user's row is the same whoever else is asked for."""
        rows = [np.random.default_rng((self.seed, int(user))) for user in users]
        return np.stack([rng.random(self.n_items, dtype=np.float32) for rng in rows])


@dataclass(frozen=True)
class ContentMap:
    """One factorisation, and a ridge regression from content to its item vectors.

    Attributes:
        items: float32 [n_items, dim]; those of new items come from their content.
        known: what each user touched, CSR [n_users, n_items].
    """

    items: Floats
    known: sp.csr_matrix
    factors: FactorSettings

    @staticmethod
    def fit(split: Split, item_bag: Bag, *, seed: int) -> "ContentMap":
        factors = FactorSettings()
        rng = np.random.default_rng(seed)
        items = factorise(split.train.matrix, factors, rng=rng)
        content = Content.of(item_bag, split.train.item)
        return ContentMap(content.completed(items), split.known.matrix, factors)

    @cached_property
    def _users(self) -> Floats:
        return fold_in(self.known, self.items, self.factors)

    def scores(self, users: NDArray[np.int32]) -> Floats:
        """float32 [len(users), n_items]."""
        return self._users[users] @ self.items.T


@dataclass(frozen=True)
class _Among:
    """A model's scores of these items only."""

    scorer: Scorer
    items: NDArray[np.intp]

    def scores(self, users: NDArray[np.int32]) -> Floats:
        return np.asarray(self.scorer.scores(users))[:, self.items]


def cold_baselines(split: Split, item_bag: Bag, *, seed: int) -> dict[str, tuple[Scorer, float]]:
    """By name: a scorer, and the seconds that its fit took."""
    start = time.perf_counter()
    content_map = ContentMap.fit(split, item_bag, seed=seed)
    took = time.perf_counter() - start
    n_items = split.train.n_items
    return {"content-map": (content_map, took), "random": (RandomOrder(n_items, seed), 0.0)}


def figures_among_new(scorer: Scorer, split: Split) -> dict[str, Figure]:
    """How a model ranks the new items among themselves, as `top@k/new` and `ndcg@k/new`."""
    touched = np.bincount(split.train.item, minlength=split.train.n_items)
    asked = np.bincount(split.test.item, minlength=split.train.n_items)
    new = np.flatnonzero((touched == 0) & (asked > 0))
    ranked = evaluate_ranking(
        _Among(scorer, new), known=split.known.matrix[:, new], test=split.test.matrix[:, new]
    )
    return {name: ranked.figures[name.removesuffix("/new")] for name in AMONG_NEW}
