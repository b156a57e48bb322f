"""The levels that ratings take, and which of them count as liked."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_LEVELS = 20
# A mean rating of n events is drawn to the mean of all as if by this many more events.
SHRINK_EVENTS = 5.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RatingScale:
    """The levels that ratings take, ascending, and what counts as liked.

    Attributes:
        levels: float32 [n_levels], at least two; two zeros where the log has no ratings.
        shares: how often each level is the nearest one in training, float64 [n_levels], sum 1.
        mean: mean rating in training; 0 without ratings.
        like_at: the least rating that counts as liked; None without ratings.
    """

    levels: Floats
    shares: NDArray[np.float64]
    mean: float
    like_at: float | None

    @staticmethod
    def of(values: Floats, like_at: float | None) -> "RatingScale":
        """Levels are the distinct ratings; of very many, the means of bins of equal mass.

        A lone rating gets a level above it that never occurs: a distribution needs two.
        """
        values = values[np.isfinite(values)] if like_at is not None else values[:0]
        if len(values) == 0:
            return RatingScale(np.zeros(2, np.float32), np.full(2, 0.5), 0.0, None)
        levels = np.unique(values)
        if len(levels) > MAX_LEVELS:
            bins = np.array_split(np.sort(values), MAX_LEVELS)
            means = [part.mean(dtype=np.float64) for part in bins]
            levels = np.unique(np.array(means, dtype=np.float32))
        if len(levels) == 1:
            levels = np.append(levels, levels + max(np.float32(1.0), np.spacing(abs(levels[0]))))
        counts = np.bincount(nearest_level(values, levels), minlength=len(levels))
        mean = float(values.mean(dtype=np.float64))
        return RatingScale(levels, counts / counts.sum(), mean, like_at)

    @property
    def liked(self) -> NDArray[np.bool_]:
        """Which levels count as liked, bool [n_levels].

        Where levels are means of bins, the one around `like_at` counts as a whole or not at all.
        """
        at = np.inf if self.like_at is None else self.like_at
        return self.levels >= at


def nearest_level(values: Floats, levels: Floats) -> NDArray[np.int32]:
    """Index of the level closest to each value, the higher one in a tie; -1 where it is NaN.

    Returns:
        int32, shape of `values`.
    """
    edges = (levels[1:].astype(np.float64) + levels[:-1]) / 2
    nearest = np.searchsorted(edges, values, side="right")
    return np.where(np.isnan(values), -1, nearest).astype(np.int32)
