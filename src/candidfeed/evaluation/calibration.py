"""Do probabilities come true? Of all test rows, and in each segment of the users.

A segment column is what a data set declares as sensitive of its users, which no model reads, and
how much is known of a user. docs/metrics.md defines each figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.data.splits import Split
from candidfeed.data.tables import Dataset
from candidfeed.evaluation.rating_metrics import N_BINS, equal_mass_bins
from candidfeed.ranking.calibration import Calibrator
from candidfeed.ranking.calibration_fit import log_loss
from candidfeed.training.held_out import HeldOut

MIN_ROWS = 500
MAX_VALUES = 20
ACTIVITY = "activity"
_THIRDS = 3
_THIRD_NAMES = ("light", "medium", "heavy")
_UNKNOWN = "unknown"

Labels = NDArray[np.str_]


@dataclass(frozen=True)
class CalibrationFigures:
    """How far probabilities are from what happened, over some rows.

    Attributes:
        ece: over bins of equal mass, of the calibrated probabilities.
        ece_by_chance: what `ece` would be on average if every probability were exactly true.
        raw_ece, raw_logloss: before calibration.
    """

    n_rows: float
    ece: float
    ece_by_chance: float
    brier: float
    logloss: float
    raw_ece: float
    raw_logloss: float


@dataclass(frozen=True)
class HeadCalibration:
    """One head of one split, or the mean over seeds.

    Attributes:
        methods: how each seed's probabilities were calibrated, and why so.
        n_fitted: held-out rows that the calibrator was fitted on.
        everybody: over all rows.
        segments: by column, then by value; None with fewer than MIN_ROWS rows: no claim is made.
        bins: mean probability and share that happened of each bin, float64 [2, N_BINS]; NaN where a
            bin is empty.
    """

    methods: tuple[str, ...]
    n_fitted: float
    everybody: CalibrationFigures
    segments: Mapping[str, Mapping[str, CalibrationFigures | None]]
    bins: NDArray[np.float64]

    @property
    def worst(self) -> tuple[str, str, CalibrationFigures] | None:
        """Column, value and figures of the segment with the largest error; None without any."""
        large = [
            (column, value, found)
            for column, values in self.segments.items()
            for value, found in values.items()
            if found is not None
        ]
        return max(large, key=lambda one: one[2].ece, default=None)

    def to_json(self) -> dict[str, Any]:
        worst = self.worst
        return {
            "methods": list(self.methods),
            "n_fitted": self.n_fitted,
            "all": asdict(self.everybody),
            "worst_segment": None if worst is None else f"{worst[0]} {worst[1]}",
            "segments": {
                column: {name: found and asdict(found) for name, found in values.items()}
                for column, values in self.segments.items()
            },
            "reliability": [
                {"p": float(p), "share": float(share)} for p, share in self.bins.T if np.isfinite(p)
            ],
        }


def measure_calibration(
    asked: HeldOut, calibrator: Calibrator, segments: Mapping[str, Labels], n_known: NDArray[Any]
) -> HeadCalibration | None:
    """How well a head is calibrated on rows that neither it nor its calibrator saw.

    Args:
        asked: what the model itself said of them.
        segments: by column, the value of every user row.
        n_known: events that are known of every user row; the rows are cut in thirds by it.

    Returns:
        None where there are no rows, or one where nothing is finite.
    """
    if not len(asked.p) or not np.isfinite(asked.p).all():
        return None
    p, happened, raw = calibrator(asked.p), asked.happened, asked.p
    third = equal_mass_bins(n_known[asked.user], _THIRDS)
    of_rows = {ACTIVITY: np.array(_THIRD_NAMES)[third]}
    of_rows |= {name: of_user[asked.user] for name, of_user in segments.items()}
    found: dict[str, dict[str, CalibrationFigures | None]] = {}
    for column, values in of_rows.items():
        found[column] = {}
        for value in np.unique(values):
            rows = values == value
            enough = rows.sum() >= MIN_ROWS
            figures = _figures(p[rows], happened[rows], raw[rows]) if enough else None
            found[column][str(value)] = figures
    return HeadCalibration(
        methods=(f"{calibrator.method}: {calibrator.why}",),
        n_fitted=calibrator.n_rows,
        everybody=_figures(p, happened, raw),
        segments=found,
        bins=_bins(p, happened),
    )


def mean_calibration(seeds: Sequence[HeadCalibration]) -> HeadCalibration:
    """The mean of every figure, of the segments that are large enough under each seed."""
    segments: dict[str, dict[str, CalibrationFigures | None]] = {}
    for column, values in seeds[0].segments.items():
        segments[column] = {}
        for value in values:
            found = [seed.segments.get(column, {}).get(value) for seed in seeds]
            large = [one for one in found if one is not None]
            segments[column][value] = _mean(large) if len(large) == len(seeds) else None
    return HeadCalibration(
        methods=tuple(method for seed in seeds for method in seed.methods),
        n_fitted=float(np.mean([seed.n_fitted for seed in seeds])),
        everybody=_mean([seed.everybody for seed in seeds]),
        segments=segments,
        bins=np.mean([seed.bins for seed in seeds], axis=0),
    )


def describe_calibration(head: str, found: HeadCalibration) -> str:
    """One line on a head, for people."""
    whole = found.everybody
    methods = " / ".join(dict.fromkeys(one.partition(":")[0] for one in found.methods))
    line = (
        f"P({head}), {methods}: ECE {whole.ece:.4f} ({whole.ece_by_chance:.4f} by chance alone), "
        f"Brier {whole.brier:.4f}, log loss {whole.logloss:.4f}; "
    )
    if found.worst is None:
        return f"{line}no segment has {MIN_ROWS} rows: no claim is made of any."
    column, value, worst = found.worst
    return (
        f"{line}worst segment {column} {value}: ECE {worst.ece:.4f} ({worst.ece_by_chance:.4f} by "
        f"chance alone, {worst.n_rows:,.0f} rows)."
    )


def user_segments(dataset: Dataset, split: Split) -> dict[str, Labels]:
    """By sensitive column of the users, each user row's value; numbers are cut in thirds.

    A column with more than MAX_VALUES values, such as a zip code, is no segment column.
    """
    names = [one.name for one in dataset.user_features if one.sensitive]
    ids = split.users.ids.rename("user_id").to_frame()
    table = ids.join(
        dataset.users.select("user_id", *names), on="user_id", how="left", maintain_order="left"
    )
    found = {}
    for feature in dataset.user_features:
        if not feature.sensitive or feature.kind not in ("category", "bucket", "number"):
            continue
        column = table[feature.name]
        if column.drop_nulls().n_unique() > MAX_VALUES and feature.kind != "category":
            found[feature.name] = _thirds(column)
        elif column.drop_nulls().n_unique() <= MAX_VALUES:
            found[feature.name] = column.cast(pl.String).fill_null(_UNKNOWN).to_numpy().astype(str)
    return found


def _thirds(column: pl.Series) -> Labels:
    """`17 to 25` and so on; users are cut in three equal parts."""
    numbers = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    known = np.isfinite(numbers)
    labels = np.full(len(numbers), _UNKNOWN, dtype="<U64")
    third = equal_mass_bins(numbers[known], _THIRDS)
    for place in np.unique(third):
        own = numbers[known][third == place]
        labels[np.flatnonzero(known)[third == place]] = f"{own.min():g} to {own.max():g}"
    return labels


def _figures(
    p: NDArray[np.float64], happened: NDArray[np.bool_], raw: NDArray[np.float64]
) -> CalibrationFigures:
    bins = equal_mass_bins(p)
    # The gap of a bin is about normal, and so is as large on average as its deviation times this.
    deviation = np.sqrt(np.bincount(bins, weights=p * (1.0 - p), minlength=N_BINS))
    return CalibrationFigures(
        n_rows=len(p),
        ece=_ece(p, happened),
        ece_by_chance=float(np.sqrt(2.0 / np.pi) * deviation.sum() / len(p)),
        brier=float(np.mean(np.square(p - happened))),
        logloss=float(log_loss(p, happened).mean()),
        raw_ece=_ece(raw, happened),
        raw_logloss=float(log_loss(raw, happened).mean()),
    )


def _ece(p: NDArray[np.float64], happened: NDArray[np.bool_]) -> float:
    gaps = np.bincount(equal_mass_bins(p), weights=happened - p, minlength=N_BINS)
    return float(np.abs(gaps).sum() / len(p))


def _bins(p: NDArray[np.float64], happened: NDArray[np.bool_]) -> NDArray[np.float64]:
    bins = equal_mass_bins(p)
    n_rows = np.bincount(bins, minlength=N_BINS)
    sums = np.stack([np.bincount(bins, weights=one, minlength=N_BINS) for one in (p, happened)])
    return np.divide(sums, n_rows, out=np.full(sums.shape, np.nan), where=n_rows > 0)


def _mean(figures: Sequence[CalibrationFigures]) -> CalibrationFigures:
    rows = [asdict(one) for one in figures]
    return CalibrationFigures(**{name: float(np.mean([r[name] for r in rows])) for name in rows[0]})
