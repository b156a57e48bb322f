"""Intervals and paired differences against slow loops and a case with a known answer."""

import numpy as np
import pytest
from scipy import stats

from candidfeed.evaluation import bootstrap
from candidfeed.evaluation.bootstrap import (
    Estimate,
    Resamples,
    SumFigure,
    estimates,
    holm,
    mean_over_users,
    paired_difference,
    pooled,
    root_of_ratio,
)


def rows(n):
    return np.arange(n, dtype=np.int32)


def draw(n, seed=0, **options):
    return Resamples.draw(rows(n), rng=np.random.default_rng(seed), **options)


def distance_from_zero(totals):
    """Like the calibration error: larger in a resample than in a sample that balances out."""
    return np.abs(totals[..., 0])


def percentiles(n_users):
    """The two percentiles that are as far apart as Student's 95 % of n users."""
    wide = stats.t.ppf(0.975, n_users - 1) * np.sqrt(n_users / (n_users - 1))
    return [100 * stats.norm.cdf(-wide), 100 * stats.norm.cdf(wide)]


def interval(figure, resamples):
    return estimates({"metric": [figure]}, resamples)["metric"]


def test_each_resample_draws_as_many_users_as_there_are():
    counts = draw(37, n_replicates=50).counts
    assert counts.shape == (50, 37)
    assert (counts.sum(axis=1) == 37).all()


def test_users_are_drawn_evenly_and_independently():
    counts = draw(40, n_replicates=20_000).counts.astype(float)
    # Multinomial: mean 1, variance 1 - 1/n, covariance -1/n.
    assert counts.mean(axis=0) == pytest.approx(np.ones(40), abs=0.03)
    covariance = np.cov(counts.T)
    assert covariance == pytest.approx(np.eye(40) - 1 / 40, abs=0.05)


def test_the_size_of_a_block_does_not_matter(monkeypatch):
    whole = draw(30, n_replicates=100)
    figure = mean_over_users(rows(30), np.random.default_rng(1).random(30))
    expected = interval(figure, whole)
    monkeypatch.setattr(bootstrap, "CHUNK_ELEMENTS", 70)
    parts = draw(30, n_replicates=100)
    np.testing.assert_array_equal(parts.counts, whole.counts)
    found = interval(figure, parts)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-14)


def test_intervals_are_those_of_a_slow_loop():
    rng = np.random.default_rng(2)
    n = 25
    values, squared, n_rows = rng.random(n), rng.random(n) * 3, rng.integers(1, 9, n).astype(float)
    figures = {
        "mean": [mean_over_users(rows(n), values)],
        "pooled": [pooled(rows(n), squared, n_rows)],
        "root": [pooled(rows(n), squared, n_rows, of_totals=root_of_ratio)],
    }
    resamples = draw(n, n_replicates=300)
    slow = {"mean": [], "pooled": [], "root": []}
    for counts in resamples.counts:
        users = np.repeat(np.arange(n), counts)
        slow["mean"].append(values[users].mean())
        slow["pooled"].append(squared[users].sum() / n_rows[users].sum())
        slow["root"].append(slow["pooled"][-1] ** 0.5)
    found = estimates(figures, resamples)
    for name, replicates in slow.items():
        low, high = np.percentile(replicates, percentiles(n))
        assert (found[name].low, found[name].high) == pytest.approx((low, high), rel=1e-12)
    assert found["mean"].mean == pytest.approx(values.mean())
    assert found["pooled"].mean == pytest.approx(squared.sum() / n_rows.sum())


def test_the_interval_of_a_mean_is_the_normal_one():
    rng = np.random.default_rng(3)
    values = rng.normal(5, 2, size=2000)
    found = interval(mean_over_users(rows(2000), values), draw(2000, n_replicates=4000))
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.mean - found.low == pytest.approx(half, rel=0.05)
    assert found.high - found.mean == pytest.approx(half, rel=0.05)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(4)
    resamples = draw(80, n_replicates=400)
    held = 0
    for _ in range(500):
        found = interval(mean_over_users(rows(80), rng.normal(1, 3, size=80)), resamples)
        held += found.low <= 1 <= found.high
    # 500 times 95 %, give or take two standard errors.
    assert 0.93 <= held / 500 <= 0.97


