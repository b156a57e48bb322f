"""FeatureMap: the only code that turns what is known of users and items into arrays.

Training and serving share it, so it needs no more than NumPy and Polars.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.data.tables import COLUMN_TYPES, TIME, Feature, FeatureKind
from candidfeed.errors import DataError

N_BUCKETS = 10
MAX_VALUES = 1000
MAX_WIDTH = 64
MIN_WORD_COUNT = 3
MAX_DEVIATIONS = 5.0
PADDING = 0


@dataclass(frozen=True)
class Bag:
    """A weighted set of feature ids for each row of a table; no id stands twice in a row.

    Attributes:
        ids: int32 [n, width]; 0 is padding.
        weights: float32 [n, width]; 0 where padded.
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class FittedColumn:
    """What was learned of one column from the training part.

    The column owns the ids `offset` (missing or unknown) to `offset + size - 1`.

    Attributes:
        values: of a category, tags or text: the most frequent first.
        edges: of a bucket or time (seconds since 1970): each bucket's lower end but the first's.
        mean: of a number.
        scale: standard deviation of a number, 1 where all are equal.
        width: ids a row; a row with more known values keeps the most frequent.
    """

    name: str
    kind: FeatureKind
    offset: int
    values: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    width: int = 1

    @property
    def size(self) -> int:
        if self.kind == "number":
            return 2
        return 1 + (len(self.edges) + 1 if self.kind in ("bucket", "time") else len(self.values))

    @cached_property
    def id_of_value(self) -> pl.DataFrame:
        """One line a value: `value` String and `id` Int32."""
        ids = np.arange(len(self.values), dtype=np.int32) + np.int32(self.offset + 1)
        return pl.DataFrame({"value": pl.Series(self.values, dtype=pl.String), "id": ids})


