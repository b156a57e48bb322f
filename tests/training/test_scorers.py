"""What the evaluation asks: the served order, ranking everything, and ratings in row order."""

from dataclasses import replace

import numpy as np

from candidfeed.data.splits import Split
from candidfeed.ranking.inputs import ranker_inputs
from candidfeed.training.candidates import dense_of
from candidfeed.training.predictions import USERS_AT_ONCE, candidate_heads
from candidfeed.training.scorers import (
    RankEverything,
    TwoStageScorer,
    predict_ratings,
    value_of,
)
from candidfeed.training.two_stage import TwoStage


def everyone(split: Split) -> np.ndarray:
    return np.arange(len(split.users), dtype=np.int32)


def test_candidates_lie_above_all_others_which_keep_retrievals_order(
    pair: TwoStage, split: Split
) -> None:
    users = everyone(split)
    scores, tower = TwoStageScorer(pair).scores(users), pair.sources.tower.scores(users)
    assert pair.settings.quotas is not None
    proposed = pair.sources.propose(users, pair.settings.quotas).items
    for row, user in enumerate(users):
        own = proposed[row][proposed[row] < len(split.items)]
        others = np.setdiff1d(np.arange(len(split.items)), own)
        assert (scores[row, own] > 0).all()
        assert (scores[row, others] <= -1).all()
        known = split.known.matrix[user].indices
        assert (scores[row, known] < 0).all()
        # Up to what float32 can't tell apart.
        order = others[np.argsort(tower[row, others])]
        assert (np.diff(scores[row, order]) >= 0).all()


def test_candidates_have_the_value_that_they_have_when_everything_is_ranked(
    pair: TwoStage, split: Split
) -> None:
    users = everyone(split)
    scores, values = TwoStageScorer(pair).scores(users), RankEverything(pair).scores(users)
    assert values.shape == (len(users), len(split.items))
    assert (values > 0).all()
    np.testing.assert_allclose(scores[scores > 0], values[scores > 0], atol=1e-5)


def test_a_users_scores_do_not_depend_on_who_else_is_asked(pair: TwoStage, split: Split) -> None:
    users = everyone(split)
    for scorer in (TwoStageScorer(pair), RankEverything(pair)):
        together = scorer.scores(users)
        np.testing.assert_array_equal(scorer.scores(users[::-1]), together[::-1])
        np.testing.assert_array_equal(scorer.scores(users[5:6]), together[5:6])


def test_a_value_of_engagement_alone_is_the_one_that_all_heads_would_give(
    pair: TwoStage, split: Split
) -> None:
    weights = {"engaged": 2.0, "liked": 0.0}
    alone = replace(pair, settings=replace(pair.settings, value_weights=weights))
    users = everyone(split)[:USERS_AT_ONCE]
    found = alone.sources.everything(users)
    dense = dense_of(alone.ranker.space, alone.states.take(users), found)
    heads = candidate_heads(alone.ranker, alone.states, users, found.items, dense)
    values = RankEverything(alone).scores(users)
    np.testing.assert_allclose(values, value_of(alone, heads), atol=1e-5)


def test_the_value_is_the_weighted_sum_of_both_probabilities(pair: TwoStage) -> None:
    liked = pair.ranker.space.scale.liked
    assert liked.tolist() == [False, False, False, True, True]
    heads = {
        "engaged": np.array([[0.0, np.log(3)]], np.float32),
        "rating": np.array([[[0, 0, 0, 0.5, 0.25], [1, 0, 0, 0, 0]]], np.float32),
    }
    weighted = replace(
        pair, settings=replace(pair.settings, value_weights={"engaged": 2.0, "liked": 4.0})
    )
    np.testing.assert_allclose(value_of(weighted, heads), [[1 + 3, 1.5]], rtol=1e-6)


def test_ratings_come_in_the_order_of_the_rows(pair: TwoStage, split: Split) -> None:
    asked = split.test
    order = np.random.default_rng(0).permutation(len(asked))
    straight, shuffled = predict_ratings(pair, asked), predict_ratings(pair, asked.take(order))
    for name in ("mean", "median", "p_like"):
        found = getattr(straight, name)
        assert found.shape == (len(asked),)
        np.testing.assert_allclose(getattr(shuffled, name), found[order], atol=1e-5)
    levels = pair.ranker.space.scale.levels
    assert np.isin(straight.median, levels).all()
    assert straight.mean.min() >= levels[0]
    assert straight.mean.max() <= levels[-1]


def test_a_rating_is_that_of_the_pair_at_its_own_time(pair: TwoStage, split: Split) -> None:
    asked = split.test.take(np.arange(3))
    predicted = predict_ratings(pair, asked)
    space = pair.ranker.space
    state = pair.states.take(asked.user)
    items = asked.item[:, None]
    dense = np.zeros((3, 1, pair.lists.dense.shape[-1]), np.float32)
    inputs = ranker_inputs(space, state, items, dense, time_s=asked.time_s[:, None])
    p_level = np.asarray(pair.ranker.model.predict_on_batch(inputs)["rating"])[:, 0]
    np.testing.assert_allclose(predicted.mean, p_level @ space.scale.levels, atol=1e-5)
    liked = p_level[:, space.scale.liked].sum(axis=1)
    np.testing.assert_allclose(predicted.p_like, liked, atol=1e-5)