def test_the_interval_of_ten_users_is_as_wide_as_students():
    rng = np.random.default_rng(12)
    held = 0
    for seed in range(300):
        found = interval(mean_over_users(rows(10), rng.normal(1, 3, size=10)), draw(10, seed))
        held += found.low <= 1 <= found.high
    # Plain percentiles hold the truth in nine of ten cases.
    assert 0.92 <= held / 300 <= 0.98


def test_with_many_users_the_percentiles_are_the_plain_ones():
    assert bootstrap._tail(1_000_000) == pytest.approx(0.025, rel=1e-4)
    assert bootstrap._tail(2) < 1e-6


def test_rows_of_one_user_are_drawn_together():
    # Ten users with fifty equal rows each: as uncertain as ten rows, not as five hundred.
    values = np.random.default_rng(5).normal(size=10)
    together = interval(pooled(rows(10), values * 50, np.full(10, 50.0)), draw(10))
    alone = interval(mean_over_users(rows(10), values), draw(10))
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))


def test_with_one_user_the_interval_is_the_mean():
    found = interval(mean_over_users(rows(1), np.array([0.3])), draw(1))
    assert found == Estimate(0.3, 0.3, 0.3)


def test_with_equal_users_the_interval_is_the_mean():
    found = interval(mean_over_users(rows(7), np.full(7, 0.1)), draw(7))
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    assert found.low <= found.mean <= found.high


def test_what_is_not_defined_is_left_out():
    empty = mean_over_users(rows(0), np.empty(0))
    broken = mean_over_users(rows(2), np.array([np.nan, 1.0]))
    fine = mean_over_users(rows(2), np.array([2.0, 2.0]))
    found = estimates({"empty": [empty], "broken": [broken], "fine": [fine]}, draw(2))
    assert found == {"fine": Estimate(2.0, 2.0, 2.0)}


def test_resamples_in_which_a_figure_is_not_defined_are_left_out():
    # Only user 0 has rows, and in a good third of the resamples of 5 it is not drawn.
    figure = pooled(rows(1), np.array([4.0]), np.array([2.0]))
    assert interval(figure, draw(5)) == Estimate(2.0, 2.0, 2.0)


def test_nobody_to_draw_from_gives_no_estimates():
    nobody = mean_over_users(rows(0), np.empty(0))
    assert estimates({"metric": [nobody]}, draw(0)) == {}


def test_a_figure_of_some_users_is_resampled_with_the_others():
    resamples = draw(6, n_replicates=200)
    some = np.array([1, 4], dtype=np.int32)
    found = interval(mean_over_users(some, np.array([0.0, 1.0])), resamples)
    counts = resamples.counts[:, [1, 4]].astype(float)
    drawn = counts[counts.sum(axis=1) > 0]
    low, high = np.percentile(drawn[:, 1] / drawn.sum(axis=1), percentiles(2))
    assert (found.low, found.high) == pytest.approx((low, high))


@pytest.mark.parametrize("n_drawn", [2, 5, 12])
def test_users_who_were_not_there_to_be_drawn_are_refused(n_drawn):
    among_them = np.array([1, 9], dtype=np.int32)
    others = np.setdiff1d(rows(n_drawn), [9]).astype(np.int32)
    resamples = Resamples.draw(others, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="user 9 is not among those drawn"):
        interval(mean_over_users(among_them, np.ones(2)), resamples)


def test_an_interval_holds_the_mean_also_where_resamples_lie_to_one_side():
    values = np.random.default_rng(11).normal(size=(20, 1))
    balanced = SumFigure(rows(20), values - values.mean(), distance_from_zero)
    found = interval(balanced, draw(20))
    assert found.low == found.mean == balanced.value()
    assert found.high > found.mean + 1


