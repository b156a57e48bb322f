"""Train retrieval and ranking as one system, without letting either see what it is asked.

Retrieval learns on the older (or kept) part of train, the ranker on the candidates that this
retrieval proposes for the rest; then retrieval is fitted again on all of train.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split
from candidfeed.data.tables import Dataset
from candidfeed.ranking.calibration import Calibrator
from candidfeed.ranking.inputs import RankerSpace, UserStates
from candidfeed.ranking.training import (
    CandidateLists,
    FittedRanker,
    RankerSettings,
    fit_ranker,
    with_chosen_features,
)
from candidfeed.retrieval.closed_forms import MAX_NEIGHBOUR_ITEMS
from candidfeed.retrieval.neighbours import Ease
from candidfeed.retrieval.validation import rank
from candidfeed.training.candidates import (
    Neighbour,
    Sources,
    candidate_lists,
    choose_quotas,
    neighbour_model,
)
from candidfeed.training.held_out import (
    ENGAGED,
    HEADS,
    LIKED,
    HeldOut,
    calibrators,
    engagement_of,
    likes_of,
    likes_of_history,
    of_inner_cut,
)
from candidfeed.training.out_of_fold import (
    least_gain_se,
    log_more_hits,
    may_fold,
    out_of_fold_lists,
)
from candidfeed.training.side_features import SideFeatures, side_features
from candidfeed.training.stage_one import (
    Chosen,
    Fitted,
    Scorer,
    StageOneSettings,
    choose_stage_one,
    fit_stage_one,
)

_EASE_L2 = (100.0, 300.0, 1000.0)

Report = Callable[[str], None]


@dataclass(frozen=True)
class TwoStageSettings:
    """Settings of both stages.

    Attributes:
        n_candidates: how many items retrieval hands to the ranker.
        quotas: how many of them each source may bring (`candidates.SOURCES`); chosen by validation
            where None.
        value_weights: the published weighted sum of the heads that the list is ordered by; a head
            that is not named has 0.

    Raises:
        ValueError: a weight is for no head, or all are 0.
    """

    n_candidates: int = 500
    quotas: Mapping[str, int] | None = None
    stage_one: StageOneSettings = field(default_factory=StageOneSettings)
    ranker: RankerSettings = field(default_factory=RankerSettings)
    value_weights: dict[str, float] = field(default_factory=lambda: {"engaged": 1.0, "liked": 0.0})

    def __post_init__(self) -> None:
        weights = self.value_weights
        unknown = sorted(set(weights) - set(HEADS))
        if unknown:
            raise ValueError(f"value_weights: no head is named {unknown[0]!r}, only {HEADS}")
        if not any(weights.values()):
            raise ValueError(
                f"value_weights: {weights} would put a list in no order; give a head more than 0"
            )
        # A head that is not named counts nothing.
        object.__setattr__(self, "value_weights", {**dict.fromkeys(HEADS, 0.0), **weights})


@dataclass(frozen=True)
class Retrieved:
    """Stage one, fitted on one split's train part.

    Attributes:
        scorer: what the model knows of the split's users.
        seconds: wall time by step.
    """

    tower: Fitted
    scorer: Scorer
    features: SideFeatures
    seconds: dict[str, float]


@dataclass(frozen=True)
class TwoStage:
    """Both stages, fitted on one split's train part, ready to be asked about its users.

    Attributes:
        states: of all users, as known (train and history) when asked.
        lists: the candidates that the ranker learned engagement from.
        log_more_hits: log of how many more hits a list holds when asked than those.
        calibration: by head, fitted on rows that the ranker did not learn from.
        seconds: wall time by step.
    """

    split: Split
    features: SideFeatures
    settings: TwoStageSettings
    tower: Fitted
    sources: Sources
    ranker: FittedRanker
    states: UserStates
    lists: CandidateLists
    log_more_hits: float
    calibration: Mapping[str, Calibrator]
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
        DataError: train can't be cut again, or the model does not fit into memory.
    """
    clock = _Clock(report)
    features = side_features(dataset, split)
    clock.start("choose retrieval")
    chosen = choose_stage_one(split, features, settings.stage_one, seed=seed)
    neighbour_settings = _choose_neighbour(chosen)
    clock.start("candidates for the ranker")
    inner = chosen.inner
    sources = Sources.of(
        chosen.tried().scorer(inner.known), neighbour_model(inner, neighbour_settings), inner
    )
    quotas = settings.quotas or choose_quotas(sources, chosen.asked, settings.n_candidates)
    inner_lists = candidate_lists(inner, sources, features, dataset.like_at, quotas, seed=seed)
    lists = inner_lists
    if may_fold(split, chosen.settings):
        lists = out_of_fold_lists(
            split, features, chosen, dataset.like_at, quotas,
            neighbour_l2=neighbour_settings, seed=seed,
        )  # fmt: skip
    clock.start("choose ranker features")
    at_least = least_gain_se(split, chosen.settings)
    ranker_settings = with_chosen_features(
        lists, settings.ranker, least_gain_se=at_least, seed=seed
    )
    settings = replace(settings, stage_one=chosen.settings, ranker=ranker_settings, quotas=quotas)
    pair = _fit_on_train(
        dataset, split, features, lists, clock, settings=settings,
        log_more_hits=log_more_hits(inner_lists, lists),
        neighbour_settings=neighbour_settings, curves=chosen.curves, seed=seed,
    )  # fmt: skip
    clock.start("calibrate")
    held = _held_out(pair, inner, inner_lists, dataset.like_at, seed=seed)
    clock.stop()
    return replace(pair, calibration=calibrators(held))


