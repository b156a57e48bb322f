"""Train retrieval and ranking as one system, without letting either see what it is asked.

Retrieval learns on the older (or kept) part of train, the ranker on the candidates that this
retrieval proposes for the rest; then retrieval is fitted again on all of train.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split, inner_split
from candidfeed.data.tables import Dataset
from candidfeed.errors import DataError
from candidfeed.ranking.inputs import RankerSpace, UserState, UserStates, dense_features
from candidfeed.ranking.training import (
    CandidateLists,
    FittedRanker,
    RankerSettings,
    fit_ranker,
    with_chosen_features,
)
from candidfeed.retrieval.closed_forms import MAX_NEIGHBOUR_ITEMS
from candidfeed.retrieval.neighbours import Ease, ItemKnn
from candidfeed.retrieval.training import (
    FittedTower,
    TowerScorer,
    TowerSettings,
    choose_closed,
    fit_tower,
)
from candidfeed.retrieval.validation import Asked, rank
from candidfeed.training.side_features import SideFeatures, side_features

MAX_ITEMS = 200_000
_EASE_L2 = (100.0, 300.0, 1000.0)
_NEIGHBOURS = {"k": 200, "shrink": 10.0}
_LISTS_AT_ONCE = 256

Floats = NDArray[np.float32]
Neighbour = Ease | ItemKnn
Report = Callable[[str], None]


@dataclass(frozen=True)
class TwoStageSettings:
    """Settings of both stages.

    Attributes:
        n_candidates: how many items retrieval hands to the ranker.
        value_weights: the published weighted sum of the heads that the list is ordered by.
    """

    n_candidates: int = 500
    tower: TowerSettings = field(default_factory=TowerSettings)
    ranker: RankerSettings = field(default_factory=RankerSettings)
    value_weights: dict[str, float] = field(default_factory=lambda: {"engaged": 1.0, "liked": 0.0})


@dataclass(frozen=True)
class Sources:
    """Fitted retrieval with what it knows of the users: where scores of stage one come from."""

    tower: TowerScorer
    neighbour: Neighbour

    @property
    def neighbour_l2(self) -> float | None:
        """EASE's regularisation; None where item-kNN is the neighbour model."""
        return self.neighbour.l2 if isinstance(self.neighbour, Ease) else None

    def scores(self, users: NDArray[np.int32]) -> tuple[Floats, Floats]:
        """Tower and neighbour scores, float32 [len(users), n_items] both."""
        return self.tower.scores(users), self.neighbour.scores(users)


@dataclass(frozen=True)
class Retrieved:
    """Stage one, fitted on one split's train part.

    Attributes:
        scorer: what the model knows of the split's users.
        seconds: wall time by step.
    """

    tower: FittedTower
    scorer: TowerScorer
    features: SideFeatures
    seconds: dict[str, float]


@dataclass(frozen=True)
class TwoStage:
    """Both stages, fitted on one split's train part, ready to be asked about its users.

    Attributes:
        states: of all users, as known (train and history) when asked.
        lists: the candidates that the ranker learned engagement from.
        seconds: wall time by step.
    """

    split: Split
    features: SideFeatures
    settings: TwoStageSettings
    tower: FittedTower
    sources: Sources
    ranker: FittedRanker
    states: UserStates
    lists: CandidateLists
    seconds: dict[str, float]


def fit_two_stage(
    dataset: Dataset,
    split: Split,
    *,
    settings: TwoStageSettings,
    seed: int,
    report: Report = lambda _step: None,
) -> TwoStage:
    """Fit everything on `split.train`; nothing of `split.test` is read.

    Args:
        report: is told the name of each step as it begins.

    Raises:
        DataError: the catalogue is larger than MAX_ITEMS, or train can't be cut again.
    """
    _check_size(split)
    clock = _Clock(report)
    features = side_features(dataset, split)
    clock.start("choose retrieval")
    inner, tower_settings = _choose_retrieval(split, features, settings.tower, seed=seed)
    asked = Asked(inner.known, inner.test)
    inner_tower = _fit_tower(inner.train, features, tower_settings, seed, asked)
    neighbour_settings = _choose_neighbour(inner, asked)
    clock.start("candidates for the ranker")
    inner_sources = Sources(inner_tower.scorer(inner.known), _neighbour(inner, neighbour_settings))
    like_at = dataset.like_at
    lists = candidate_lists(inner, inner_sources, features, like_at, settings.n_candidates)
    clock.start("choose ranker features")
    ranker_settings = with_chosen_features(lists, settings.ranker, seed=seed)
    return _fit_on_train(
        dataset, split, features, lists, clock,
        settings=replace(settings, tower=inner_tower.settings, ranker=ranker_settings),
        neighbour_settings=neighbour_settings, curves=inner_tower.curves, seed=seed,
    )  # fmt: skip


