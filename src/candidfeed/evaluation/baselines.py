"""The models that every run is compared with, each at its best: tuned on a part of train."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split, inner_split
from candidfeed.errors import DataError
from candidfeed.evaluation.ranking_metrics import Scorer, evaluate_ranking
from candidfeed.retrieval.neighbours import Ease, ItemKnn, why_no_ease
from candidfeed.retrieval.popularity import Popular, PopularRecent, popular_for_strangers

BASELINES = ("popular", "popular-recent", "item-knn", "ease", "ials")

# What the hyperparameters are chosen by: deep enough for candidates, and it rewards order.
_CHOSEN_BY_K = 100
_MAX_VALIDATION_USERS = 2_000
# EASE takes n^3 time: above this many items its l2 is chosen on the most popular of them.
_MAX_TUNING_ITEMS = 2_500
_IALS_ITERATIONS = 10
# Of more rows of train each fit takes minutes, and of more items to rank them all; grids have up to
# six entries.
MAX_TUNED_EVENTS, MAX_TUNED_ITEMS = 5_000_000, 200_000

Settings = Mapping[str, float]
# A model's stages: the best of the first stage is kept, each later stage varies a part of it.
# The very first entry is what is taken where nothing can be held out for choosing.
_GRIDS: dict[str, tuple[tuple[Settings, ...], ...]] = {
    "popular": (({},),),
    "popular-recent": (tuple({"window_share": share} for share in (0.1, 0.02, 0.05, 0.2, 0.5)),),
    "item-knn": (
        tuple({"k": k, "shrink": 10} for k in (100, 50, 200, 400)),
        ({"shrink": 0}, {"shrink": 100}),
    ),
    "ease": (tuple({"l2": l2} for l2 in (300, 30, 100, 1000, 3000)),),
    "ials": (
        tuple(
            {"factors": 64, "regularization": regularization, "alpha": alpha}
            for regularization, alpha in ((10, 1), (1, 2), (30, 5), (100, 10))
        ),
        ({"factors": 32}, {"factors": 128}),
    ),
}


class Baseline(Scorer, Protocol):
    @property
    def settings(self) -> Settings:
        """The hyperparameters that it was fitted with, by name."""
        ...


@dataclass(frozen=True)
class Ials:
    """Implicit alternating least squares, by the `implicit` library.

    Each user's factors are solved anew from all that is known of them (fold-in). A user of whom
    nothing is known gets the popular order.

    Attributes:
        settings: factors, regularization and alpha, as the library names them.

    Source: Hu, Koren, Volinsky, ICDM 2008.
    """

    model: AlternatingLeastSquares
    known: sp.csr_matrix
    popular: Popular
    settings: Settings

    @classmethod
    def fit(
        cls,
        train: Interactions,
        *,
        known: Interactions,
        factors: int,
        regularization: float,
        alpha: float,
        seed: int,
    ) -> "Ials":
        """One seed gives one model, on any number of threads."""
        with threadpool_limits(1, user_api="blas"):
            model = AlternatingLeastSquares(
                factors=factors,
                regularization=regularization,
                alpha=alpha,
                iterations=_IALS_ITERATIONS,
                random_state=seed,
            )
            model.fit(train.matrix, show_progress=False)
        settings = {"factors": factors, "regularization": regularization, "alpha": alpha}
        return cls(model, known.matrix, Popular.fit(train), settings)

    def scores(self, users: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32 [len(users), n_items]."""
        touched = self.known[users]
        with threadpool_limits(1, user_api="blas"):
            user_factors = self.model.recalculate_user(users, touched)
        return popular_for_strangers(
            user_factors @ self.model.item_factors.T, touched, self.popular
        )


def why_left_out(split: Split) -> dict[str, str]:
    """The baselines that this split can't have, and why not."""
    reasons = {}
    if np.isnan(split.train.time_s).any():
        reasons["popular-recent"] = "the log has no times"
    refusal = why_no_ease(split.train)
    return reasons | ({"ease": refusal} if refusal else {})


def untuned(split: Split) -> tuple[str, ...]:
    """The baselines whose settings are not chosen, because the log or its catalogue is too large.

    They are fitted with the first entry of their grids.
    """
    if _is_tuned(split):
        return ()
    left_out = why_left_out(split)
    has_choice = (name for name, stages in _GRIDS.items() if len(stages) * len(stages[0]) > 1)
    return tuple(name for name in has_choice if name not in left_out)