def fit_retrieval(
    dataset: Dataset,
    split: Split,
    *,
    settings: StageOneSettings,
    seed: int,
    report: Report = lambda _step: None,
) -> Retrieved:
    """Stage one alone, as `fit_two_stage` fits it.

    Raises:
        DataError: as `fit_two_stage`.
    """
    clock = _Clock(report)
    features = side_features(dataset, split)
    clock.start("choose retrieval")
    chosen = choose_stage_one(split, features, settings, seed=seed)
    clock.start("fit retrieval")
    fitted = fit_stage_one(split.train, features, settings=chosen.settings, seed=seed)
    tower = replace(fitted, curves=chosen.curves)
    clock.stop()
    return Retrieved(tower, tower.scorer(split.known), features, clock.seconds)


def refit_on_all(
    dataset: Dataset,
    pair: TwoStage,
    *,
    seed: int,
    report: Report = lambda _step: None,
) -> TwoStage:
    """The pair for a release: the same settings, fitted on every positive event.

    The ranker learns from the lists that it had and from those that `pair`, which has not seen
    the test part, proposes for it. What `pair` says of the test part calibrates it.
    """
    clock = _Clock(report)
    clock.start("candidates for the ranker")
    assert pair.settings.quotas is not None
    tested = candidate_lists(
        pair.split, pair.sources, pair.features, dataset.like_at, pair.settings.quotas, seed=seed
    )
    # Lists out of fold are as good as these, and the head that was measured stays as it is.
    is_folded = may_fold(pair.split, pair.settings.stage_one)
    lists = pair.lists if is_folded else pair.lists.joined(tested)
    split = pair.split
    whole = split.known.concat(split.test)
    nothing = whole.take(np.arange(0))
    everything = replace(split, train=whole, history=nothing, test=nothing)
    held = {ENGAGED: engagement_of(pair.ranker, pair.states, tested)}
    rated = rated_rows(split.test, dataset.like_at)
    if rated is not None and dataset.like_at is not None:
        held[LIKED] = likes_of(pair.ranker, pair.states, rated, dataset.like_at)
    refitted = _fit_on_train(
        dataset, everything, side_features(dataset, everything), lists, clock,
        settings=pair.settings, log_more_hits=pair.log_more_hits,
        neighbour_settings=neighbour_l2(pair.sources.neighbour),
        curves=pair.tower.curves, seed=seed,
    )  # fmt: skip
    return replace(refitted, calibration=calibrators(held))


def _fit_on_train(
    dataset: Dataset,
    split: Split,
    features: SideFeatures,
    lists: CandidateLists,
    clock: "_Clock",
    *,
    settings: TwoStageSettings,
    log_more_hits: float,
    neighbour_settings: float | None,
    curves: dict[str, list[float]],
    seed: int,
) -> TwoStage:
    clock.start("fit retrieval")
    fitted = fit_stage_one(split.train, features, settings=settings.stage_one, seed=seed)
    tower = replace(fitted, curves=curves)
    sources = Sources.of(
        tower.scorer(split.known), neighbour_model(split, neighbour_settings), split
    )
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
        log_more_hits=log_more_hits,
        seed=seed,
    )
    clock.stop()
    states = UserStates.of(split.known, features.user_bag, space.scale)
    return TwoStage(
        split, features, settings, tower, sources, ranker, states, lists, log_more_hits,
        calibrators({}), clock.seconds,
    )  # fmt: skip


def _held_out(
    pair: TwoStage, inner: Split, lists: CandidateLists, like_at: float | None, *, seed: int
) -> dict[str, HeldOut]:
    """What the ranker says of rows that it has not learned from, as near to the test as any."""
    likes = None
    if like_at is not None:
        likes = likes_of_history(pair.split, pair.ranker, pair.features, like_at, seed=seed)
    held = of_inner_cut(
        inner, pair.features, lists, like_at, settings=pair.settings.ranker,
        with_likes=like_at is not None and likes is None, seed=seed,
    )  # fmt: skip
    return held if likes is None else {**held, LIKED: likes}


def rated_rows(events: Interactions, like_at: float | None) -> Interactions | None:
    """The events that carry a rating; None where the log has none."""
    if like_at is None:
        return None
    return events.take(np.isfinite(events.value))


def neighbour_l2(model: Neighbour | None) -> float | None:
    """EASE's regularisation; None where another neighbour model stands in its place."""
    return model.l2 if isinstance(model, Ease) else None


def _choose_neighbour(chosen: Chosen) -> float | None:
    """EASE's l2 by validation; None where the catalogue is too large for it."""
    inner = chosen.inner
    if len(inner.items) > MAX_NEIGHBOUR_ITEMS:
        return None
    scored = {
        l2: rank(Ease.fit(inner.train, known=inner.known, l2=l2).scores, chosen.asked).ndcg
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
