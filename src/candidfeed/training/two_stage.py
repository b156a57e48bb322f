"""Train retrieval and ranking as one system, without letting either see what it is asked.

Retrieval learns on the older (or kept) part of train, the ranker on the candidates that this
retrieval proposes for the rest; then retrieval is fitted again on all of train.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split, fold_splits
from candidfeed.data.tables import Dataset
from candidfeed.ranking.calibration import Calibrator
from candidfeed.ranking.inputs import RankerSpace
from candidfeed.ranking.settings import RankerSettings
from candidfeed.ranking.training import (
    CandidateLists,
    FittedRanker,
    fit_ranker,
    with_chosen_features,
)
from candidfeed.ranking.user_state import UserStates
from candidfeed.training.actions import (
    TrainedActions,
    as_asked,
    require_heads,
    train_actions,
)
from candidfeed.training.candidates import (
    Sources,
    candidate_lists,
    choose_quotas,
)
from candidfeed.training.held_out import (
    HeldOut,
    calibrators,
    engagement_of,
    engagement_said,
    likes_of,
    likes_of_cuts,
    likes_of_history,
    some_lists,
)
from candidfeed.training.impressions import asked_from_s
from candidfeed.training.neighbour_choice import Neighbour, choose_neighbour, fitted_again
from candidfeed.training.out_of_fold import (
    least_gain_se,
    lists_to_learn,
    log_more_hits,
    may_fold,
)
from candidfeed.training.side_features import SideFeatures, side_features
from candidfeed.training.stage_one import (
    Fitted,
    Scorer,
    StageOneSettings,
    choose_stage_one,
    fit_stage_one,
)
from candidfeed.training.value import ENGAGED, LIKED, value_weights

Report = Callable[[str], None]
# Rated rows are left out by fifths to calibrate P(like): of one fifth alone (16,000 rows of
# MovieLens-100K) the map's own noise is as large as what it mends.
_N_LIKE_FOLDS = 5


@dataclass(frozen=True)
class TwoStageSettings:
    """Settings of both stages.

    Attributes:
        n_candidates: how many items retrieval hands to the ranker.
        quotas: how many of them each source may bring (`candidates.SOURCES`); chosen by validation
            where None.
        value_weights: the published weighted sum of the heads that the list is ordered by; see
            `training.value.value_weights` for None.

    Raises:
        ValueError: all weights are 0.
    """

    n_candidates: int = 500
    quotas: Mapping[str, int] | None = None
    stage_one: StageOneSettings = field(default_factory=StageOneSettings)
    ranker: RankerSettings = field(default_factory=RankerSettings)
    value_weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        weights = self.value_weights
        if weights is not None and not any(weights.values()):
            raise ValueError(
                f"value_weights: {weights} would put a list in no order; give a head more than 0"
            )


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
        actions: heads that learned from impressions; None where the log has none to learn from.
        likes_held: P(like) of rows that were not learned from; None where the log has no ratings.
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
    actions: TrainedActions | None
    likes_held: HeldOut | None
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
        DataError: train can't be cut again, a label that has a weight can't be learned, or the
            model does not fit into memory.
        ConfigError: a weight is for no head.
    """
    clock = _Clock(report)
    settings = replace(settings, value_weights=value_weights(settings.value_weights, dataset))
    features = side_features(dataset, split)
    clock.start("choose retrieval")
    chosen = choose_stage_one(split, features, settings.stage_one, seed=seed)
    neighbour = choose_neighbour(chosen)
    clock.start("candidates for the ranker")
    inner = chosen.inner
    sources = Sources.of(chosen.tried().scorer(inner.known), neighbour, inner)
    quotas = settings.quotas or choose_quotas(sources, chosen.asked, settings.n_candidates)
    inner_lists = candidate_lists(inner, sources, features, dataset.like_at, quotas, seed=seed)
    lists = lists_to_learn(
        split, features, chosen, dataset.like_at, quotas,
        neighbour=neighbour, inner_lists=inner_lists, seed=seed,
    )  # fmt: skip
    actions = None
    if dataset.labels:
        clock.start("learn from what was shown")
        actions = train_actions(
            dataset, inner, features, chosen.tried(), neighbour,
            until_s=asked_from_s(split), seed=seed,
        )  # fmt: skip
        require_heads(dataset, split, settings.value_weights, actions)
    clock.start("choose ranker features")
    at_least = least_gain_se(split, chosen.settings)
    asked = some_lists(inner_lists)
    ranker_settings, said = with_chosen_features(
        lists, settings.ranker, asked=asked, least_gain_se=at_least, seed=seed
    )
    more_hits = log_more_hits(inner_lists, lists)
    settings = replace(settings, stage_one=chosen.settings, ranker=ranker_settings, quotas=quotas)
    pair = _fit_on_train(
        dataset, split, features, lists, clock, settings=settings,
        log_more_hits=more_hits,
        neighbour=neighbour, curves=chosen.curves, actions=actions, seed=seed,
    )  # fmt: skip
    clock.start("calibrate")
    held = {} if said is None else {ENGAGED: engagement_said(asked, said + more_hits)}
    likes = None
    if dataset.like_at is not None:
        held[LIKED] = likes = _likes_held_out(pair, inner, dataset.like_at, seed=seed)
    if actions is not None:
        held |= actions.held
    clock.stop()
    return replace(pair, likes_held=likes, calibration=calibrators(held, pair.calibration))


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
    the test part, proposes for it. What `pair` says of the test part calibrates it; of ratings that
    were left out at random, what was said before of those of train counts too.
    """
    clock = _Clock(report)
    clock.start("candidates for the ranker")
    assert pair.settings.quotas is not None
    tested = candidate_lists(
        pair.split, pair.sources, pair.features, dataset.like_at, pair.settings.quotas, seed=seed
    )
    # Lists out of fold are as good as these, and the head that was measured stays as it is.
    is_folded = may_fold(pair.split, pair.settings.stage_one)
    learned = pair.lists.items.shape[1]
    lists = pair.lists if is_folded else pair.lists.joined(tested.first(learned))
    split = pair.split
    whole = split.known.concat(split.test)
    nothing = whole.take(np.arange(0))
    everything = replace(split, train=whole, history=nothing, test=nothing)
    held = {ENGAGED: engagement_of(pair.ranker, tested)}
    rated = rated_rows(split.test, dataset.like_at)
    if rated is not None and dataset.like_at is not None:
        held[LIKED] = likes_of(pair.ranker, pair.states, rated, dataset.like_at)
        if is_folded and pair.likes_held is not None:
            held[LIKED] = held[LIKED].joined(pair.likes_held)
    actions = None
    if pair.actions is not None:
        clock.start("learn from what was shown")
        actions = train_actions(
            dataset, split, pair.features, pair.tower, pair.sources.neighbour, seed=seed
        )
        held |= actions.held if actions is not None else {}
    refitted = _fit_on_train(
        dataset, everything, side_features(dataset, everything), lists, clock,
        settings=pair.settings, log_more_hits=pair.log_more_hits,
        neighbour=pair.sources.neighbour, curves=pair.tower.curves, actions=actions,
        head_of=pair.ranker if is_folded else None, seed=seed,
    )  # fmt: skip
    return replace(refitted, calibration=calibrators(held, pair.calibration))


def _fit_on_train(
    dataset: Dataset,
    split: Split,
    features: SideFeatures,
    lists: CandidateLists,
    clock: "_Clock",
    *,
    settings: TwoStageSettings,
    log_more_hits: float,
    neighbour: Neighbour | None,
    curves: dict[str, list[float]],
    actions: TrainedActions | None,
    head_of: FittedRanker | None = None,
    seed: int,
) -> TwoStage:
    clock.start("fit retrieval")
    fitted = fit_stage_one(split.train, features, settings=settings.stage_one, seed=seed)
    tower = replace(fitted, curves=curves)
    sources = Sources.of(tower.scorer(split.known), fitted_again(neighbour, split), split)
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
        actions=as_asked(dataset, split, tower, actions),
        head_of=head_of,
        seed=seed,
    )
    clock.stop()
    states = UserStates.of(split.known, features.user_bag, space.scale)
    return TwoStage(
        split, features, settings, tower, sources, ranker, states, lists, log_more_hits,
        actions, None, calibrators({}, settings.value_weights or ()), clock.seconds,
    )  # fmt: skip


def _likes_held_out(pair: TwoStage, inner: Split, like_at: float, *, seed: int) -> HeldOut:
    """P(like) of rows that the ranker has not learned from, as near to the test as any."""
    found = likes_of_history(pair.split, pair.ranker, pair.features, like_at, seed=seed)
    if found is not None:
        return found
    cuts: Iterable[Split] = (inner,)
    if may_fold(pair.split, pair.settings.stage_one):
        cuts = fold_splits(pair.split, n_folds=_N_LIKE_FOLDS, seed=seed)
    return likes_of_cuts(cuts, pair.features, like_at, settings=pair.settings.ranker, seed=seed)


def rated_rows(events: Interactions, like_at: float | None) -> Interactions | None:
    """The events that carry a rating; None where the log has none."""
    if like_at is None:
        return None
    return events.take(np.isfinite(events.value))


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
