"""`Store`: events taken durably, and the state that the feed service reads.

The same class over SQLite and PostgreSQL; `open_store` takes either.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from candidfeed.errors import DataError, StoreError
from candidfeed.store.database import Database
from candidfeed.store.group import Compact, EraseUser, OtherWrite
from candidfeed.store.group_commit import CLOSED, GROUP_SLATES, GroupCommit, Health
from candidfeed.store.history import History, HistoryCache, Known
from candidfeed.store.records import (
    ApiKey,
    Change,
    Erasure,
    Event,
    Receipt,
    SlateRecord,
    check_number,
    check_text,
    encode_fields,
)
from candidfeed.store.tables import Reading, Writing

# Of one call: more at once would keep all others waiting.
LARGEST_BATCH: Final = 10_000
# Groups of events of this process that are remembered as its own until the next `refresh`.
_MOST_OWN: Final = 4_096


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Bounds of a store.

    Args:
        n_history: a user's latest events that `history` gives.
        n_seen: a user's latest events of which `seen` gives the items.
        n_cached_bytes: of what is held of users in memory; of one some 300, and 50 an event.
        n_waiting_events: events that may wait to be written before more are refused.
        n_waiting_slates: slates that may wait to be written before more are lost.
    """

    n_history: int = 512
    n_seen: int = 4_096
    n_cached_bytes: int = 4_000_000
    n_waiting_events: int = 50_000
    n_waiting_slates: int = 10_000

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise DataError(f"{name}: expected at least 1, came {getattr(self, name)}")


