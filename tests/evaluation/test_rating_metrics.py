"""Rating and probability metrics against scikit-learn and slow loops."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from sklearn import metrics

from candidfeed.evaluation.rating_metrics import (
    N_BINS,
    equal_mass_bins,
    evaluate_likes,
    evaluate_ratings,
)


def value(figures):
    return {name: figure.value() for name, figure in figures.items()}


def random_likes(rng, n, n_levels):
    user = rng.integers(0, 30, size=n)
    p_like = (rng.integers(0, n_levels, size=n) + 0.5) / n_levels
    liked = rng.random(n) < p_like**2
    return user, liked, p_like


def with_both_classes(liked):
    liked[:2] = [True, False]
    return liked


def test_rating_errors_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    rating = rng.integers(1, 6, size=500).astype(np.float32)
    predicted = (rating + rng.normal(size=500)).astype(np.float32)
    found = value(evaluate_ratings(rng.integers(0, 40, 500), rating, predicted))
    assert found["mse"] == pytest.approx(metrics.mean_squared_error(rating, predicted), rel=1e-6)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(rating, predicted), rel=1e-6)
    assert found["rmse"] == pytest.approx(found["mse"] ** 0.5)


def test_rating_errors_by_hand():
    found = value(
        evaluate_ratings(np.array([7, 7, 2]), np.array([5.0, 3, 1]), np.array([4.0, 3, 3]))
    )
    assert found == pytest.approx({"mse": 5 / 3, "rmse": (5 / 3) ** 0.5, "mae": 1.0})


def test_rating_errors_resampled_are_those_of_the_repeated_rows():
    user = np.array([0, 0, 4, 9])
    rating, predicted = np.array([5.0, 4, 3, 1]), np.array([4.5, 4, 1, 2])
    figures = evaluate_ratings(user, rating, predicted)
    counts = np.array([[2, 0, 1], [0, 3, 0]], dtype=np.uint8)
    for name, figure in figures.items():
        assert figure.users.tolist() == [0, 4, 9]
        for found, count in zip(figure.replicates(counts), counts, strict=True):
            rows = np.repeat(np.arange(4), count[[0, 0, 1, 2]])
            again = evaluate_ratings(user[rows], rating[rows], predicted[rows])
            assert found == pytest.approx(again[name].value())


def test_a_broken_prediction_leaves_the_figures_undefined():
    user, predicted = np.array([0, 1]), np.array([np.nan, 0.5])
    found = value(evaluate_ratings(user, np.array([1.0, 2]), predicted))
    found |= value(evaluate_likes(user, np.array([True, False]), predicted))
    assert len(found) == 7
    assert all(np.isnan(error) for error in found.values())


def test_no_rows_leave_the_figures_undefined():
    empty = np.array([])
    found = value(evaluate_ratings(empty.astype(int), empty, empty))
    found |= value(evaluate_likes(empty.astype(int), empty.astype(bool), empty))
    assert len(found) == 7
    assert all(np.isnan(error) for error in found.values())


@pytest.mark.parametrize("n_levels", [1, 3, 50, 10**6])
def test_auc_is_that_of_scikit_learn_with_and_without_ties(n_levels):
    user, liked, p_like = random_likes(np.random.default_rng(n_levels), 700, n_levels)
    found = evaluate_likes(user, with_both_classes(liked), p_like)["auc"].value()
    assert found == pytest.approx(metrics.roc_auc_score(liked, p_like), abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 10, 10**6]))
def test_auc_resampled_is_the_weighted_auc_of_scikit_learn(seed, n_levels):
    rng = np.random.default_rng(seed)
    user, liked, p_like = random_likes(rng, 60, n_levels)
    figure = evaluate_likes(user, with_both_classes(liked), p_like)["auc"]
    counts = rng.integers(0, 3, size=(4, len(figure.users))).astype(np.uint8)
    for found, count in zip(figure.replicates(counts), counts, strict=True):
        weight = count[np.searchsorted(figure.users, user)]
        if weight[liked].any() and weight[~liked].any():
            wanted = metrics.roc_auc_score(liked, p_like, sample_weight=weight)
            assert found == pytest.approx(wanted, abs=1e-12)
        else:
            assert np.isnan(found)


@pytest.mark.parametrize("liked", [True, False])
def test_auc_is_undefined_where_all_or_none_are_liked(liked):
    found = value(evaluate_likes(np.arange(3), np.full(3, liked), np.array([0.1, 0.5, 0.9])))
    assert np.isnan(found["auc"])
    assert np.isfinite(found["logloss"])
    assert np.isfinite(found["ece"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logloss_is_that_of_scikit_learn_also_where_a_model_is_sure(dtype):
    rng = np.random.default_rng(2)
    user, liked, p_like = random_likes(rng, 300, 10**6)
    p_like[:4] = [0, 1, 0, 1]
    liked[:4] = [False, False, True, True]
    p_like = p_like.astype(dtype)
    found = evaluate_likes(user, liked, p_like)["logloss"].value()
    assert found == pytest.approx(metrics.log_loss(liked, p_like), rel=1e-5)


def test_the_brier_score_is_that_of_scikit_learn():
    user, liked, p_like = random_likes(np.random.default_rng(3), 300, 10**6)
    found = evaluate_likes(user, liked, p_like)["brier"].value()
    assert found == pytest.approx(metrics.brier_score_loss(liked, p_like))


def slow_ece(liked, p_like):
    """Rows in order, cut into bins by place; equal probabilities go where their mean place is."""
    order = np.argsort(p_like, kind="stable")
    n = len(order)
    bins = {}
    for row in order:
        places = [place for place in range(n) if p_like[order[place]] == p_like[row]]
        middle = sum(places) / len(places) + 0.5
        bins.setdefault(int(N_BINS * middle / n), []).append(row)
    gaps = [len(b) / n * abs(np.mean(p_like[b]) - np.mean(liked[b])) for b in bins.values()]
    return sum(gaps)


@pytest.mark.parametrize(
    ("n", "n_levels"), [(300, 10**6), (301, 10**6), (200, 7), (8, 100), (50, 1)]
)
def test_ece_is_that_of_a_slow_loop(n, n_levels):
    user, liked, p_like = random_likes(np.random.default_rng(n), n, n_levels)
    found = evaluate_likes(user, liked, p_like)["ece"].value()
    assert found == pytest.approx(slow_ece(liked, p_like), abs=1e-12)


def test_bins_have_equal_numbers_of_rows_where_no_predictions_tie():
    p_like = np.random.default_rng(3).permutation(N_BINS * 20) / 1000
    assert np.bincount(equal_mass_bins(p_like)).tolist() == [20] * N_BINS
    assert set(np.bincount(equal_mass_bins(p_like[:-7]))) == {19, 20}


def test_equal_predictions_share_a_bin_and_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(4)
    p_like = rng.integers(0, 25, size=400) / 25
    bins = equal_mass_bins(p_like)
    assert all(len(set(bins[p_like == level])) == 1 for level in set(p_like))
    order = rng.permutation(400)
    np.testing.assert_array_equal(equal_mass_bins(p_like[order]), bins[order])


def test_ece_by_hand():
    # One bin, as all predictions are equal: |0.7 - 1/2|.
    likes = np.array([True, False])
    found = evaluate_likes(np.array([0, 1]), likes, np.array([0.7, 0.7]))["ece"]
    assert found.value() == pytest.approx(0.2)
    counts = np.array([[2, 0], [0, 2], [1, 1]], dtype=np.uint8)
    assert found.replicates(counts) == pytest.approx([0.3, 0.7, 0.2])


def test_a_perfectly_calibrated_model_has_no_calibration_error():
    liked = np.tile([True, False, False, False], 50)
    found = evaluate_likes(np.arange(200), liked, np.full(200, 0.25))["ece"].value()
    assert found == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    user, liked, p_like = random_likes(rng, 50, 12)
    order = rng.permutation(50)
    plain = value(evaluate_likes(user, liked, p_like))
    moved = value(evaluate_likes(user[order], liked[order], p_like[order]))
    assert moved == pytest.approx(plain, abs=1e-12, nan_ok=True)


def test_what_does_not_fit_is_refused():
    one, two = np.array([0.5]), np.array([0.5, 0.5])
    with pytest.raises(ValueError, match=r"different lengths \[1, 2, 2\]"):
        evaluate_ratings(np.array([0]), two, two)
    with pytest.raises(ValueError, match="1 are not finite"):
        evaluate_ratings(np.array([0, 1]), np.array([1.0, np.inf]), two)
    with pytest.raises(ValueError, match=r"1 probabilities lie outside \[0, 1\], the first is 1.5"):
        evaluate_likes(np.array([0]), np.array([True]), one + 1)