@dataclass(frozen=True)
class FeatureMap:
    """Fitted columns of one table, in the order declared."""

    columns: tuple[FittedColumn, ...]

    @property
    def n_ids(self) -> int:
        """Ids in use, padding included: the rows that an embedding table needs."""
        return 1 + sum(column.size for column in self.columns)

    @staticmethod
    def fit(table: pl.DataFrame, features: tuple[Feature, ...]) -> "FeatureMap":
        """Learn values, edges and scales from the rows given: those of the training part only.

        Sensitive features are left out: a model never sees them.

        Raises:
            DataError: a column is missing or its type can't hold a feature of its kind.
        """
        columns: list[FittedColumn] = []
        offset = 1
        for feature in features:
            if feature.sensitive:
                continue
            series = _canonical(table, feature.name, feature.kind)
            column = _fit_column(series, feature, offset)
            columns.append(column)
            offset += column.size
        return FeatureMap(tuple(columns))

    def encode(self, table: pl.DataFrame) -> Bag:
        """One bag a row, in the table's order; it depends on that row alone, its width on none.

        Each column contributes weights of Euclidean norm 1 (a number: its standardised value,
        clipped), so that an item with ten tags does not outweigh one with two. A value that is
        missing, or that training did not see, is the column's own id for that; a row of tags or
        words takes it where none of them is known.

        Raises:
            DataError: a column is missing or its type can't hold a feature of its kind.
        """
        n = len(table)
        parts = [
            _encode_column(_canonical(table, column.name, column.kind), column)
            for column in self.columns
        ]
        if not parts:
            return Bag(np.zeros((n, 1), np.int32), np.zeros((n, 1), np.float32))
        ids = np.concatenate([part.ids for part in parts], axis=1)
        weights = np.concatenate([part.weights for part in parts], axis=1)
        return Bag(ids, weights)

    def n_unknown(self, ids: NDArray[np.int32]) -> dict[str, int]:
        """By column, of how many rows the value is missing, or one that training did not see.

        For those the column's own id is read; columns that every row knows are left out.

        Args:
            ids: of a `Bag`, int32 [n, width].
        """
        missing = ids[self.are_unknown(ids)]
        if not len(missing):
            return {}
        found, counts = np.unique(missing, return_counts=True)
        n_of = dict(zip(found.tolist(), counts.tolist(), strict=True))
        return {one.name: n_of[one.offset] for one in self.columns if one.offset in n_of}

    def are_unknown(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which ids of a `Bag` stand for a missing or unknown value; of the shape given."""
        return self._is_unknown[ids]

    @cached_property
    def _is_unknown(self) -> NDArray[np.bool_]:
        """Which ids stand for a missing or unknown value, bool [n_ids]."""
        is_unknown = np.zeros(self.n_ids, bool)
        is_unknown[[one.offset for one in self.columns]] = True
        return is_unknown

    def name_of(self, feature_id: int) -> str:
        """What an id stands for; empty for padding.

        `job=nurse`, `age=25..30` (30 excluded), `age=?` where missing or unknown, and the bare
        column for a number, whose value is its weight.
        """
        for column in self.columns:
            place = feature_id - column.offset
            if 0 <= place < column.size:
                return _name_of_place(column, place)
        return ""

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(column) for column in self.columns]

    @staticmethod
    def from_json(columns: list[dict[str, Any]]) -> "FeatureMap":
        def fitted(column: dict[str, Any]) -> FittedColumn:
            # JSON has no tuples.
            tuples = {"values": tuple(column["values"]), "edges": tuple(column["edges"])}
            return FittedColumn(**{**column, **tuples})

        return FeatureMap(tuple(fitted(column) for column in columns))


def _canonical(table: pl.DataFrame, name: str, kind: FeatureKind) -> pl.Series:
    """The column with the type of `data.tables.Dataset`: a request may hold 1 for "1" or 1.0.

    Under a name of ours: Polars takes one such as `^a$` for a pattern.
    """
    if name not in table.columns:
        raise DataError(f"features: column {name!r} is missing; got {table.columns}")
    try:
        return table[name].alias("value").cast(COLUMN_TYPES[kind])
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"features: column {name!r} can't be a {kind} feature with type {table[name].dtype}; "
            f"give it as {COLUMN_TYPES[kind]}"
        ) from error


def _fit_column(series: pl.Series, feature: Feature, offset: int) -> FittedColumn:
    name, kind = feature.name, feature.kind
    if kind in ("category", "tags", "text"):
        lines = _one_value_a_line(series)
        values = _frequent_values(lines, least=MIN_WORD_COUNT if kind == "text" else 1)
        known = lines.filter(pl.col("value").is_in(list(values)))
        most = int(np.bincount(known["row"].to_numpy()).max(initial=1))
        return FittedColumn(name, kind, offset, values=values, width=min(most, MAX_WIDTH))
    numbers = _as_numbers(series)
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) == 0:
        return FittedColumn(name, kind, offset)
    if kind == "number":
        # Not by the deviation: of equal numbers rounding may leave a speck.
        varies = numbers.min() < numbers.max()
        scale = float(numbers.std()) if varies else 1.0
        return FittedColumn(name, kind, offset, mean=float(numbers.mean()), scale=scale)
    quantiles = np.arange(1, N_BUCKETS) / N_BUCKETS
    # Values that occur, so that the ends of ages are whole and those of dates are midnight.
    edges = np.unique(np.quantile(numbers, quantiles, method="higher"))
    return FittedColumn(name, kind, offset, edges=tuple(float(edge) for edge in edges))


def _encode_column(series: pl.Series, column: FittedColumn) -> Bag:
    if column.kind in ("category", "tags", "text"):
        return _encode_values(series, column)
    numbers = _as_numbers(series)
    known = np.isfinite(numbers)
    numbers = np.where(known, numbers, 0.0)
    if column.kind == "number":
        z = np.clip((numbers - column.mean) / column.scale, -MAX_DEVIATIONS, MAX_DEVIATIONS)
        place, weights = known.astype(np.int32), np.where(known, z, 1.0)
    else:
        bucket = np.searchsorted(np.asarray(column.edges), numbers, side="right")
        place, weights = np.where(known, 1 + bucket, 0), np.ones(len(numbers))
    ids = (column.offset + place).astype(np.int32)
    return Bag(ids[:, None], weights.astype(np.float32)[:, None])


def _encode_values(series: pl.Series, column: FittedColumn) -> Bag:
    n, width = len(series), column.width
    lines = _one_value_a_line(series).join(column.id_of_value, on="value", how="inner")
    # By id, which is by frequency: the order of a row's tags does not matter.
    lines = lines.sort("row", "id")
    rows, ids = lines["row"].to_numpy(), lines["id"].to_numpy()
    counts = np.bincount(rows, minlength=n)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = places < width
    rows, ids, places = rows[kept], ids[kept], places[kept]
    counts = np.minimum(counts, width)
    bag_ids = np.full((n, width), PADDING, np.int32)
    weights = np.zeros((n, width), np.float32)
    bag_ids[rows, places] = ids
    weights[rows, places] = 1.0 / np.sqrt(counts[rows])
    bag_ids[counts == 0, 0] = column.offset
    weights[counts == 0, 0] = 1.0
    return Bag(bag_ids, weights)


def _one_value_a_line(series: pl.Series) -> pl.DataFrame:
    """`row` from 0 and `value` String; nulls and repetitions within a row are left out."""
    lines = pl.DataFrame({"row": np.arange(len(series)), "value": series})
    if series.dtype == pl.String:
        return lines.drop_nulls()
    return lines.explode("value").drop_nulls().unique()


def _frequent_values(lines: pl.DataFrame, *, least: int) -> tuple[str, ...]:
    """Values of at least `least` rows, the most frequent first, ties by name."""
    counts = lines.group_by("value").len("n_rows").filter(pl.col("n_rows") >= least)
    top = counts.sort(["n_rows", "value"], descending=[True, False]).head(MAX_VALUES)
    return tuple(top["value"])


def _as_numbers(series: pl.Series) -> NDArray[np.float64]:
    """Times as seconds since 1970; NaN where missing."""
    if series.dtype == TIME:
        series = series.dt.epoch("s")
    return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _name_of_place(column: FittedColumn, place: int) -> str:
    if place == 0:
        return f"{column.name}=?"
    if column.kind == "number":
        return column.name
    if column.kind in ("category", "tags", "text"):
        return f"{column.name}={column.values[place - 1]}"
    shown = ["", *(_show_edge(edge, column.kind) for edge in column.edges), ""]
    return f"{column.name}={shown[place - 1]}..{shown[place]}"


def _show_edge(edge: float, kind: FeatureKind) -> str:
    if kind == "time":
        return str(np.datetime64(int(edge), "s")).removesuffix("T00:00:00")
    return f"{edge:.7g}"
