"""Calibrators: probabilities that come true, in the order that they came."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from candidfeed.ranking.calibration import AS_IS, ISOTONIC, PLATT, SPLINE, Calibrator, log_odds
from candidfeed.ranking.calibration_fit import (
    MIN_ISOTONIC_ROWS,
    MIN_SPLINE_ROWS,
    fit_calibrator,
    fit_isotonic,
    fit_platt,
    fit_spline,
    log_loss,
)


def drawn(n, *, seed=0, truth=lambda odds: odds, n_users=200):
    """What a model says, what came of it by `truth` of its log odds, and whose row it is."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 1.5, n)
    return expit(odds), rng.random(n) < expit(truth(odds)), rng.integers(0, n_users, n)


def steep(odds):
    return np.where(odds > 0, 0.5 * odds + 1, 2 * odds)


def by(*knots, slope=1.0):
    raw, calibrated = np.array(knots, float).T
    return Calibrator(ISOTONIC, "by hand", 9, raw, calibrated, slope)


# The map


def test_between_knots_log_odds_lie_on_a_line_and_outside_they_go_on():
    found = log_odds(by((0, 1), (2, 5), slope=0.5)(expit(np.array([-2.0, 0, 1, 2, 6]))))
    assert found == pytest.approx([0, 1, 3, 5, 7])


def test_as_it_comes_means_to_the_last_bit():
    p = np.random.default_rng(0).random(100)
    assert Calibrator.as_is("why")(p) is p


def test_what_is_not_finite_stays_as_it_is():
    found = by((0, 1))(np.array([np.nan, np.inf, -np.inf, 0.5]))
    np.testing.assert_array_equal(found[:3], [np.nan, np.inf, -np.inf])
    assert found[3] == pytest.approx(expit(1))


def test_a_probability_has_the_same_bits_alone_and_among_others():
    p = np.random.default_rng(1).random(500)
    fitted = fit_isotonic(*drawn(2000, truth=steep)[:2])
    together = fitted(p)
    assert [fitted(p[i : i + 1])[0] for i in range(500)] == together.tolist()
    np.testing.assert_array_equal(fitted(p[::-1]), together[::-1])


@given(st.lists(st.floats(1e-9, 1 - 1e-9), min_size=2, max_size=40), st.integers(0, 5))
def test_order_is_kept_and_what_differs_still_differs(values, seed):
    p = np.unique(np.array(values))
    p = p[np.concatenate([[True], np.diff(log_odds(p)) > 1e-6])]
    for fit in (fit_platt, fit_spline, fit_isotonic):
        found = fit(*drawn(300, seed=seed, truth=steep)[:2])(p)
        assert (np.diff(found) > 0).all()
        assert ((found > 0) & (found < 1)).all()


def test_it_comes_back_from_json_as_it_was():
    p = np.random.default_rng(2).random(50)
    fitted = [fit(*drawn(500)[:2]) for fit in (fit_isotonic, fit_spline, fit_platt)]
    for one in (*fitted, Calibrator.as_is("x")):
        again = Calibrator.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False)))
        np.testing.assert_array_equal(again(p), one(p))
        assert (again.method, again.why, again.n_rows) == (one.method, one.why, one.n_rows)


@pytest.mark.parametrize("knots", [[(0, 1), (0, 2)], [(0, 1), (1, 1)], [(1, 0), (0, 1)]])
def test_a_map_that_does_not_ascend_is_refused(knots):
    with pytest.raises(ValueError, match="does not ascend"):
        by(*knots)
    with pytest.raises(ValueError, match="does not ascend"):
        by((0, 0), slope=0.0)


# Platt and isotonic


def test_platts_line_is_that_of_logistic_regression():
    p, happened, _ = drawn(5000, truth=lambda odds: 0.6 * odds - 0.8)
    fitted = fit_platt(p, happened)
    peer = LogisticRegression(C=1e9).fit(logit(p)[:, None], happened)
    assert fitted.slope_outside == pytest.approx(peer.coef_[0, 0], rel=0.01)
    assert fitted.calibrated[0] == pytest.approx(peer.intercept_[0], rel=0.01)


