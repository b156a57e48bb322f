"""Metrics of predicted values: the rating a user gives, and the probability that they like an item.

Every row counts alike; the rows of one user are drawn together for the interval. docs/metrics.md
defines each metric.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candidfeed.evaluation.bootstrap import (
    Figure,
    SumFigure,
    Totals,
    pooled,
    root_of_ratio,
)

N_BINS = 15


def evaluate_ratings(
    user: NDArray[np.integer],
    rating: NDArray[np.floating],
    predicted: NDArray[np.floating],
) -> dict[str, SumFigure]:
    """rmse, mse and mae of predicted ratings.

    Args:
        user: row of the user of each test row, [n].
        rating: what they gave, finite, [n].
        predicted: what the model says, [n]; NaN or infinite predictions make the metric undefined,
            they are not left out.

    Raises:
        ValueError: the lengths differ, or a rating is not finite.
    """
    _check_lengths(user, rating, predicted)
    if not np.isfinite(rating).all():
        raise ValueError(f"ratings: {np.count_nonzero(~np.isfinite(rating))} are not finite")
    users, owner = _owners(user)
    error = predicted.astype(np.float64) - rating.astype(np.float64)
    n_rows = _sum_by_user(owner, np.ones(len(error)))
    squared = _sum_by_user(owner, np.square(error))
    return {
        "rmse": pooled(users, squared, n_rows, of_totals=root_of_ratio),
        "mse": pooled(users, squared, n_rows),
        "mae": pooled(users, _sum_by_user(owner, np.abs(error)), n_rows),
    }


def evaluate_likes(
    user: NDArray[np.integer],
    liked: NDArray[np.bool_],
    p_like: NDArray[np.floating],
) -> dict[str, Figure]:
    """auc, logloss, brier and ece of the predicted probability that a user likes an item.

    Args:
        user: row of the user of each test row, [n].
        liked: whether they did, [n].
        p_like: what the model says, [n]; where one is NaN, no metric is defined.

    Raises:
        ValueError: the lengths differ, or a probability lies outside [0, 1].
    """
    _check_lengths(user, liked, p_like)
    outside = (p_like < 0) | (p_like > 1)
    if outside.any():
        n, first = np.count_nonzero(outside), p_like[outside][0]
        raise ValueError(f"likes: {n} probabilities lie outside [0, 1], the first is {first}")
    users, owner = _owners(user)
    liked = np.asarray(liked, dtype=bool)
    n_rows = _sum_by_user(owner, np.ones(len(owner)))
    return {
        "auc": AucFigure.of(users, owner, liked, p_like),
        "logloss": pooled(users, _sum_by_user(owner, _log_losses(liked, p_like)), n_rows),
        "brier": pooled(users, _sum_by_user(owner, np.square(p_like - liked)), n_rows),
        "ece": _calibration_error(users, owner, liked, p_like),
    }


@dataclass(frozen=True)
class AucFigure:
    """Share of (liked, not liked) pairs of rows in the right order, equal predictions half.

    Attributes:
        users: as in `Figure`, int32 [n].
        liked_owner: for each liked row, its user's place in `users`, int64 [n_liked]; by ascending
            prediction, so that memory is read in order: seven times faster on a million rows.
        other_owner: likewise for the other rows, int64 [n_other].
        n_below: for each liked row, how many of the others are predicted lower, int64 [n_liked].
        n_not_above: how many are predicted lower or the same.
        defined: no prediction was NaN.
    """

    users: NDArray[np.int32]
    liked_owner: NDArray[np.int64]
    other_owner: NDArray[np.int64]
    n_below: NDArray[np.int64]
    n_not_above: NDArray[np.int64]
    defined: bool

    @classmethod
    def of(
        cls,
        users: NDArray[np.int32],
        owner: NDArray[np.int64],
        liked: NDArray[np.bool_],
        predicted: NDArray[np.floating],
    ) -> "AucFigure":
        order = np.argsort(predicted, kind="stable")
        owner, liked, predicted = owner[order], liked[order], predicted[order]
        return cls(
            users=users,
            liked_owner=owner[liked],
            other_owner=owner[~liked],
            n_below=np.searchsorted(predicted[~liked], predicted[liked], side="left"),
            n_not_above=np.searchsorted(predicted[~liked], predicted[liked], side="right"),
            defined=not np.isnan(predicted).any(),
        )

    def value(self) -> float:
        return self._weighted(np.ones(len(self.users), dtype=np.int64))

    def replicates(self, counts: NDArray[np.uint8]) -> NDArray[np.float64]:
        """One pass over the rows per replicate, no sorting: the order never changes."""
        return np.array([self._weighted(count.astype(np.int64)) for count in counts])

    def _weighted(self, count: NDArray[np.int64]) -> float:
        """The figure when user j counts `count[j]` times; in whole numbers up to the division."""
        n_others = np.zeros(len(self.other_owner) + 1, dtype=np.int64)
        np.cumsum(count[self.other_owner], out=n_others[1:])
        weights = count[self.liked_owner]
        twice_won = weights @ (n_others[self.n_below] + n_others[self.n_not_above])
        n_pairs = weights.sum() * n_others[-1]
        return float(twice_won / (2 * n_pairs)) if self.defined and n_pairs else float("nan")


def _log_losses(liked: NDArray[np.bool_], p_like: NDArray[np.floating]) -> NDArray[np.float64]:
    """Negative log likelihood of each row, in nats, float64 [n].

    A probability of exactly 0 or 1 is moved inside by the spacing of its own type, as scikit-learn
    does: a float32 model that rounds to 1 is not charged as if it had meant 1 - 1e-16.
    """
    least = np.finfo(p_like.dtype).eps if np.issubdtype(p_like.dtype, np.floating) else 2.2e-16
    p = np.clip(p_like.astype(np.float64), least, 1.0 - least)
    return -np.where(liked, np.log(p), np.log1p(-p))


def _calibration_error(
    users: NDArray[np.int32],
    owner: NDArray[np.int64],
    liked: NDArray[np.bool_],
    p_like: NDArray[np.floating],
) -> SumFigure:
    """Expected calibration error over bins of equal mass; the bins stay as they are in a resample.

    Each user adds, per bin, the sum of liked - p_like; then the number of rows.
    """
    cell = owner * N_BINS + equal_mass_bins(p_like)
    gap = np.where(liked, 1.0, 0.0) - p_like.astype(np.float64)
    gaps = np.bincount(cell, weights=gap, minlength=len(users) * N_BINS).reshape(-1, N_BINS)
    n_rows = _sum_by_user(owner, np.ones(len(owner)))
    return SumFigure(users, np.column_stack([gaps, n_rows]).astype(np.float64), _mean_gap)


def _mean_gap(totals: Totals) -> Totals:
    gap, n_rows = np.abs(totals[..., :-1]).sum(axis=-1), totals[..., -1]
    return np.divide(gap, n_rows, out=np.full_like(gap, np.nan), where=n_rows > 0)


def equal_mass_bins(p: NDArray[np.number], n_bins: int = N_BINS) -> NDArray[np.int64]:
    """Which of so many bins of as near as possible equal numbers of rows each row is in, int64 [n].

    Rows with the same prediction are in the same bin, by their average place: so the order of the
    rows does not matter, and a bin may be larger than others, or empty.
    """
    ascending = np.sort(p)
    first = np.searchsorted(ascending, p, side="left")
    last = np.searchsorted(ascending, p, side="right")
    return (first + last) * n_bins // (2 * max(len(p), 1))


def _owners(user: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Distinct users, ascending, and each row's place among them."""
    users, owner = np.unique(user, return_inverse=True)
    return users.astype(np.int32), owner


def _sum_by_user(owner: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.bincount(owner, weights=values).astype(np.float64, copy=False)


def _check_lengths(*columns: NDArray[np.generic]) -> None:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) != 1:
        raise ValueError(f"evaluate: columns of different lengths {lengths}")