class Store:
    """A log of events and slates, and what is known of users and items; for any thread.

    Every method that writes returns once the write is on disk, and raises `StoreError` where it
    could not be written; after that it is as if it had never been asked, save that a lost
    connection to PostgreSQL may leave it open which (asking again is safe). Methods that read
    raise `StoreError` where the database can't be read. Ids, times and sizes are checked:
    `DataError`.

    Args:
        clock: seconds since 1970, for `health` alone.
        read_only: nothing is written, and another process may write the same store.
    """

    def __init__(
        self,
        database: Database,
        *,
        settings: StoreSettings,
        clock: Callable[[], float] = time.time,
        read_only: bool = False,
    ) -> None:
        self._database = database
        self._reading = Reading(database.fetch)
        self._known = HistoryCache(
            self._reading.about,
            n_history=settings.n_history,
            n_seen=settings.n_seen,
            n_bytes=settings.n_cached_bytes,
        )
        self._followed = self._reading.last_cursors()
        # Groups of events that this process wrote: the last cursor, and how many.
        self._own = deque[tuple[int, int]](maxlen=_MOST_OWN)
        self._is_closed = False
        self._commits: GroupCommit | None = None
        if not read_only:
            self._commits = GroupCommit(
                database,
                self._reading.secret,
                n_waiting_events=settings.n_waiting_events,
                n_waiting_slates=settings.n_waiting_slates,
                clock=clock,
                added=self._added,
                forget=self._known.forget,
            )

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Events

    def append_events(self, events: Sequence[Event]) -> Receipt:
        """Keep events, each id once, whoever sends it and however often.

        Returns once all are on disk: what is accepted is then in `history`, and survives a kill,
        a power cut and a restart.

        Raises:
            StoreBusyError: too many wait already; nothing was taken.
            StoreError: no room, or the disk or the connection fails; nothing is acknowledged.
            DataError: more than `LARGEST_BATCH` in one call.
        """
        return self.queue_events(events).result()

    def queue_events(self, events: Sequence[Event]) -> Future[Receipt]:
        """The same without waiting: the future ends when `append_events` would return or raise.

        Raises:
            StoreBusyError, DataError: as there, at once.
        """
        if len(events) > LARGEST_BATCH:
            raise DataError(
                f"events: expected at most {LARGEST_BATCH} in one batch, came {len(events)}"
            )
        return self._writer().add_events(tuple(events))

    def events_after(self, cursor: int, limit: int) -> list[tuple[int, Event]]:
        """Events in the order in which they were committed, each with its cursor.

        Begin with 0 and go on with the last cursor: no event is left out or comes twice, while
        others are written too. Cursors grow, with gaps.
        """
        return self._read().events_after(cursor, limit)

    # Slates

    def log_slate(self, record: SlateRecord) -> bool:
        """Keep what was answered to a request, soon; never waits.

        Returns:
            False where it was lost because too many wait (`Health.n_lost_slates`).
        """
        return self._writer().log_slate(record)

    def slate(self, request_id: str) -> SlateRecord | None:
        """What was answered to a request, on disk or on its way there; None: not known."""
        waiting = self._commits.waiting_slate(request_id) if self._commits else None
        return waiting or self._read().slate(request_id)

    def slates_after(self, cursor: int, limit: int) -> list[tuple[int, SlateRecord]]:
        """Slates in the order in which they were committed, as `events_after`."""
        return self._read().slates_after(cursor, limit)

    # Users

    def about(self, user_id: str) -> Known:
        """All that a feed reads of a user, mostly from memory; nothing of one who is not known."""
        self._read()
        return self._known.get(user_id)

    def history(self, user_id: str) -> History:
        """The user's latest events, oldest first; empty for one who is not known."""
        return self.about(user_id).history

    def seen(self, user_id: str) -> frozenset[str]:
        """Items of the user's latest events, further back than `history`."""
        return self.about(user_id).seen

    def counts(self, user_id: str) -> Mapping[str, int]:
        """How many events of each kind the store holds of the user."""
        return self.about(user_id).counts

    def put_user(self, user_id: str, fields: Mapping[str, Any], time_s: float) -> bool:
        """Replace what is known of a user; False, and nothing kept, where they were erased."""
        encoded = _checked("user_id", user_id, fields, time_s)
        is_kept = self._write(lambda writing: writing.put_user(user_id, encoded, time_s))
        self._known.forget([user_id])
        return is_kept

    def user(self, user_id: str) -> Change | None:
        """The latest that is known of a user; None where nothing is."""
        return self._read().user(user_id)

    def users_after(self, cursor: int, limit: int) -> list[Change]:
        """What changed after the cursor, the latest of each user, in the order of change.

        An erasure comes as a change without an id: drop what you hold of users, or ask
        `is_erased` of each.
        """
        return self._read().users_after(cursor, limit)

    def delete_user(self, user_id: str, time_s: float) -> Erasure:
        """Erase a user: events, slates, features and keys, from all tables and from the files.

        A keyed hash of the id stays, so that what comes later under this id is refused
        (`Receipt`), and a log that is read again can leave it out (`is_erased`).
        """
        check_text("user_id", user_id)
        check_number("time_s", time_s)
        return self._writer().put(EraseUser(user_id, time_s))

    def is_erased(self, user_id: str) -> bool:
        """Whether this user was erased."""
        return self._read().is_erased(user_id)

    def traces_of(self, user_id: str) -> dict[str, int]:
        """By table, how many rows still tell of a user: none once they were erased."""
        return self._read().traces_of(user_id)

    def erased_of(self, user_ids: Iterable[str]) -> set[str]:
        """Those of these users who were erased: one query, whatever their number."""
        return self._read().erased_of(user_ids)

    # Items

    def put_item(self, item_id: str, fields: Mapping[str, Any], time_s: float) -> int | None:
        """Replace what is known of an item; the cursor of this change.

        None, and nothing kept, where the item was deleted: it never comes back.
        """
        encoded = _checked("item_id", item_id, fields, time_s)
        return self._write(lambda writing: writing.put_item(item_id, encoded, time_s))

    def delete_item(self, item_id: str, time_s: float) -> int:
        """Say that an item is gone for good, also where it was never put; the cursor of this."""
        check_text("item_id", item_id)
        check_number("time_s", time_s)
        return self._write(lambda writing: writing.put_item(item_id, None, time_s))

    def item(self, item_id: str) -> Change | None:
        """The latest that is known of an item; None where it was never put or deleted."""
        return self._read().item(item_id)

    def items_after(self, cursor: int, limit: int) -> list[Change]:
        """What changed after the cursor, the latest of each item, in the order of change."""
        return self._read().items_after(cursor, limit)

    # Keys

    def add_key(self, key: ApiKey) -> bool:
        """Keep an API key in the place of the one of its name; False where its user was erased."""
        return self._write(lambda writing: writing.add_key(key))

    def keys(self) -> list[ApiKey]:
        """All API keys, by name."""
        return self._read().keys()

    def remove_key(self, name: str) -> bool:
        """Forget an API key; whether there was one."""
        return self._write(lambda writing: writing.remove_key(name))

    # The store itself

    def refresh(self) -> None:
        """Take in what other processes wrote since the last call; needed only where they do."""
        events, users = self._followed
        events = self._behind_own(events)
        while page := self._read().events_after(events, LARGEST_BATCH):
            events = page[-1][0]
            self._known.add(page)
        while changes := self._reading.users_after(users, LARGEST_BATCH):
            users = changes[-1].cursor
            if any(change.id is None for change in changes):
                self._known.clear()
            self._known.forget(change.id for change in changes if change.id is not None)
        self._followed = events, users

    def compact(self) -> None:
        """Write the files anew without what was erased or replaced; others wait meanwhile."""
        self._writer().put(Compact())

    def flush(self) -> None:
        """Wait until the slates that were logged before are on disk.

        Raises:
            StoreError: they could not be written; they are kept and tried again.
        """
        writer = self._writer()
        n_groups = 1 + writer.health().n_waiting_slates // GROUP_SLATES
        for _ in range(n_groups):
            writer.put(OtherWrite(lambda _: None))
        reason = writer.health().reason
        if reason:
            raise StoreError(reason)

    def health(self) -> Health:
        """Whether it can write, since when not and why, and what waits."""
        return self._writer().health()

    def close(self) -> None:
        """Write what waits, and let go of the files; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            if self._commits:
                self._commits.close()
            self._database.close()

    def _added(self, committed: list[tuple[int, Event]]) -> None:
        self._known.add(committed)
        if committed:
            self._own.append((committed[-1][0], len(committed)))

    def _behind_own(self, cursor: int) -> int:
        """The cursor behind what this process wrote after that one, where nobody else did.

        It is known already: to read it again would keep Python's lock from those who make feeds.
        """
        n_own, last = 0, cursor
        while self._own:
            until, n = self._own.popleft()
            if until > cursor:
                n_own, last = n_own + n, until
        return last if n_own and self._read().n_events(cursor, last) == n_own else cursor

    def _read(self) -> Reading:
        if self._is_closed:
            raise StoreError(CLOSED)
        return self._reading

    def _writer(self) -> GroupCommit:
        if self._commits is None:
            raise StoreError("the store was opened for reading only")
        return self._commits

    def _write(self, run: Callable[[Writing], Any]) -> Any:
        return self._writer().put(OtherWrite(run))


def open_store(
    where: str, *, settings: StoreSettings | None = None, read_only: bool = False
) -> Store:
    """The store at a place, made where there is none yet.

    Args:
        where: the path of a SQLite file, or `postgresql://USER@HOST/DATABASE`.
        read_only: open one that is there, beside the process that writes it.

    Raises:
        StoreError: it can't be opened, and why.
        ConfigError: PostgreSQL is asked for and its driver is not installed.
    """
    if where.startswith(("postgresql://", "postgres://")):
        # Here, because most installations have no driver for it.
        from candidfeed.store.postgres import PostgresDatabase

        database: Database = PostgresDatabase(where, read_only=read_only)
    else:
        from candidfeed.store.sqlite import SqliteDatabase

        database = SqliteDatabase(Path(where), read_only=read_only)
    try:
        return Store(database, settings=settings or StoreSettings(), read_only=read_only)
    except BaseException:
        database.close()
        raise


def _checked(name: str, key: str, fields: Mapping[str, Any], time_s: float) -> str:
    check_text(name, key)
    check_number("time_s", time_s)
    return encode_fields(fields)
