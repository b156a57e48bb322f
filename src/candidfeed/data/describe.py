"""What a data set holds, as plain figures."""

from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.data.checks import reasons
from candidfeed.data.splits import Split
from candidfeed.data.tables import Dataset

_N_TOP = 10
_MAX_DISTINCT_VALUES = 20
_N_VALUE_BINS = 10


@dataclass(frozen=True)
class Bin:
    """How many fall between `low` and `high`, both included."""

    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Spread:
    """How a count is spread over users or items that have at least one event."""

    mean: float
    median: float
    least: int
    most: int
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class TopItem:
    """One of the most popular items; `share` is its share of the events."""

    item_id: int | str
    title: str
    n: int
    share: float


@dataclass(frozen=True)
class Values:
    """The values that events carry: each one where they are few, else ten equal bins."""

    n: int
    mean: float
    liked_share: float | None
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Cold:
    """What a split asks for that its training rows do not know.

    The shares are of the users and items of the test part, and of its rows.
    """

    protocol: str
    seed: int
    n_train: int
    n_history: int
    n_test: int
    users: float
    items: float
    rows_of_cold_users: float
    rows_of_cold_items: float


@dataclass(frozen=True)
class ColumnSummary:
    """One column of one table; `kind` is the feature's kind or "" for other columns."""

    table: str
    column: str
    kind: str
    sensitive: bool
    n_missing: int
    n_rows: int


@dataclass(frozen=True)
class QuarantineReason:
    """Rows that can't be used for one reason, and the first of them."""

    reason: str
    n: int
    file: str
    row: int
    received: str


