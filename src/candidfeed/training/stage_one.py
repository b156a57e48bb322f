"""Stage one: which model suits the size of a catalogue, its choice on a part of train, its fit."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split, inner_split
from candidfeed.retrieval.large.training import FittedLarge, LargeScorer, LargeSettings, fit_large
from candidfeed.retrieval.training import (
    FittedTower,
    TowerScorer,
    TowerSettings,
    choose_closed,
    fit_tower,
)
from candidfeed.retrieval.validation import Asked
from candidfeed.training.side_features import SideFeatures

# The full softmax over more items than this takes too long, and so do several closed forms.
MAX_FULL_SOFTMAX_ITEMS = 60_000

Fitted = FittedTower | FittedLarge
Scorer = TowerScorer | LargeScorer
Report = Callable[[str], None]


@dataclass(frozen=True)
class StageOneSettings:
    """Settings of the two models, of which the size of the catalogue takes one.

    Attributes:
        tower: up to MAX_FULL_SOFTMAX_ITEMS items.
        large: above.
    """

    tower: TowerSettings = field(default_factory=TowerSettings)
    large: LargeSettings = field(default_factory=LargeSettings)


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


def is_large(train: Interactions) -> bool:
    return train.n_items > MAX_FULL_SOFTMAX_ITEMS


def choose_stage_one(
    split: Split,
    features: SideFeatures,
    settings: StageOneSettings,
    *,
    seed: int,
    report: Report = lambda _step: None,
) -> Chosen:
    """Choose all settings on a cut of train.

    Raises:
        DataError: train can't be cut again.
    """
    inner = inner_split(split, seed=seed)
    asked = Asked(inner.known, inner.test)
    if not is_large(split.train):
        closed = choose_closed(inner.train, features.item_bag, asked, seed=seed)
        tower = replace(settings.tower, closed=closed)
        if not features.any_known:
            # All that is left to learn are ids, and the closed forms hold those (docs/log.md).
            tower = replace(tower, n_epochs=0)
        settings = replace(settings, tower=tower)
    fit = partial(fit_stage_one, inner.train, features, settings, seed=seed)
    if not is_large(split.train) and settings.tower.n_epochs == 0:
        return Chosen(inner, asked, settings, fit, curves={})
    tried = fit(asked=asked, report=report)
    return Chosen(inner, asked, _as_fitted(settings, tried), lambda: tried, tried.curves)


def fit_stage_one(
    train: Interactions,
    features: SideFeatures,
    settings: StageOneSettings,
    *,
    seed: int,
    asked: Asked | None = None,
    report: Report = lambda _step: None,
) -> Fitted:
    """Fit on `train`; with `asked`, stop early and keep the best epoch's weights."""
    known = {
        "user_bag": features.user_bag,
        "item_bag": features.item_bag,
        "n_user_ids": features.user_map.n_ids,
        "n_item_ids": features.item_map.n_ids,
    }
    if is_large(train):
        return fit_large(
            train, **known, settings=settings.large, seed=seed, validation=asked, report=report
        )
    return fit_tower(train, **known, settings=settings.tower, seed=seed, validation=asked)


def _as_fitted(settings: StageOneSettings, fitted: Fitted) -> StageOneSettings:
    if isinstance(fitted, FittedLarge):
        return replace(settings, large=fitted.settings)
    return replace(settings, tower=fitted.settings)