def test_isotonic_steps_are_those_of_scikit_learn_at_their_middles():
    p, happened, _ = drawn(3000, truth=steep)
    fitted = fit_isotonic(p, happened)
    peer = IsotonicRegression().fit(logit(p), happened).predict(fitted.raw)
    inner = slice(2, -2)  # the rows that are put at the ends move the first and last steps
    assert len(fitted.raw) > 10
    assert expit(fitted.calibrated)[inner] == pytest.approx(peer[inner], abs=1e-9)


def test_rows_that_agree_wholly_still_give_probabilities_inside_0_and_1():
    p = np.linspace(0.1, 0.9, 200)
    for fit in (fit_platt, fit_spline, fit_isotonic):
        found = fit(p, p > 0.5)(np.array([0.1, 0.9]))
        assert 0 < found[0] < 0.05
        assert 0.95 < found[1] < 1


def test_contradictory_labels_give_the_mean_and_keep_the_order():
    p = np.tile(np.linspace(0.05, 0.95, 50), 40)
    happened = np.repeat([True, False, False, False], 500)
    found = fit_platt(p, happened)(p[:50])
    assert found.mean() == pytest.approx(0.25, abs=0.01)
    assert (np.diff(found) > 0).all()
    upside_down = fit_platt(p, p < 0.5)(p[:50])
    assert (np.diff(upside_down) > 0).all()
    assert upside_down.mean() == pytest.approx((p < 0.5).mean(), abs=0.03)


# Which one


def test_a_calibrated_model_is_hardly_changed():
    p = np.linspace(0.02, 0.98, 50)
    for seed in range(10):
        change = fit_calibrator(*drawn(12_000, seed=seed))(p) - p
        assert np.abs(change).mean() < 0.012
        assert np.abs(change).max() < 0.05


@pytest.mark.parametrize(("n", "method"), [(MIN_SPLINE_ROWS - 1, PLATT), (12_000, SPLINE)])
def test_a_model_that_is_too_sure_is_mended_with_many_rows_and_with_few(n, method):
    p, happened, user = drawn(n, truth=lambda odds: 0.5 * odds + 0.3)
    fitted = fit_calibrator(p, happened, user)
    assert (fitted.method, fitted.n_rows) == (method, n)
    wrong = np.abs(fitted(p) - expit(0.5 * logit(p) + 0.3))
    assert wrong.mean() < (0.04 if n < 1000 else 0.012)


def test_a_spline_bends_where_a_line_does_not_fit():
    p, happened, _ = drawn(20_000, truth=steep)
    new_p, new_happened, _ = drawn(20_000, seed=9, truth=steep)
    by_line, by_spline = (fit(p, happened)(new_p) for fit in (fit_platt, fit_spline))
    assert log_loss(by_spline, new_happened).mean() < log_loss(by_line, new_happened).mean()


def test_a_jump_gets_steps_where_rows_are_many_only():
    def jump(odds):
        return np.where(odds > 0.4, 2.5, -2.5)

    many = drawn(30_000, truth=jump)
    assert fit_calibrator(*many).method == ISOTONIC
    few = tuple(one[: MIN_ISOTONIC_ROWS - 1] for one in many)
    assert fit_calibrator(*few).method == SPLINE


def test_what_a_few_users_say_moves_nothing():
    p, happened, user = drawn(2000, truth=lambda odds: 0.3 * odds + 2)
    assert fit_calibrator(p, happened, user % 4).method == AS_IS


@pytest.mark.parametrize(
    ("n", "share", "why"),
    [
        (0, 0.5, "no held-out rows"),
        (100, 0.0, "all of one class"),
        (100, 1.0, "all of one class"),
        (100, 0.05, "fewer than 20 held-out rows of a class"),
    ],
)
def test_rows_that_cannot_bear_a_map_leave_the_model_as_it_is_and_say_why(n, share, why):
    p = np.random.default_rng(0).random(n)
    found = fit_calibrator(p, np.arange(n) < share * n, np.arange(n))
    assert found.method == AS_IS
    assert why in found.why


def test_predictions_that_are_not_finite_are_no_rows():
    p, happened, user = drawn(3000, truth=lambda odds: 0.5 * odds + 0.5)
    broken = p.copy()
    broken[::3] = np.nan
    kept = np.isfinite(broken)
    found, expected = (
        fit_calibrator(broken, happened, user),
        fit_calibrator(p[kept], happened[kept], user[kept]),
    )
    assert (found.n_rows, found.why) == (2000, expected.why)
