"""Stage one: which model suits the size of a catalogue, its choice on a part of train, its fit."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial

import numpy as np

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split, inner_split
from candidfeed.retrieval.large.resume import Resume
from candidfeed.retrieval.large.training import FittedLarge, LargeScorer, LargeSettings, fit_large
from candidfeed.retrieval.training import (
    FittedTower,
    TowerScorer,
    TowerSettings,
    choose_closed,
    fit_tower,
)
from candidfeed.retrieval.validation import Asked, rank
from candidfeed.training.side_features import SideFeatures

# Up to here closed forms are trained on by a full softmax; above, the history tower is what learns.
MAX_FULL_SOFTMAX_ITEMS = 6_000
# Choosing among closed forms takes too long above this.
MAX_CLOSED_ITEMS = 60_000
# What learning gains by less than this share is noise, and the closed forms are simpler.
_MIN_GAIN = 0.005

Fitted = FittedTower | FittedLarge
Scorer = TowerScorer | LargeScorer
Report = Callable[[str], None]


@dataclass(frozen=True)
class StageOneSettings:
    """Settings of the two models.

    Attributes:
        tower: of the closed forms, and of what is learned on top of them.
        large: of the history tower.
        is_large: whether the history tower is taken; by the catalogue's size and a validation part
            where None.
        resume: where the history tower's training goes on when it was killed; what it ends with
            does not depend on it.
    """

    tower: TowerSettings = field(default_factory=TowerSettings)
    large: LargeSettings = field(default_factory=LargeSettings)
    is_large: bool | None = None
    resume: Resume | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Chosen:
    """What was chosen on the inner cut of train.

    Attributes:
        inner: the cut.
        asked: its test part.
        settings: with the number of epochs that was best.
        tried: makes the model of these settings, fitted on the inner train.
        curves: of its training; empty where there was none.
    """

    inner: Split
    asked: Asked
    settings: StageOneSettings
    tried: Callable[[], Fitted]
    curves: dict[str, list[float]]


def choose_stage_one(
    split: Split,
    features: SideFeatures,
    settings: StageOneSettings,
    *,
    seed: int,
    report: Report = lambda _step: None,
) -> Chosen:
    """Choose the model and all of its settings on a cut of train.

    Raises:
        DataError: train can't be cut again, or the model does not fit into memory.
    """
    inner = inner_split(split, seed=seed)

    def choose(is_large: bool) -> Chosen:
        one = replace(settings, is_large=is_large)
        return _choose_settings(inner, features, one, seed=seed, report=report)

    wanted = _model_by_size(inner, features) if settings.is_large is None else settings.is_large
    if wanted is not None:
        return choose(is_large=wanted)
    closed, large = choose(is_large=False), choose(is_large=True)
    return large if _worth(large) > _worth(closed) * (1 + _MIN_GAIN) else closed


def _model_by_size(inner: Split, features: SideFeatures) -> bool | None:
    """Whether the history tower is taken; None where both are worth a trial."""
    if len(inner.items) > MAX_CLOSED_ITEMS:
        return True
    has_times = bool(np.isfinite(inner.train.time_s).any())
    # Of ids alone there is nothing to be learned that the closed forms do not hold (docs/log.md).
    can_learn = features.any_known or has_times
    return None if can_learn and len(inner.items) > MAX_FULL_SOFTMAX_ITEMS else False


def _worth(chosen: Chosen) -> float:
    scorer = chosen.tried().scorer(chosen.inner.known)
    return rank(scorer.scores, chosen.asked).worth


def _choose_settings(
    inner: Split,
    features: SideFeatures,
    settings: StageOneSettings,
    *,
    seed: int,
    report: Report,
) -> Chosen:
    """The settings of the model that `settings` name."""
    asked = Asked(inner.known, inner.test)
    fit = partial(fit_stage_one, inner.train, features, seed=seed)
    if settings.is_large:
        fitted = fit(settings=settings, asked=asked, report=report)
        settings = replace(settings, large=fitted.settings)
        return Chosen(inner, asked, settings, lambda: fitted, fitted.curves)
    closed = choose_closed(inner.train, features.item_bag, asked, seed=seed)
    tower = replace(settings.tower, closed=closed)
    if not features.any_known or len(inner.items) > MAX_FULL_SOFTMAX_ITEMS:
        settings = replace(settings, tower=replace(tower, n_epochs=0))
        return Chosen(inner, asked, settings, cache(partial(fit, settings=settings)), curves={})
    fitted = fit(settings=replace(settings, tower=tower), asked=asked, report=report)
    settings = replace(settings, tower=fitted.settings)
    return Chosen(inner, asked, settings, lambda: fitted, fitted.curves)


def fit_stage_one(
    train: Interactions,
    features: SideFeatures,
    *,
    settings: StageOneSettings,
    seed: int,
    asked: Asked | None = None,
    report: Report = lambda _step: None,
) -> Fitted:
    """Fit the model that `settings` name on `train`.

    With `asked`, stop early and keep the best epoch's weights.
    """
    known = {
        "user_bag": features.user_bag,
        "item_bag": features.item_bag,
        "n_user_ids": features.user_map.n_ids,
        "n_item_ids": features.item_map.n_ids,
    }
    if settings.is_large:
        return fit_large(
            train, **known, settings=settings.large, seed=seed, validation=asked, report=report,
            resume=settings.resume,
        )  # fmt: skip
    return fit_tower(train, **known, settings=settings.tower, seed=seed, validation=asked)
