"""Calibrated probabilities: a strictly increasing map of what a head says, so order is kept.

`ranking/calibration_fit.py` fits them; serving knows this module only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

AS_IS, PLATT, SPLINE, ISOTONIC = "as is", "platt", "spline", "isotonic"
# Log odds further out than this are rounding: 1 - 1e-15 is about the last probability below 1.
_FURTHEST = 1e-15


@dataclass(frozen=True)
class Calibrator:
    """Log odds to log odds by straight lines between knots.

    Attributes:
        method: AS_IS, PLATT, SPLINE or ISOTONIC.
        why: in words, what decided for the method.
        n_rows: held-out rows that it was fitted on.
        raw, calibrated: log odds at the knots, strictly ascending both, float64 [at least 1].
        slope_outside: of the line beyond the first and the last knot; > 0.
    """

    method: str
    why: str
    n_rows: int
    raw: Floats
    calibrated: Floats
    slope_outside: float

    def __post_init__(self) -> None:
        columns = (self.raw, self.calibrated)
        if len({len(one) for one in columns}) != 1 or not len(self.raw):
            raise ValueError(f"calibration: {len(self.raw)} and {len(self.calibrated)} knots")
        if any((np.diff(one) <= 0).any() for one in columns) or not self.slope_outside > 0:
            raise ValueError("calibration: the map does not ascend everywhere")

    @staticmethod
    def as_is(why: str, n_rows: int = 0) -> "Calibrator":
        """Leaves every probability as it comes, to the last bit."""
        return Calibrator(AS_IS, why, n_rows, np.zeros(1), np.zeros(1), 1.0)

    def __call__(self, p: Floats) -> Floats:
        """Calibrated probabilities, of the same shape; what is not finite stays as it is.

        Each is computed by itself: its bits do not depend on the others.
        """
        if self.method == AS_IS:
            return p
        finite = np.isfinite(p)
        odds = log_odds(np.where(finite, p, 0.5))
        line = np.searchsorted(self.raw, odds, side="right")
        start = np.maximum(line - 1, 0)
        moved = self.calibrated[start] + self._slopes[line] * (odds - self.raw[start])
        return np.where(finite, 1.0 / (1.0 + np.exp(-moved)), p)

    @cached_property
    def _slopes(self) -> Floats:
        """Of the line that ends at each knot, and of the one after the last."""
        between = np.diff(self.calibrated) / np.diff(self.raw)
        return np.concatenate([[self.slope_outside], between, [self.slope_outside]])

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "why": self.why,
            "n_rows": self.n_rows,
            "raw": self.raw.tolist(),
            "calibrated": self.calibrated.tolist(),
            "slope_outside": self.slope_outside,
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Calibrator":
        arrays = {name: np.array(content[name], np.float64) for name in ("raw", "calibrated")}
        return Calibrator(**{**content, **arrays})


def weighted_sum(heads: Mapping[str, Floats], weights: Mapping[str, float]) -> NDArray[np.float32]:
    """The published sum that a list is ordered by, of calibrated heads; float32 of their shape."""
    summed = sum(weight * heads[name] for name, weight in weights.items() if weight)
    return np.asarray(summed).astype(np.float32)


def log_odds(p: Floats) -> Floats:
    """Natural log of p / (1 - p); what is next to 0 or 1 is held off it."""
    p = np.minimum(np.maximum(p, _FURTHEST), 1.0 - _FURTHEST)
    return np.log(p) - np.log1p(-p)
