"""What a service has written down, as tables: read in pages, beside the service that writes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import polars as pl
from pydantic_core import from_json

from candidfeed.store.records import Change, Event, SlateRecord
from candidfeed.store.store import Store

EVENTS: Final = {
    "cursor": pl.Int64, "user_id": pl.String, "item_id": pl.String, "kind": pl.String,
    "value": pl.Float64, "time_s": pl.Float64, "request_id": pl.String, "position": pl.Int64,
}  # fmt: skip
SHOWN: Final = {
    "request_id": pl.String, "user_id": pl.String, "time_s": pl.Float64, "item_id": pl.String,
    "position": pl.Int64, "propensity": pl.Float64,
}  # fmt: skip
_EVENTS_AT_ONCE: Final = 10_000
_SLATES_AT_ONCE: Final = 1_000
# Slots of this kind are somebody's order, not an item of the log.
_ORGANIC: Final = "organic"
_Record = TypeVar("_Record")


@dataclass(frozen=True)
class StoreLog:
    """
    Attributes:
        events: in the order in which they were committed, with the columns of EVENTS.
        shown: slots of slates that were answered to somebody, with the columns of SHOWN.
        items, users: the latest of each; `fields` is None where an item was deleted.
        n_slates: answered to somebody.
        n_slates_of_nobody: whose request named no user; not in `shown`.
        n_unread: slates that another program wrote, or a newer one.
    """

    events: pl.DataFrame
    shown: pl.DataFrame
    items: Sequence[Change]
    users: Sequence[Change]
    n_slates: int
    n_slates_of_nobody: int
    n_unread: int

    @property
    def is_empty(self) -> bool:
        return not (len(self.events) or self.n_slates or self.items or self.users)


def read_store(store: Store) -> StoreLog:
    """All of it; what is written meanwhile may be in or not.

    Raises:
        StoreError: the store can't be read.
    """
    # Events first: what they answer was written before them.
    events = _table(_pages(store.events_after, _EVENTS_AT_ONCE), _event_row, EVENTS)
    slates = _Slates()
    shown = _table(_pages(store.slates_after, _SLATES_AT_ONCE), slates.rows, SHOWN)
    items = [one for page in _changes(store.items_after) for one in page]
    users = [one for page in _changes(store.users_after) for one in page if one.id is not None]
    return StoreLog(events, shown, items, users, slates.n_read, slates.n_of_nobody, slates.n_unread)


def _event_row(cursor: int, one: Event) -> list[tuple[Any, ...]]:
    return [
        (
            cursor, one.user_id, one.item_id, one.kind, one.value, one.time_s, one.request_id,
            one.position,
        )
    ]  # fmt: skip


@dataclass
class _Slates:
    n_read: int = 0
    n_of_nobody: int = 0
    n_unread: int = 0

    def rows(self, _: int, record: SlateRecord) -> list[tuple[Any, ...]]:
        if record.user_id is None:
            self.n_of_nobody += 1
            return []
        try:
            slots = from_json(record.slots)["slots"]
            rows = [
                (
                    record.request_id, record.user_id, record.time_s, str(slot["item_id"]),
                    int(slot["position"]), slot.get("propensity"),
                )
                for slot in slots
                if slot["kind"] == _ORGANIC
            ]  # fmt: skip
        except (ValueError, TypeError, KeyError):
            self.n_unread += 1
            return []
        self.n_read += 1
        return rows


def _table(
    pages: Iterator[list[tuple[int, _Record]]],
    rows_of: Callable[[int, _Record], list[tuple[Any, ...]]],
    schema: dict[str, Any],
) -> pl.DataFrame:
    """One frame a page, then all in one: the store's rows are never all there as objects."""
    parts = [pl.DataFrame(schema=schema)]
    for page in pages:
        rows = [row for cursor, record in page for row in rows_of(cursor, record)]
        parts.append(pl.DataFrame(rows, schema=schema, orient="row"))
    return pl.concat(parts, rechunk=True)


def _pages(
    after: Callable[[int, int], list[tuple[int, _Record]]], size: int
) -> Iterator[list[tuple[int, _Record]]]:
    cursor = 0
    while page := after(cursor, size):
        yield page
        cursor = page[-1][0]


def _changes(after: Callable[[int, int], list[Change]]) -> Iterator[list[Change]]:
    cursor = 0
    while page := after(cursor, _EVENTS_AT_ONCE):
        yield page
        cursor = page[-1].cursor
