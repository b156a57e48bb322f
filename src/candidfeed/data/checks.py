"""What every data set must satisfy, and what becomes of rows that can't be used."""

import contextlib
import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.data.columns import Fault, place, show
from candidfeed.data.tables import (
    COLUMN_TYPES,
    EVENT_COLUMNS,
    FURTHER_COLUMNS,
    TIME,
    Dataset,
    Feature,
)
from candidfeed.errors import DataError

QUARANTINE = {"file": pl.String, "row": pl.Int64, "reason": pl.String, "received": pl.String}
DUPLICATE = "duplicate event: same user, item, kind and time"
CONTRADICTION = "contradicting event: same user, item, kind and time, another value"
REPEATED_ID = "the id stands twice"
CONTRADICTING_ID = "the id stands twice, with other values"
_REASONS_TOLD = 5
_KEY = ("user_id", "item_id", "kind", "timestamp")


def sift(places: pl.DataFrame, faults: Sequence[Fault]) -> tuple[pl.Series, pl.DataFrame]:
    """Part the rows that can be used from those that can't.

    Args:
        places: the file and the row of each row, two columns in this order.
        faults: a row with several is put down to the first.

    Returns:
        A mask of the rows to keep, and a quarantine frame with one row for each other one.
    """
    keep = pl.repeat(True, len(places), dtype=pl.Boolean, eager=True)
    removed = [pl.DataFrame(schema=QUARANTINE)]
    for fault in faults:
        bad = keep & fault.bad
        if not bad.any():
            continue
        keep = keep & ~bad
        found = places.filter(bad)
        received = [show(value, quoted=fault.quoted) for value in fault.received.filter(bad)]
        removed.append(
            pl.DataFrame(
                {
                    "file": found.to_series(0),
                    "row": found.to_series(1),
                    "reason": pl.repeat(fault.reason, len(found), dtype=pl.String, eager=True),
                    "received": pl.Series(received, dtype=pl.String),
                },
                schema=QUARANTINE,
            )
        )
    return keep, pl.concat(removed).sort("file", "row", maintain_order=True)


def repeated_events(events: pl.DataFrame) -> tuple[Fault, ...]:
    """Events that stand in the log more than once.

    Of equal ones the first is kept. Where their values differ, none can be trusted: all are
    removed, so that the result does not depend on the order of the rows.
    """
    at = _maybe_repeated(events.select(_KEY))
    suspects = events[at]
    repeated = suspects.select(_KEY).is_duplicated()
    if not repeated.any():
        return ()
    n_values = suspects.select(pl.col("value").n_unique().over(_KEY)).to_series()
    first = suspects.select(pl.struct(_KEY).is_first_distinct()).to_series()
    received = suspects.select(
        pl.format(
            "user {}, item {}, {}, {}, value {}",
            pl.col("user_id").cast(pl.String),
            pl.col("item_id").cast(pl.String),
            pl.col("kind"),
            pl.col("timestamp").dt.strftime("%Y-%m-%d %H:%M:%S%.f").fill_null("no time"),
            pl.col("value").cast(pl.String).fill_null("none"),
        )
    ).to_series()
    of_all = partial(_spread, at, len(events))
    shown = of_all(received, None)
    return (
        Fault(CONTRADICTION, of_all(repeated & (n_values > 1), False), shown, quoted=False),
        Fault(DUPLICATE, of_all(repeated & ~first, False), shown, quoted=False),
    )


def _maybe_repeated(key: pl.DataFrame) -> NDArray[np.int64]:
    """Places of all rows that stand more than once, in order, and of few others.

    By sorted hashes: to compare whole rows takes 200 bytes each.
    """
    hashes = key.hash_rows().to_numpy()
    in_order = np.sort(hashes)
    twice = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    del in_order
    return np.flatnonzero(np.isin(hashes, twice)) if len(twice) else np.empty(0, np.int64)


