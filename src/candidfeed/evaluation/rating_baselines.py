"""The rating models that a deep one must beat: the mean, and the mean with biases."""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split, inner_split
from candidfeed.errors import DataError

RATING_BASELINES = ("mean-rating", "bias-rating")
_L2_GRID = (5.0, 1.0, 2.0, 10.0, 20.0)
_SWEEPS = 20


class RatingPredictor(Protocol):
    @property
    def settings(self) -> dict[str, float]: ...

    def predict(self, user: NDArray[np.int32], item: NDArray[np.int32]) -> NDArray[np.float32]:
        """The rating to expect for each pair, float32 [n]."""
        ...


@dataclass(frozen=True)
class MeanRating:
    mean: float

    @classmethod
    def fit(cls, train: Interactions) -> "MeanRating":
        """
        Raises:
            DataError: no event of train has a value.
        """
        return cls(mean=float(_rated(train).value.mean(dtype=np.float64)))

    @property
    def settings(self) -> dict[str, float]:
        return {}

    def predict(self, user: NDArray[np.int32], item: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32 [n], all the same."""
        return np.full(len(user), self.mean, dtype=np.float32)


@dataclass(frozen=True)
class BiasRating:
    """mean + user bias + item bias: least squares with an l2 penalty on each bias.

    A user or an item that was never rated has bias 0. Predictions are clipped to the least and
    the greatest value in train.

    Attributes:
        user_bias: float64 [n_users], from all that is known of a user (fold-in).
        item_bias: float64 [n_items], from train.

    Source: Koren, "Factor in the Neighbors", TKDD 2010, section 2.1.
    """

    mean: float
    user_bias: NDArray[np.float64]
    item_bias: NDArray[np.float64]
    low: float
    high: float
    l2: float

    @classmethod
    def fit(cls, train: Interactions, *, known: Interactions, l2: float) -> "BiasRating":
        """
        Raises:
            DataError: no event of train has a value.
            ValueError: l2 <= 0.
        """
        if l2 <= 0:
            raise ValueError(f"bias-rating needs l2 > 0, not {l2}")
        rated = _rated(train)
        mean = float(rated.value.mean(dtype=np.float64))
        user_bias, item_bias = np.zeros(train.n_users), np.zeros(train.n_items)
        for _ in range(_SWEEPS):
            user_bias = _user_biases(rated, mean, item_bias, l2)
            rest = rated.value - mean - user_bias[rated.user]
            item_bias = _shrunk_mean(rated.item, rest, train.n_items, l2)
        return cls(
            mean=mean,
            user_bias=_user_biases(_rated(known), mean, item_bias, l2),
            item_bias=item_bias,
            low=float(rated.value.min()),
            high=float(rated.value.max()),
            l2=l2,
        )

    @property
    def settings(self) -> dict[str, float]:
        return {"l2": self.l2}

    def predict(self, user: NDArray[np.int32], item: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32 [n]."""
        rating = self.mean + self.user_bias[user] + self.item_bias[item]
        return np.clip(rating, self.low, self.high).astype(np.float32)


def fit_rating_baselines(split: Split, *, seed: int) -> dict[str, tuple[RatingPredictor, float]]:
    """Fits RATING_BASELINES; l2 is chosen by squared error on a validation part of train.

    Returns:
        By name: the predictor, and the seconds that its fit on all of train took, without choosing.

    Raises:
        DataError: no event of train has a value.
    """
    l2 = _choose_l2(split, seed)
    start = time.perf_counter()
    mean = MeanRating.fit(split.train)
    between = time.perf_counter()
    bias = BiasRating.fit(split.train, known=split.known, l2=l2)
    end = time.perf_counter()
    return {"mean-rating": (mean, between - start), "bias-rating": (bias, end - between)}


def _choose_l2(split: Split, seed: int) -> float:
    """The first of the grid where train is too small to choose anything by."""
    try:
        inner = inner_split(split, seed=seed)
        asked = _rated(inner.test)
        mse_by_l2 = {
            l2: _mse(BiasRating.fit(inner.train, known=inner.known, l2=l2), asked)
            for l2 in _L2_GRID
        }
    except DataError:
        return _L2_GRID[0]
    return min(mse_by_l2, key=mse_by_l2.__getitem__)


def _mse(model: BiasRating, asked: Interactions) -> float:
    return float(np.mean((model.predict(asked.user, asked.item) - asked.value) ** 2))


def _rated(events: Interactions) -> Interactions:
    rated = events.take(~np.isnan(events.value))
    if not len(rated):
        raise DataError(f"none of {len(events)} events carries a rating to learn from")
    return rated


def _user_biases(
    rated: Interactions, mean: float, item_bias: NDArray[np.float64], l2: float
) -> NDArray[np.float64]:
    rest = rated.value - mean - item_bias[rated.item]
    return _shrunk_mean(rated.user, rest, rated.n_users, l2)


def _shrunk_mean(
    rows: NDArray[np.int32], values: NDArray[np.float64], n_rows: int, l2: float
) -> NDArray[np.float64]:
    """Sum of each row's values / (their count + l2): the minimum of the penalised squares."""
    sums = np.bincount(rows, weights=values, minlength=n_rows)
    return sums / (np.bincount(rows, minlength=n_rows) + l2)
