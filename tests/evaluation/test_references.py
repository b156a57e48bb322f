"""LightGBM and myFM beside our own models: same lists, same candidates, same rows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from candidfeed.evaluation.references import ranking_references, rating_references
from candidfeed.evaluation.report import RERANKERS
from candidfeed.training.scorers import TwoStageScorer
from candidfeed.training.two_stage import TwoStage, rated_rows


@pytest.fixture(scope="module")
def pair(tiny_parts: dict[str, Any]) -> TwoStage:
    return tiny_parts["evaluate_once"].pair


def test_they_order_the_very_candidates_of_the_two_stage_list(pair: TwoStage) -> None:
    users = np.unique(pair.split.test.user).astype(np.int32)
    ours = TwoStageScorer(pair).scores(users)
    references = ranking_references(pair, seed=0)
    assert tuple(references) == RERANKERS
    for scorer, seconds in references.values():
        theirs = scorer.scores(users)
        np.testing.assert_array_equal(theirs > 0, ours > 0)
        # What is no candidate stands in retrieval's order, as in ours.
        np.testing.assert_array_equal(theirs[ours <= 0], ours[ours <= 0])
        assert scorer.settings["n_trees"] >= 1
        assert seconds > 0


def test_with_too_few_lists_to_hold_some_out_there_is_no_boosted_reference(pair: TwoStage) -> None:
    lists = pair.lists
    two = replace(
        lists, user=lists.user[:2], items=lists.items[:2], dense=lists.dense[:2],
        engaged=lists.engaged[:2],
    )  # fmt: skip
    assert ranking_references(replace(pair, lists=two), seed=0) == {}


def test_each_rated_row_of_test_gets_a_rating_of_the_scale(pair: TwoStage) -> None:
    asked = rated_rows(pair.split.test, 4.0)
    assert asked is not None
    found = rating_references(pair, asked, 4.0, seed=0)
    assert list(found) == ["myfm-normal", "myfm-probit"]
    for each in found.values():
        assert each.mean.shape == each.median.shape == (len(asked),)
        assert (each.mean >= 1).all()
        assert (each.mean <= 5).all()
        # Users like one half of the items: what is said must follow what they gave.
        assert np.corrcoef(each.mean, asked.value)[0, 1] > 0.3


def test_a_log_without_ratings_has_no_rating_reference(pair: TwoStage) -> None:
    train = pair.split.train
    bare = replace(train, value=np.full(len(train), np.nan, np.float32))
    without = replace(pair, split=replace(pair.split, train=bare))
    assert rating_references(without, pair.split.test, 4.0, seed=0) == {}