@dataclass(frozen=True)
class Description:
    """The figures of one data set.

    Attributes:
        n_users, n_items: of the tables, those without an event included.
        density: distinct (user, item) pairs over users times items that have an event.
        first_time, last_time: ISO 8601, UTC; None where the log has no times.
        parts: events by part of the data set's own split; empty where it brings none.
        cold: None where the split is impossible.
    """

    name: str
    n_events: int
    n_users: int
    n_items: int
    n_users_without_events: int
    n_items_without_events: int
    density: float
    kinds: dict[str, int]
    positive_kinds: tuple[str, ...]
    parts: dict[str, int]
    first_time: str | None
    last_time: str | None
    events_per_user: Spread | None
    events_per_item: Spread | None
    values: Values | None
    top_items: tuple[TopItem, ...]
    cold: Cold | None
    columns: tuple[ColumnSummary, ...]
    n_rows_read: int
    n_quarantined: int
    quarantine: tuple[QuarantineReason, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON types."""
        return asdict(self)


def describe(dataset: Dataset, split: Split | None) -> Description:
    """Count what is there; `split` is None where the data set can't be split."""
    events = dataset.events
    n_pairs = events.select(pl.struct("user_id", "item_id").n_unique()).item() if len(events) else 0
    n_active_users, n_active_items = events["user_id"].n_unique(), events["item_id"].n_unique()
    return Description(
        name=dataset.name,
        n_events=len(events),
        n_users=len(dataset.users),
        n_items=len(dataset.items),
        n_users_without_events=len(dataset.users) - n_active_users,
        n_items_without_events=len(dataset.items) - n_active_items,
        density=n_pairs / max(n_active_users * n_active_items, 1),
        kinds=_counts(events, "kind"),
        positive_kinds=dataset.positive_kinds,
        parts=_counts(events, "part") if dataset.has_given_split else {},
        first_time=_iso(events["timestamp"].min()),
        last_time=_iso(events["timestamp"].max()),
        events_per_user=_spread(events["user_id"]),
        events_per_item=_spread(events["item_id"]),
        values=_values(events["value"].drop_nulls(), dataset.like_at),
        top_items=_top_items(dataset),
        cold=_cold(split) if split is not None else None,
        columns=tuple(_columns(dataset)),
        n_rows_read=dataset.rows_read,
        n_quarantined=len(dataset.quarantine),
        quarantine=tuple(
            QuarantineReason(**row) for row in reasons(dataset.quarantine).iter_rows(named=True)
        ),
    )


def log_bins(counts: NDArray[np.int64]) -> tuple[Bin, ...]:
    """Counts >= 1 in bins that double: 1, 2-3, 4-7, 8-15, ...; empty ones between stay."""
    if not len(counts):
        return ()
    power = np.floor(np.log2(counts)).astype(np.int64)
    heights = np.bincount(power)[power.min() :]
    first = int(power.min())
    return tuple(
        Bin(low=2**place, high=2 ** (place + 1) - 1, n=int(n))
        for place, n in enumerate(heights, start=first)
    )


def _counts(events: pl.DataFrame, column: str) -> dict[str, int]:
    counted = events.group_by(column, maintain_order=True).len()
    return dict(counted.iter_rows())


def _iso(moment: object) -> str | None:
    return moment.isoformat() if isinstance(moment, datetime) else None


def _spread(ids: pl.Series) -> Spread | None:
    counts = ids.unique_counts().to_numpy().astype(np.int64)
    if not len(counts):
        return None
    return Spread(
        mean=float(counts.mean()),
        median=float(np.median(counts)),
        least=int(counts.min()),
        most=int(counts.max()),
        bins=log_bins(counts),
    )


def _values(values: pl.Series, like_at: float | None) -> Values | None:
    if not len(values):
        return None
    numbers = values.to_numpy().astype(np.float64)
    distinct, counts = np.unique(numbers, return_counts=True)
    if len(distinct) <= _MAX_DISTINCT_VALUES:
        edges = [(value, value) for value in distinct]
    else:
        counts, cuts = np.histogram(numbers, bins=_N_VALUE_BINS)
        edges = list(pairwise(cuts))
    return Values(
        n=len(numbers),
        mean=float(numbers.mean()),
        liked_share=None if like_at is None else float((numbers >= like_at).mean()),
        bins=tuple(
            Bin(low=float(low), high=float(high), n=int(n))
            for (low, high), n in zip(edges, counts, strict=True)
        ),
    )


def _top_items(dataset: Dataset) -> tuple[TopItem, ...]:
    """Ties in the order of the id."""
    counted = (
        dataset.events.group_by("item_id").len("n").sort("n", "item_id", descending=[True, False])
    )
    titled = counted.head(_N_TOP).join(
        dataset.items.select("item_id", "title"), on="item_id", how="left", maintain_order="left"
    )
    n_events = len(dataset.events)
    return tuple(TopItem(**row, share=row["n"] / n_events) for row in titled.iter_rows(named=True))


def _cold(split: Split) -> Cold:
    shares = {}
    for word, train, test in (
        ("user", split.train.user, split.test.user),
        ("item", split.train.item, split.test.item),
    ):
        asked = np.unique(test)
        shares[f"{word}s"] = float((~np.isin(asked, train)).mean())
        shares[f"rows_of_cold_{word}s"] = float((~np.isin(test, train)).mean())
    return Cold(
        protocol=split.protocol,
        seed=split.seed,
        n_train=len(split.train),
        n_history=len(split.history),
        n_test=len(split.test),
        **shares,
    )


def _columns(dataset: Dataset) -> list[ColumnSummary]:
    tables = (
        ("events", dataset.events, ()),
        ("users", dataset.users, dataset.user_features),
        ("items", dataset.items, dataset.item_features),
    )
    summaries = []
    for table, frame, features in tables:
        known = {feature.name: feature for feature in features}
        for column in frame.columns:
            feature = known.get(column)
            summaries.append(
                ColumnSummary(
                    table=table,
                    column=column,
                    kind=feature.kind if feature else "",
                    sensitive=feature.sensitive if feature else False,
                    n_missing=frame[column].null_count(),
                    n_rows=len(frame),
                )
            )
    return summaries