def fit_retrieval(
    dataset: Dataset,
    split: Split,
    *,
    settings: TowerSettings,
    seed: int,
    report: Report = lambda _step: None,
) -> Retrieved:
    """Stage one alone, as `fit_two_stage` fits it.

    Raises:
        DataError: as `fit_two_stage`.
    """
    _check_size(split)
    clock = _Clock(report)
    features = side_features(dataset, split)
    clock.start("choose retrieval")
    inner, settings = _choose_retrieval(split, features, settings, seed=seed)
    curves: dict[str, list[float]] = {}
    if settings.n_epochs:
        asked = Asked(inner.known, inner.test)
        tried = _fit_tower(inner.train, features, settings, seed, asked)
        settings, curves = tried.settings, tried.curves
    clock.start("fit retrieval")
    tower = replace(_fit_tower(split.train, features, settings, seed, None), curves=curves)
    clock.stop()
    return Retrieved(tower, tower.scorer(split.known), features, clock.seconds)


def _choose_retrieval(
    split: Split, features: SideFeatures, settings: TowerSettings, *, seed: int
) -> tuple[Split, TowerSettings]:
    """The inner cut of train, and the closed forms that were chosen on it."""
    inner = inner_split(split, seed=seed)
    asked = Asked(inner.known, inner.test)
    closed = choose_closed(inner.train, features.item_bag, asked, seed=seed)
    settings = replace(settings, closed=closed)
    if not features.any_known:
        # All that is left to learn are ids, and the closed forms hold those already (docs/log.md).
        settings = replace(settings, n_epochs=0)
    return inner, settings


def refit_on_all(
    dataset: Dataset,
    pair: TwoStage,
    *,
    seed: int,
    report: Report = lambda _step: None,
) -> TwoStage:
    """The pair for a release: the same settings, fitted on every positive event.

    The ranker learns from the lists that it had and from those that `pair`, which has not seen
    the test part, proposes for it.
    """
    clock = _Clock(report)
    clock.start("candidates for the ranker")
    tested = candidate_lists(
        pair.split, pair.sources, pair.features, dataset.like_at, pair.settings.n_candidates
    )
    lists = pair.lists.joined(tested)
    split = pair.split
    whole = split.known.concat(split.test)
    nothing = whole.take(np.arange(0))
    everything = replace(split, train=whole, history=nothing, test=nothing)
    return _fit_on_train(
        dataset, everything, side_features(dataset, everything), lists, clock,
        settings=pair.settings, neighbour_settings=pair.sources.neighbour_l2,
        curves=pair.tower.curves, seed=seed,
    )  # fmt: skip


def _fit_on_train(
    dataset: Dataset,
    split: Split,
    features: SideFeatures,
    lists: CandidateLists,
    clock: "_Clock",
    *,
    settings: TwoStageSettings,
    neighbour_settings: float | None,
    curves: dict[str, list[float]],
    seed: int,
) -> TwoStage:
    clock.start("fit retrieval")
    tower = replace(_fit_tower(split.train, features, settings.tower, seed, None), curves=curves)
    sources = Sources(tower.scorer(split.known), _neighbour(split, neighbour_settings))
    clock.start("fit ranker")
    like_at = dataset.like_at
    space = RankerSpace.fit(split.train, features.item_bag, features.item_map.n_ids, like_at)
    ranker = fit_ranker(
        space,
        n_users=len(split.users),
        n_user_ids=features.user_map.n_ids,
        rated=rated_rows(split.train, like_at),
        states=UserStates.of(split.train, features.user_bag, space.scale),
        lists=lists,
        settings=settings.ranker,
        seed=seed,
    )
    clock.stop()
    states = UserStates.of(split.known, features.user_bag, space.scale)
    return TwoStage(split, features, settings, tower, sources, ranker, states, lists, clock.seconds)