def test_the_same_seed_gives_the_same_interval():
    figure = mean_over_users(rows(50), np.random.default_rng(6).random(50))
    assert interval(figure, draw(50, seed=9)) == interval(figure, draw(50, seed=9))
    assert interval(figure, draw(50, seed=9)) != interval(figure, draw(50, seed=10))


# Seeds


def test_seeds_give_the_mean_of_their_means():
    a = pooled(rows(2), np.array([1.0, 2.0]), np.array([2.0, 2.0]))
    b = pooled(np.array([1, 3], dtype=np.int32), np.array([3.0, 3.0]), np.array([4.0, 8.0]))
    found = estimates({"metric": [a, b]}, draw(4))["metric"]
    assert found.mean == pytest.approx((3 / 4 + 6 / 12) / 2)


def test_seeds_on_the_same_users_are_averaged_per_user_first():
    rng = np.random.default_rng(7)
    first, second = rng.random(40), rng.random(40)
    seeds = [mean_over_users(rows(40), values) for values in (first, second)]
    averaged = mean_over_users(rows(40), (first + second) / 2)
    found = estimates({"metric": seeds}, draw(40))["metric"]
    expected = interval(averaged, draw(40))
    assert (found.mean, found.low, found.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )


# Differences


def test_a_paired_difference_is_that_of_the_users_differences():
    rng = np.random.default_rng(8)
    a, b = rng.random(60), rng.random(60)
    found = paired_difference(
        [mean_over_users(rows(60), a)], [mean_over_users(rows(60), b)], draw(60)
    )
    expected = interval(mean_over_users(rows(60), a - b), draw(60))
    assert (found.mean, found.low, found.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )


def test_pairing_shows_a_small_steady_gain_that_the_intervals_hide():
    values = np.random.default_rng(9).random(100)
    better = mean_over_users(rows(100), values + 0.01)
    plain = mean_over_users(rows(100), values)
    found = paired_difference([better], [plain], draw(100))
    assert (found.low, found.mean, found.high) == pytest.approx((0.01, 0.01, 0.01))
    assert interval(better, draw(100)).low < interval(plain, draw(100)).mean


def test_the_p_of_a_difference_is_that_of_students_paired_test():
    rng = np.random.default_rng(13)
    a, b = rng.normal(0.3, 1, 50), rng.normal(0, 1, 50)
    found = paired_difference(
        [mean_over_users(rows(50), a)], [mean_over_users(rows(50), b)], draw(50, n_replicates=4000)
    )
    assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=0.15)


def test_two_users_cannot_make_a_difference_significant_by_chance():
    a, b = mean_over_users(rows(2), np.array([0.9, 0.8])), mean_over_users(rows(2), np.zeros(2))
    assert paired_difference([a], [b], draw(2)).p > 0.03
    one = mean_over_users(rows(1), np.ones(1))
    assert paired_difference([one], [mean_over_users(rows(1), np.zeros(1))], draw(1)).p == 1.0


def test_holm_multiplies_the_smallest_p_by_the_number_of_comparisons_and_so_on():
    # 4 of .01, 3 of .02, 2 of .03 as much as the one before it, and .5 itself.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_model_does_not_differ_from_itself():
    figure = pooled(rows(30), np.random.default_rng(10).random(30), np.arange(1.0, 31))
    found = paired_difference([figure], [figure], draw(30))
    assert (found.mean, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-15)
    assert found.p == 1.0


def test_a_difference_to_an_undefined_figure_is_none():
    broken = mean_over_users(rows(2), np.array([np.nan, 1.0]))
    assert paired_difference([broken], [mean_over_users(rows(2), np.ones(2))], draw(2)) is None


def test_models_that_were_asked_for_other_users_are_not_compared():
    a, b = mean_over_users(rows(2), np.ones(2)), mean_over_users(rows(3), np.ones(3))
    with pytest.raises(ValueError, match="not asked for the same users"):
        paired_difference([a], [b], draw(3))
    with pytest.raises(ValueError, match="2 seeds against 1"):
        paired_difference([a, a], [a], draw(3))


def test_no_replicates_are_refused():
    with pytest.raises(ValueError, match="0 replicates"):
        draw(3, n_replicates=0)