def _spread(at: NDArray[np.int64], n: int, values: pl.Series, others: bool | None) -> pl.Series:
    """A column of n rows with these values at these places."""
    return pl.repeat(others, n, dtype=values.dtype, eager=True).scatter(at, values)


def repeated_ids(table: pl.DataFrame, *, key: str) -> tuple[Fault, ...]:
    """The same for the rows of a users' or items' table: one an id."""
    repeated = table[key].is_duplicated()
    if not repeated.any():
        return ()
    rows = pl.DataFrame({"id": table[key], "row": table.hash_rows()})
    n_variants = rows.select(pl.col("row").n_unique().over("id")).to_series()
    first = table[key].is_first_distinct()
    contradicts = repeated & (n_variants > 1)
    return (
        Fault(CONTRADICTING_ID, contradicts, table[key]),
        Fault(REPEATED_ID, repeated & ~first, table[key]),
    )


def check_canonical(dataset: Dataset) -> Dataset:
    """The same data set, once it is known to be as `Dataset` says.

    Raises:
        DataError: a column is missing, has another type or holds nulls, an id stands twice in a
            table, or an event names a user or an item that its table does not have.
    """
    _check_events(dataset)
    _check_table(dataset, "users", "user_id", dataset.users, dataset.user_features)
    _check_table(dataset, "items", "item_id", dataset.items, dataset.item_features)
    if dict(dataset.quarantine.schema) != QUARANTINE:
        raise DataError(f"{dataset.name}: quarantine has the columns {dataset.quarantine.schema}")
    if not 0 <= len(dataset.events) <= dataset.rows_read:
        raise DataError(
            f"{dataset.name}: {len(dataset.events):,} events of {dataset.rows_read:,} rows read"
        )
    return dataset


def _check_events(dataset: Dataset) -> None:
    events = dataset.events
    further = [column for column in FURTHER_COLUMNS if column in events.columns]
    expected = [*EVENT_COLUMNS, *further]
    if events.columns != expected:
        raise DataError(f"{dataset.name}: events have the columns {events.columns}, not {expected}")
    types = {"kind": pl.String(), "value": pl.Float32(), "timestamp": TIME, **FURTHER_COLUMNS}
    for column, dtype in types.items():
        if events.schema.get(column, dtype) != dtype:
            raise DataError(
                f"{dataset.name}: events.{column} is {events.schema[column]}, not {dtype}"
            )
    n_times = len(events) - events["timestamp"].null_count()
    if n_times not in (0, len(events)):
        raise DataError(f"{dataset.name}: {n_times:,} of {len(events):,} events have a time")
    for column in ("user_id", "item_id", "kind", *(one for one in further if one == "part")):
        if events[column].null_count():
            raise DataError(f"{dataset.name}: events.{column} has nulls")


def _check_table(
    dataset: Dataset, table: str, key: str, frame: pl.DataFrame, features: Sequence[Feature]
) -> None:
    title: dict[str, pl.DataType] = {"title": pl.String()} if table == "items" else {}
    types = title | {feature.name: COLUMN_TYPES[feature.kind] for feature in features}
    if frame.columns != [key, *types]:
        raise DataError(f"{dataset.name}: {table} have the columns {frame.columns}")
    for column, dtype in types.items():
        if frame.schema[column] != dtype:
            raise DataError(f"{dataset.name}: {table}.{column} is {frame.schema[column]}")
    ids, named = frame[key], dataset.events[key]
    if ids.dtype != named.dtype or ids.dtype not in (pl.Int64, pl.String):
        raise DataError(f"{dataset.name}: {key} is {ids.dtype} in {table}, {named.dtype} in events")
    if ids.null_count() or ids.n_unique() != len(ids):
        raise DataError(f"{dataset.name}: {table}.{key} has nulls or stands twice")
    if not named.is_in(ids.implode()).all():
        raise DataError(f"{dataset.name}: events name a {key} that is not in {table}")