def candidate_lists(
    split: Split,
    sources: Sources,
    features: SideFeatures,
    like_at: float | None,
    n_candidates: int,
) -> CandidateLists:
    """What `sources` propose to the split's test users, labelled by what they did."""
    space = RankerSpace.fit(split.train, features.item_bag, features.item_map.n_ids, like_at)
    users = np.unique(split.test.user).astype(np.int32)
    known, target = split.known, split.test.matrix
    states = UserStates.of(known, features.user_bag, space.scale)
    parts = []
    for start in range(0, len(users), _LISTS_AT_ONCE):
        part = users[start : start + _LISTS_AT_ONCE]
        tower, neighbour = sources.scores(part)
        items = best_unseen(tower, known, part, n_candidates)
        dense = dense_of(space, states.take(part), items, tower, neighbour)
        at = np.arange(len(part))[:, None]
        hits = np.pad(target[part].toarray(), ((0, 0), (0, 1)))[at, items]
        engaged = np.where(items < space.n_items, hits, -1.0).astype(np.float32)
        parts.append((items, dense, engaged))
    items, dense, engaged = (np.concatenate(column) for column in zip(*parts, strict=True))
    keep = (engaged > 0).any(axis=1)
    return CandidateLists(users[keep], items[keep], dense[keep], engaged[keep])


def best_unseen(
    scores: Floats, known: Interactions, users: NDArray[np.int32], n: int
) -> NDArray[np.int32]:
    """The n best items of each row that its user has not touched, int32 [b, n], best first.

    Where fewer are left the rest is padding (n_items).
    """
    n = min(n, known.n_items)
    open_scores = scores.copy()
    seen = known.matrix[users].tocoo()
    open_scores[seen.row, seen.col] = -np.inf
    best = np.argpartition(-open_scores, n - 1, axis=1)[:, :n]
    at = np.arange(len(users))[:, None]
    best = best[at, np.argsort(-open_scores[at, best], axis=1, kind="stable")]
    return np.where(np.isfinite(open_scores[at, best]), best, known.n_items).astype(np.int32)


def dense_of(
    space: RankerSpace,
    states: UserState,
    items: NDArray[np.int32],
    tower: Floats,
    neighbour: Floats,
) -> Floats:
    """Dense features of candidates whose stage-one scores stand in full rows, [b, n_items]."""
    at, item = np.arange(len(items))[:, None], np.minimum(items, space.n_items - 1)
    return dense_features(
        space,
        states,
        items,
        tower=tower[at, item],
        neighbour=neighbour[at, item],
    )


def rated_rows(events: Interactions, like_at: float | None) -> Interactions | None:
    """The events that carry a rating; None where the log has none."""
    if like_at is None:
        return None
    return events.take(np.isfinite(events.value))


def _check_size(split: Split) -> None:
    n_items = len(split.items)
    if n_items > MAX_ITEMS:
        need_gib = n_items * 128 * 4 * 6 / 2**30
        raise DataError(
            f"{n_items:,} items: the full softmax over them would need about {need_gib:.0f} GiB a "
            f"step; the limit is {MAX_ITEMS:,} items"
        )


def _fit_tower(
    train: Interactions,
    features: SideFeatures,
    settings: TowerSettings,
    seed: int,
    asked: Asked | None,
) -> FittedTower:
    return fit_tower(
        train,
        user_bag=features.user_bag,
        item_bag=features.item_bag,
        n_user_ids=features.user_map.n_ids,
        n_item_ids=features.item_map.n_ids,
        settings=settings,
        seed=seed,
        validation=asked,
    )


def _neighbour(split: Split, l2: float | None) -> Neighbour:
    if l2 is None:
        return ItemKnn.fit(split.train, known=split.known, **_NEIGHBOURS)
    return Ease.fit(split.train, known=split.known, l2=l2)


def _choose_neighbour(inner: Split, asked: Asked) -> float | None:
    """EASE's l2 by validation; None where the catalogue is too large and item-kNN stands in."""
    if len(inner.items) > MAX_NEIGHBOUR_ITEMS:
        return None
    scored = {
        l2: rank(Ease.fit(inner.train, known=inner.known, l2=l2).scores, asked).ndcg
        for l2 in _EASE_L2
    }
    return max(scored, key=scored.__getitem__)


class _Clock:
    """Wall time by step."""

    def __init__(self, report: Report) -> None:
        self.seconds: dict[str, float] = {}
        self._report, self._step, self._since = report, "", 0.0

    def start(self, step: str) -> None:
        self.stop()
        self._report(step)
        self._step, self._since = step, time.perf_counter()

    def stop(self) -> None:
        if self._step:
            self.seconds[self._step] = time.perf_counter() - self._since
        self._step = ""