def _is_tuned(split: Split) -> bool:
    return len(split.train) <= MAX_TUNED_EVENTS and len(split.items) <= MAX_TUNED_ITEMS


def fit_baselines(split: Split, *, seed: int) -> dict[str, tuple[Baseline, float]]:
    """Fits each of BASELINES that the split can have (see `why_left_out`), in that order.

    Hyperparameters are chosen by ndcg@100 on a validation part of train (`inner_split`), never on
    test, but for those that are `untuned`; each scorer's `settings` says which. Users score from
    what is known of them.

    Returns:
        By name: the scorer, and the seconds that its fit on all of train took, without choosing.
    """
    left_out = why_left_out(split)
    known = split.known
    held_out = _hold_out(split, seed) if _is_tuned(split) else None
    fitted = {}
    for name in BASELINES:
        if name in left_out:
            continue
        settings = _choose(name, held_out, seed)
        start = time.perf_counter()
        scorer = _fit(name, split.train, known, settings, seed)
        fitted[name] = (scorer, time.perf_counter() - start)
    return fitted


@dataclass(frozen=True)
class _HeldOut:
    """A part of train for fitting and one for validating: at most _MAX_VALIDATION_USERS users."""

    train: Interactions
    known: Interactions
    targets: sp.csr_matrix

    def of_most_popular(self, n_items: int) -> "_HeldOut":
        """The same, with nothing but the most popular items in it."""
        if self.train.n_items <= n_items:
            return self
        kept = np.sort(np.argsort(-Popular.fit(self.train).item_scores, kind="stable")[:n_items])
        return _HeldOut(
            train=_only_items(self.train, kept),
            known=_only_items(self.known, kept),
            targets=self.targets[:, kept],
        )


def _only_items(events: Interactions, kept: NDArray[np.integer]) -> Interactions:
    new_row = np.full(events.n_items, -1, dtype=np.int32)
    new_row[kept] = np.arange(len(kept))
    among = events.take(new_row[events.item] >= 0)
    return Interactions(
        among.user, new_row[among.item], among.value, among.time_s, events.n_users, len(kept)
    )


def _hold_out(split: Split, seed: int) -> _HeldOut | None:
    """None where train is too small to choose anything by."""
    try:
        inner = inner_split(split, seed=seed)
    except DataError:
        return None
    users = np.unique(inner.test.user)
    if len(users) > _MAX_VALIDATION_USERS:
        users = np.random.default_rng(seed).choice(users, _MAX_VALIDATION_USERS, replace=False)
    asked = inner.test.take(np.isin(inner.test.user, users))
    known = inner.known
    targets = asked.matrix - asked.matrix.multiply(known.matrix)
    targets.eliminate_zeros()
    return _HeldOut(inner.train, known, targets) if targets.nnz else None


def _choose(name: str, held_out: _HeldOut | None, seed: int) -> Settings:
    """The settings of the grid that rank the validation part best; the earlier of equal ones."""
    first_stage = _GRIDS[name][0]
    if held_out is None or (len(_GRIDS[name]) == 1 and len(first_stage) == 1):
        return first_stage[0]
    if name == "ease":
        held_out = held_out.of_most_popular(_MAX_TUNING_ITEMS)
    best, best_ndcg = {}, -np.inf
    for stage in _GRIDS[name]:
        for settings in [{**best, **part} for part in stage]:
            scorer = _fit(name, held_out.train, held_out.known, settings, seed)
            ndcg = _validate(scorer, held_out)
            if ndcg > best_ndcg:
                best, best_ndcg = settings, ndcg
    return best


def _validate(scorer: Scorer, held_out: _HeldOut) -> float:
    k = _CHOSEN_BY_K
    known = held_out.known.matrix
    figures = evaluate_ranking(scorer, known=known, test=held_out.targets, ks=(k,), top_ks=())
    return figures.mean(f"ndcg@{k}")


def _fit(
    name: str, train: Interactions, known: Interactions, settings: Settings, seed: int
) -> Baseline:
    fits: dict[str, Callable[..., Baseline]] = {
        "popular": lambda: Popular.fit(train),
        "popular-recent": lambda **chosen: PopularRecent.fit(train, **chosen),
        "item-knn": lambda **chosen: ItemKnn.fit(train, known=known, **chosen),
        "ease": lambda **chosen: Ease.fit(train, known=known, **chosen),
        "ials": lambda **chosen: Ials.fit(train, known=known, seed=seed, **chosen),
    }
    return fits[name](**settings)