def reasons(quarantine: pl.DataFrame) -> pl.DataFrame:
    """How many rows each reason removed and the first of them: `n` and the quarantine's columns."""
    counted = quarantine.group_by("reason", maintain_order=True).agg(
        pl.len().alias("n"), pl.col("file", "row", "received").first()
    )
    return counted.sort("n", "reason", descending=[True, False])


def write_quarantine(dataset: Dataset, path: Path) -> Path | None:
    """Write the rows that can't be used as CSV, as one step; None where there are none."""
    if not len(dataset.quarantine):
        return None
    content = dataset.quarantine.write_csv().encode()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            path.write_bytes(content)  # /dev/stdout, say
            return path
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise DataError(
            f"{path}: the quarantined rows can't be written there ({error.strerror or error}); "
            "run this in a folder that can be written to"
        ) from error
    return path


def require_usable(dataset: Dataset, *, quarantine: Path | None = None) -> Path | None:
    """Stop what would train on a data set with too many bad rows, or with too little in it.

    Quarantined rows of the users' and items' tables count too.

    Args:
        dataset: what a reader returned.
        quarantine: where to write the rows that can't be used; `NAME.quarantine.csv` in the
            current folder where it is None. Nothing is written where there are none.

    Returns:
        The file that was written, None where all rows can be used.

    Raises:
        DataError: more rows are bad than `max_bad_share` allows, no event is usable or positive,
            or there are fewer than two users or items.
    """
    path = quarantine or Path(f"{dataset.name}.quarantine.csv")
    n_bad = len(dataset.quarantine)
    if n_bad and (n_bad > dataset.max_bad_share * dataset.rows_read or not len(dataset.events)):
        try:
            where = f"all are in {write_quarantine(dataset, path)}"
        except DataError as error:
            where = str(error)
        raise DataError(f"{describe_quarantine(dataset)}; {where}; {_mend(dataset)}")
    written = write_quarantine(dataset, path)
    _require_substance(dataset)
    return written


def describe_quarantine(dataset: Dataset) -> str:
    """How many rows can't be used, why, and the first of them, in one line."""
    counted = reasons(dataset.quarantine)
    told = [f"{row['n']:,} x {row['reason']}" for row in counted.iter_rows(named=True)]
    if len(told) > _REASONS_TOLD:
        n_more = len(told) - _REASONS_TOLD
        told = [*told[:_REASONS_TOLD], f"{n_more} more reason{'s' * (n_more != 1)}"]
    first = dataset.quarantine.row(0, named=True)
    n_bad = len(dataset.quarantine)
    return (
        f"{dataset.name}: {n_bad:,} row{'s' * (n_bad != 1)} can't be used (the log has "
        f"{dataset.rows_read:,}): {', '.join(told)}; "
        f"first: {place(first['file'], first['row'])}, received {first['received']}"
    )


def _mend(dataset: Dataset) -> str:
    share = len(dataset.quarantine) / max(dataset.rows_read, 1)
    if dataset.has_given_split:
        return "remove them from the files"
    if share > 0.5 or not len(dataset.events):
        return "fix the rows"
    allowed = max(0.01, math.ceil(share * 100) / 100)
    return f"fix the rows or allow them: max_bad_share = {allowed:g} under [events]"


def _require_substance(dataset: Dataset) -> None:
    events = dataset.events
    if not len(events):
        raise DataError(f"{dataset.name}: has no usable event; nothing can be learned from it")
    for column, word in (("user_id", "user"), ("item_id", "item")):
        ids = events[column].unique()
        if len(ids) < 2:
            raise DataError(
                f"{dataset.name}: all {len(events):,} events are of one {word} ({show(ids[0])}); "
                "at least 2 users and 2 items are needed"
            )
    if not events["kind"].is_in(list(dataset.positive_kinds)).any():
        raise DataError(
            f"{dataset.name}: no event is positive; `positive` under [events] names "
            f"{', '.join(map(repr, dataset.positive_kinds))}, the log has "
            f"{', '.join(map(repr, events['kind'].unique().sort()))}"
        )
