"""Which model of stage one a catalogue gets."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from candidfeed.data.splits import Split
from candidfeed.data.tables import Dataset
from candidfeed.retrieval.large.training import FittedLarge
from candidfeed.retrieval.training import FittedTower
from candidfeed.retrieval.validation import Ranked
from candidfeed.training import stage_one
from candidfeed.training.side_features import side_features
from candidfeed.training.stage_one import StageOneSettings, choose_stage_one, fit_stage_one
from candidfeed.training.two_stage import TwoStageSettings

SEED = 7


@pytest.fixture
def settings(brief: TwoStageSettings) -> StageOneSettings:
    return replace(brief.stage_one, large=replace(brief.stage_one.large, dim=8, n_epochs=1))


@pytest.mark.parametrize("is_large_better", [False, True])
def test_of_a_middling_catalogue_the_model_that_ranks_a_validation_part_better_is_taken(
    is_large_better: bool,
    tiny: Dataset,
    split: Split,
    settings: StageOneSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rank(scores: Callable[..., Any], asked: object) -> Ranked:
        is_large = isinstance(getattr(scores, "__self__", None), stage_one.LargeScorer)
        return Ranked(0.2 if is_large == is_large_better else 0.1, 0.0, 0.0)

    monkeypatch.setattr(stage_one, "MAX_FULL_SOFTMAX_ITEMS", 39)
    monkeypatch.setattr(stage_one, "rank", rank)
    features = side_features(tiny, split)
    chosen = choose_stage_one(split, features, settings, seed=SEED)
    assert chosen.settings.is_large is is_large_better
    kind = FittedLarge if is_large_better else FittedTower
    assert isinstance(chosen.tried(), kind)
    fitted = fit_stage_one(split.train, features, settings=chosen.settings, seed=SEED)
    assert isinstance(fitted, kind)
    # Above the limit nothing is learned on top of the closed forms.
    assert is_large_better or chosen.settings.tower.n_epochs == 0


def test_a_small_catalogue_and_one_without_times_or_features_get_closed_forms(
    tiny: Dataset, split: Split, settings: StageOneSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = side_features(tiny, split)
    assert choose_stage_one(split, features, settings, seed=SEED).settings.is_large is False
    monkeypatch.setattr(stage_one, "MAX_FULL_SOFTMAX_ITEMS", 39)
    unknown = np.full(len(split.train), np.nan)
    bare_split = replace(split, protocol="random", train=replace(split.train, time_s=unknown))
    bare = replace(tiny, item_features=(), user_features=())
    features = side_features(bare, bare_split)
    chosen = choose_stage_one(bare_split, features, settings, seed=SEED)
    assert chosen.settings.is_large is False
    assert chosen.curves == {}


def test_what_is_asked_for_is_taken(
    tiny: Dataset, split: Split, settings: StageOneSettings
) -> None:
    asked_for = replace(settings, is_large=True)
    chosen = choose_stage_one(split, side_features(tiny, split), asked_for, seed=SEED)
    assert isinstance(chosen.tried(), FittedLarge)
    assert chosen.settings.large.n_epochs in (0, 1)
