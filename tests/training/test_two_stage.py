"""Both stages as one system: what they may read, what they propose, how it is labelled."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from candidfeed.data.splits import Split
from candidfeed.data.tables import Dataset
from candidfeed.retrieval.large.training import FittedLarge
from candidfeed.retrieval.neighbours import ItemKnn
from candidfeed.training import neighbour_choice, stage_one
from candidfeed.training.scorers import TwoStageScorer, predict_ratings
from candidfeed.training.two_stage import (
    TwoStage,
    TwoStageSettings,
    fit_two_stage,
    rated_rows,
)

SEED = 7


def assert_same_pair(one: TwoStage, other: TwoStage) -> None:
    for models in ((one.tower.model, other.tower.model), (one.ranker.model, other.ranker.model)):
        for a, b in zip(*(model.variables for model in models), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=a.path)
    for name in ("user", "items", "dense", "engaged"):
        np.testing.assert_array_equal(getattr(one.lists, name), getattr(other.lists, name))
    assert one.settings == other.settings


# What may be read


def test_nothing_of_the_test_part_is_read_and_one_seed_gives_the_same_bits(
    tiny: Dataset, split: Split, pair: TwoStage, tiny_settings: TwoStageSettings
) -> None:
    test = split.test
    other = replace(
        test,
        user=test.user[::-1].copy(),
        item=((test.item + 5) % len(split.items)).astype(np.int32),
        value=6 - test.value,
        time_s=test.time_s - 1e7,
    )
    again = fit_two_stage(tiny, replace(split, test=other), settings=tiny_settings, seed=SEED)
    assert_same_pair(pair, again)
    users = np.unique(test.user)
    np.testing.assert_array_equal(
        TwoStageScorer(again).scores(users), TwoStageScorer(pair).scores(users)
    )


def test_states_and_scores_read_the_history_that_is_given(pair: TwoStage, split: Split) -> None:
    assert len(split.history) > 0
    known = split.known.matrix
    states = pair.states.take(np.arange(len(split.users)))
    for user, read in enumerate(states.history):
        assert set(read[read < len(split.items)]) == set(known[user].indices)


def test_every_step_is_told_and_timed(pair: TwoStage, tiny_parts: dict[str, Any]) -> None:
    steps = tiny_parts["steps"][:6]
    assert steps == [
        "choose retrieval", "candidates for the ranker", "choose ranker features",
        "fit retrieval", "fit ranker", "calibrate",
    ]  # fmt: skip
    assert list(pair.seconds) == steps
    assert all(took > 0 for took in pair.seconds.values())


def test_the_curves_are_those_of_choosing_and_the_fit_has_as_many_epochs(pair: TwoStage) -> None:
    reached = pair.tower.curves["val_ndcg"]
    assert pair.settings.stage_one.tower.n_epochs == int(np.argmax(reached))
    assert pair.settings.ranker == pair.ranker.settings


# Ratings


def test_rated_rows_are_those_with_a_value(split: Split) -> None:
    value = split.train.value.copy()
    value[::2] = np.nan
    rated = rated_rows(replace(split.train, value=value), 4.0)
    assert rated is not None
    np.testing.assert_array_equal(rated.item, split.train.item[1::2])
    assert rated_rows(split.train, None) is None


# For the release


def test_a_refit_learns_from_every_row_and_keeps_the_settings(
    split: Split, pair: TwoStage, tiny_whole: TwoStage
) -> None:
    whole = tiny_whole  # what `refit_on_all` made of the pair
    n = len(split.train) + len(split.history) + len(split.test)
    assert (len(whole.split.train), len(whole.split.history), len(whole.split.test)) == (n, 0, 0)
    assert whole.settings == pair.settings
    assert whole.tower.curves == pair.tower.curves
    n_old = len(pair.lists)
    np.testing.assert_array_equal(whole.lists.items[:n_old], pair.lists.items)
    assert set(whole.lists.user[n_old:]) <= set(split.test.user)
    touched = whole.split.known.matrix
    assert touched.nnz == (split.known.matrix + split.test.matrix).nnz
    assert list(whole.seconds) == ["candidates for the ranker", "fit retrieval", "fit ranker"]


# Data that is hard in one way


def test_a_log_without_ratings_times_and_item_features_trains(
    bare: Dataset, fitted_on: Callable[[Dataset], TwoStage]
) -> None:
    pair = fitted_on(bare)
    assert pair.split.protocol == "random"
    scores = TwoStageScorer(pair).scores(np.arange(8, dtype=np.int32))
    assert np.isfinite(scores).all()
    assert (scores > 0).sum(axis=1).tolist() == [10] * 8


def test_three_users_train_and_item_knn_stands_in_for_ease(
    three_users: Dataset,
    fitted_on: Callable[[Dataset], TwoStage],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbour_choice, "MAX_NEIGHBOUR_ITEMS", 10)
    pair = fitted_on(three_users)
    assert isinstance(pair.sources.neighbour, ItemKnn)
    scores = TwoStageScorer(pair).scores(np.arange(3, dtype=np.int32))
    assert np.isfinite(scores).all()
    assert np.isfinite(predict_ratings(pair, pair.split.test).mean).all()


def test_a_large_catalogue_gets_the_large_model_and_no_neighbours(
    tiny: Dataset,
    split: Split,
    brief: TwoStageSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage_one, "MAX_CLOSED_ITEMS", 39)
    monkeypatch.setattr(neighbour_choice, "MAX_NEIGHBOUR_ITEMS", 39)
    monkeypatch.setattr(neighbour_choice, "MAX_KNN_ITEMS", 39)
    large = replace(brief.stage_one.large, n_epochs=1)
    settings = replace(brief, stage_one=replace(brief.stage_one, large=large))
    pair = fit_two_stage(tiny, split, settings=settings, seed=SEED)
    assert isinstance(pair.tower, FittedLarge)
    assert pair.sources.neighbour is None
    assert pair.settings.quotas is not None
    assert pair.settings.quotas["neighbours"] == 0
    scores = TwoStageScorer(pair).scores(np.arange(4, dtype=np.int32))
    assert np.isfinite(scores).all()
