"""Fit a calibrator on rows that the model did not learn from, by the method that the rows bear."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from candidfeed.ranking.calibration import ISOTONIC, PLATT, SPLINE, Calibrator, Floats, log_odds

MIN_SPLINE_ROWS, MIN_ISOTONIC_ROWS = 1_000, 10_000
# Of each class; below, a share is not to be told from chance.
MIN_CLASS_ROWS = 20
_N_FOLDS = 5
_LEAST_GAIN_SE = 1.0
# Bends of the spline, at equal shares of the rows, and what their squares cost.
_N_BENDS, _BEND_L2 = 8, 30.0
# Beyond this no log odds lie (`calibration.log_odds`).
_FURTHEST_ODDS = 40.0
# A model whose order says nothing still gets the right mean; its order is kept all the same.
_LEAST_SLOPE = 0.1
_MAX_STEPS = 50
_CLOSE = 1e-10
_SAME_STEP = 1e-9

Labels = NDArray[np.bool_]
_Fit = Callable[[Floats, Labels], Calibrator]


def fit_calibrator(p: Floats, happened: Labels, user: NDArray[np.integer]) -> Calibrator:
    """A map that rows of users whom it was not fitted on speak for; else none.

    A spline from MIN_SPLINE_ROWS on, where it lowers their log loss at all; Platt's line with fewer
    rows, and isotonic steps (from MIN_ISOTONIC_ROWS on) in the place of a spline, where they lower
    it by more than a standard error: what follows chance makes a calibrated model worse.

    Args:
        p: what the model said of rows that it had not learned from, in [0, 1], float [n].
        happened: what came, bool [n].
        user: row of each row's user, int [n]; the rows of one hang together.
    """
    finite = np.isfinite(p)
    p, happened, user = p[finite].astype(np.float64), happened[finite], user[finite]
    n, n_happened = len(p), int(happened.sum())
    if not n:
        return Calibrator.as_is("no held-out rows")
    if n_happened in (0, n):
        return Calibrator.as_is("the held-out rows are all of one class", n)
    if min(n_happened, n - n_happened) < MIN_CLASS_ROWS:
        return Calibrator.as_is(f"fewer than {MIN_CLASS_ROWS} held-out rows of a class", n)
    if len(np.unique(user)) < _N_FOLDS:
        return Calibrator.as_is(f"held-out rows of fewer than {_N_FOLDS} users", n)
    losses = log_loss(p, happened)
    chosen = Calibrator.as_is("held-out users speak for no other map", n)
    tried = [(fit_spline, 0.0) if n >= MIN_SPLINE_ROWS else (fit_platt, _LEAST_GAIN_SE)]
    if n >= MIN_ISOTONIC_ROWS:
        tried.append((fit_isotonic, _LEAST_GAIN_SE))
    for fit, least_gain in tried:
        gain, found = _gain_on_other_users(fit, p, happened, user, losses)
        if gain > least_gain:
            chosen, losses = fit(p, happened), found
    return chosen


def fit_platt(p: Floats, happened: Labels) -> Calibrator:
    """A line in log odds, by Newton's method on the log loss.

    Source: Platt, Advances in Large Margin Classifiers, 1999; Lin, Lin and Weng, Machine Learning
    68 (2007).
    """
    odds, target = log_odds(p), _drawn_in(happened)
    slope, shift = _newton(odds, target, free_slope=True)
    if slope < _LEAST_SLOPE:
        slope, shift = _LEAST_SLOPE, _newton(odds, target, free_slope=False)[1]
    why = f"log odds times {slope:.3f} plus {shift:.3f}"
    return Calibrator(PLATT, why, len(p), np.zeros(1), np.array([shift]), float(slope))


def fit_spline(p: Floats, happened: Labels) -> Calibrator:
    """A line in log odds that bends a little where many rows ask for it: less noise than steps.

    Logistic regression on log odds and on what they pass each bend by, the bends with a ridge;
    slopes are held at _LEAST_SLOPE or above.
    """
    odds = log_odds(p)
    bends = np.unique(np.quantile(odds, np.linspace(0.0, 1.0, _N_BENDS + 2)[1:-1]))

    def columns(of: Floats) -> Floats:
        return np.column_stack([np.ones_like(of), of, np.maximum(of[:, None] - bends, 0.0)])

    target = _drawn_in(happened)
    rows, l2 = columns(odds), np.diag([0.0, 0.0, *[_BEND_L2] * len(bends)])
    change = np.zeros(len(l2))
    for _ in range(_MAX_STEPS):
        said = 1.0 / (1.0 + np.exp(-(odds + rows @ change)))
        gradient = rows.T @ (said - target) + l2 @ change
        curvature = (rows * (said * (1.0 - said))[:, None]).T @ rows + l2
        step = np.linalg.solve(curvature + 1e-6 * np.eye(len(l2)), gradient)
        change -= step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < _CLOSE:
            break
    knots = np.concatenate([[-_FURTHEST_ODDS], bends, [_FURTHEST_ODDS]])
    level = knots + columns(knots) @ change
    # From the middle out, so that what most rows lie at stays where it was fitted.
    slopes = np.maximum(np.diff(level) / np.diff(knots), _LEAST_SLOPE)
    ascending = np.concatenate([[0.0], np.cumsum(slopes * np.diff(knots))])
    middle = len(knots) // 2
    level = ascending + level[middle] - ascending[middle]
    return Calibrator(SPLINE, f"{len(bends)} bends", len(p), knots, level, 1.0)


def fit_isotonic(p: Floats, happened: Labels) -> Calibrator:
    """The best ascending steps, joined at their middles by straight lines in log odds.

    One row of the other class is put at each end, so that no step is at 0 or 1.

    Source: Oron and Flournoy, Statistics in Biopharmaceutical Research 9 (2017) (centred isotonic
    regression).
    """
    odds = log_odds(p)
    odds = np.concatenate([[odds.min()], odds, [odds.max()]])
    label = np.concatenate([[1.0], happened, [0.0]])
    distinct, place, n_rows = np.unique(odds, return_inverse=True, return_counts=True)
    share = np.bincount(place, weights=label) / n_rows
    steps = isotonic_regression(share, weights=n_rows).x
    # Two steps of one height are one.
    step = np.concatenate([[0], np.cumsum(np.diff(steps) > _SAME_STEP)])
    weight = np.bincount(step, n_rows)
    middle = np.bincount(step, distinct * n_rows) / weight
    level = np.bincount(step, share * n_rows) / weight
    why = f"{len(level)} steps"
    return Calibrator(ISOTONIC, why, len(p), middle, log_odds(level), 1.0)


def log_loss(p: Floats, happened: Labels) -> Floats:
    """Negative log likelihood of each row, in nats, float64 [n]."""
    odds = log_odds(p)
    return np.logaddexp(0.0, np.where(happened, -odds, odds))


def _gain_on_other_users(
    fit: _Fit, p: Floats, happened: Labels, user: NDArray[np.integer], losses: Floats
) -> tuple[float, Floats]:
    """How many standard errors over users log loss falls by against `losses`; the new losses.

    Each row's loss is by a map that was fitted without its user's fifth of the users.
    """
    users, owner = np.unique(user, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(users))[owner] % _N_FOLDS
    found = losses.copy()
    for held in range(_N_FOLDS):
        asked = fold == held
        learned = happened[~asked]
        if 0 < learned.sum() < len(learned):
            found[asked] = log_loss(fit(p[~asked], learned)(p[asked]), happened[asked])
    gained = np.bincount(owner, weights=losses - found)
    error = np.sqrt(np.square(gained).sum())
    return float(gained.sum() / error) if error > 0 else 0.0, found


def _drawn_in(happened: Labels) -> Floats:
    """Labels with one more row of each class counted in, as Platt does: odds stay finite."""
    n, n_happened = len(happened), happened.sum()
    return np.where(happened, (n_happened + 1) / (n_happened + 2), 1 / (n - n_happened + 2))


def _newton(odds: Floats, target: Floats, *, free_slope: bool) -> tuple[float, float]:
    """Slope and shift with the least cross-entropy; without a free slope it stays at the least."""
    at = np.array([1.0 if free_slope else _LEAST_SLOPE, 0.0])
    columns = np.column_stack([odds if free_slope else np.zeros_like(odds), np.ones_like(odds)])
    for _ in range(_MAX_STEPS):
        p = 1.0 / (1.0 + np.exp(-(at[0] * odds + at[1])))
        gradient = columns.T @ (p - target)
        curvature = (columns * (p * (1.0 - p))[:, None]).T @ columns + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # A long step overshoots where the curve is flat.
        at = at - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < _CLOSE:
            break
    return float(at[0]), float(at[1])
