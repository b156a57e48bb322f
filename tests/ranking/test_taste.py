"""Ratings as distributions over levels: the ordinal head and its loss."""

import numpy as np
import pytest

from candidfeed.ranking.taste import OrdinalHead, RatingLoss, expected_rating, median_rating

SHARES = [0.1, 0.3, 0.4, 0.2]


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.2, 0.8], SHARES, [0.05] * 20])
def test_the_ordinal_head_begins_at_the_shares_and_rises_with_utility(shares: list[float]) -> None:
    head = OrdinalHead(shares)
    head.build()
    utility = np.linspace(-4, 4, 9, dtype=np.float32)[:, None]
    p_level = np.asarray(head(utility))
    np.testing.assert_allclose(p_level[4], shares, atol=1e-5)
    np.testing.assert_allclose(p_level.sum(axis=1), 1, atol=1e-5)
    assert (p_level >= 0).all()
    at_most = np.cumsum(p_level, axis=1)[:, :-1]
    assert (np.diff(at_most, axis=0) < 0).all()


def test_the_ordinal_head_averages_probabilities_over_members() -> None:
    head = OrdinalHead(SHARES)
    head.build()
    apart = np.asarray(head(np.array([[-1.0], [2.0]], np.float32)))
    together = np.asarray(head(np.array([[-1.0, 2.0]], np.float32)))
    np.testing.assert_allclose(together[0], apart.mean(axis=0), atol=1e-6)


def test_mean_and_median_of_a_distribution() -> None:
    levels = np.array([1, 2, 5], np.float32)
    p_level = np.array([[0.2, 0.2, 0.6], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])
    assert expected_rating(p_level, levels).tolist() == pytest.approx([3.6, 2.25, 2.5])
    assert median_rating(p_level, levels).tolist() == [5, 1, 2]


def test_the_rating_loss_is_the_mean_over_the_known_ratings_of_the_batch() -> None:
    y_true = np.array([[0, 1, -1], [1, -1, -1]], np.int32)
    p_level = np.array([[[0.5, 0.5], [0.2, 0.8], [1, 0]], [[0.9, 0.1], [1, 0], [1, 0]]], np.float32)
    expected = -np.log([0.5, 0.8, 0.1]).mean()
    assert float(RatingLoss()(y_true, p_level)) == pytest.approx(expected, rel=1e-5)
    nothing = np.full((2, 3), -1, np.int32)
    assert float(RatingLoss()(nothing, p_level)) == 0.0
