"""What a user did lately, kept in memory over the store: read in microseconds, bounded in size."""

import json
from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from threading import Lock
from typing import Any, Final, NamedTuple

from pydantic_core import from_json, to_json

from candidfeed.store.database import Row
from candidfeed.store.records import Event

# What a cached user takes beside what is packed of them: their id, and a place in the cache.
_ENTRY_BYTES: Final = 250
_N_STAMPS: Final = 4_096


@dataclass(frozen=True, slots=True)
class History:
    """Aligned columns of a user's latest events, oldest first; equal times in commit order."""

    item_ids: tuple[str, ...]
    kinds: tuple[str, ...]
    values: tuple[float | None, ...]
    times_s: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one user.

    Attributes:
        seen: items of the latest events, further back than the history.
        counts: how many events there are of each kind, all that the store holds.
        fields: what was put of them; empty where nothing was.
        is_erased: nothing of them may be read any more, elsewhere neither.
    """

    history: History
    seen: frozenset[str]
    counts: Mapping[str, int]
    fields: Mapping[str, Any]
    is_erased: bool


class Loaded(NamedTuple):
    """What a store holds of one user.

    Attributes:
        events: (cursor, item_id, kind, value, time_s) of the latest, latest first.
        counts, is_erased: as in `Known`.
        fields: JSON, as it was put; empty where nothing was.
    """

    events: list[Row]
    counts: Mapping[str, int]
    fields: str
    is_erased: bool


@dataclass(slots=True)
class _Entry:
    """What is held of one user, to be packed, or changed and packed again.

    Attributes:
        older: items that count as seen and are not in the history.
        fields: as in `Loaded`: what they hold need not be what `to_json` takes.
    """

    item_ids: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    cursors: list[int] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    fields: str = ""
    is_erased: bool = False

    @staticmethod
    def of(loaded: Loaded, *, n_history: int) -> "_Entry":
        entry = _Entry(
            older=list({row[1] for row in loaded.events[n_history:]}),
            counts=dict(loaded.counts),
            fields=loaded.fields,
            is_erased=loaded.is_erased,
        )
        for row in reversed(loaded.events[:n_history]):
            for column, value in zip(entry.columns, row, strict=True):
                column.append(value)
        return entry

    @property
    def columns(self) -> tuple[list[Any], ...]:
        """Of the history, in the order of the store's rows."""
        return self.cursors, self.item_ids, self.kinds, self.values, self.times_s

    @property
    def latest(self) -> int:
        return max(self.cursors, default=0)

    def packed(self) -> bytes:
        return to_json(_ALL_OF(self))

    @property
    def known(self) -> Known:
        if not (self.item_ids or self.fields or self.is_erased):
            return _NOTHING
        history = History(
            tuple(self.item_ids), tuple(self.kinds), tuple(self.values), tuple(self.times_s)
        )
        seen = frozenset(self.item_ids).union(self.older)
        fields = json.loads(self.fields) if self.fields else {}
        return Known(history, seen, self.counts, fields, self.is_erased)

    def take_in(self, cursor: int, event: Event, *, n_history: int) -> bool:
        """Add an event where it is not there yet; False where that can't be told."""
        times_s, cursors = self.times_s, self.cursors
        is_full = len(cursors) >= n_history
        if is_full and (event.time_s, cursor) < (times_s[0], cursors[0]):
            # It may have been counted before.
            return False
        if cursor in cursors:
            return True
        at = bisect_right(times_s, event.time_s)
        # Events of one time stand in commit order, which is not always that of being told.
        while at and times_s[at - 1] == event.time_s and cursors[at - 1] > cursor:
            at -= 1
        row = cursor, event.item_id, event.kind, event.value, event.time_s
        for column, value in zip(self.columns, row, strict=True):
            column.insert(at, value)
        if is_full:
            if (item_id := self.item_ids[0]) not in self.older:
                self.older.append(item_id)
            for column in self.columns:
                del column[0]
        self.counts[event.kind] = self.counts.get(event.kind, 0) + 1
        return True


class HistoryCache:
    """The users asked for lately, kept up to date by what is committed.

    Each is packed into bytes: as objects they take several times as much, nobody can say how much,
    and each full collection of Python's looks through all of them.

    Args:
        load: what the store holds of a user, at most so many of their latest events.
        n_history: events of a history.
        n_seen: latest events of which the items count as seen.
        n_bytes: of all cached users together.
    """

    def __init__(
        self,
        load: Callable[[str, int], Loaded],
        *,
        n_history: int,
        n_seen: int,
        n_bytes: int,
    ) -> None:
        self._load = load
        self._n_history = n_history
        self._n_seen = max(n_seen, n_history)
        self._n_bytes = n_bytes
        self._n_held = 0
        self._users: OrderedDict[str, bytes] = OrderedDict()
        # Counts changes, of many users at once: what was read before a change is not kept after.
        self._stamps = [0] * _N_STAMPS
        self._lock = Lock()

    def get(self, user_id: str) -> Known:
        """What is known of a user; of one who is not known, nothing."""
        place = hash(user_id) % _N_STAMPS
        with self._lock:
            packed = self._users.get(user_id)
            if packed is not None:
                self._users.move_to_end(user_id)
            stamp = self._stamps[place]
        if packed is not None:
            return _unpacked(packed).known
        entry = _Entry.of(self._load(user_id, self._n_seen), n_history=self._n_history)
        packed = entry.packed()
        with self._lock:
            if self._stamps[place] == stamp:
                kept = self._users.get(user_id)
                if kept is not None and (other := _unpacked(kept)).latest >= entry.latest:
                    # Another thread read the same, or more, meanwhile.
                    return other.known
                self._keep(user_id, packed)
        return entry.known

    def add(self, committed: Iterable[tuple[int, Event]]) -> None:
        """Take in events that were committed, each with its cursor; any may be told twice."""
        of_user = defaultdict[str, list[tuple[int, Event]]](list)
        for cursor, event in committed:
            of_user[event.user_id].append((cursor, event))
        with self._lock:
            for user_id, events in of_user.items():
                self._stamps[hash(user_id) % _N_STAMPS] += 1
                if (packed := self._users.get(user_id)) is not None:
                    self._take_in(user_id, _unpacked(packed), events)

    def forget(self, user_ids: Iterable[str]) -> None:
        """Drop these users: the next to ask reads the store."""
        with self._lock:
            for user_id in user_ids:
                self._stamps[hash(user_id) % _N_STAMPS] += 1
                self._drop(user_id)

    def clear(self) -> None:
        """Drop all users."""
        with self._lock:
            self._stamps = [stamp + 1 for stamp in self._stamps]
            self._users.clear()
            self._n_held = 0

    def __len__(self) -> int:
        return len(self._users)

    def _take_in(self, user_id: str, entry: _Entry, events: Sequence[tuple[int, Event]]) -> None:
        n = self._n_history
        are_in = all(entry.take_in(cursor, event, n_history=n) for cursor, event in events)
        if are_in and len(entry.older) < self._n_seen:
            self._keep(user_id, entry.packed())
        else:
            self._drop(user_id)

    def _keep(self, user_id: str, packed: bytes) -> None:
        self._drop(user_id)
        self._users[user_id] = packed
        self._n_held += _size(packed)
        while self._n_held > self._n_bytes:
            _, dropped = self._users.popitem(last=False)
            self._n_held -= _size(dropped)

    def _drop(self, user_id: str) -> None:
        packed = self._users.pop(user_id, None)
        if packed is not None:
            self._n_held -= _size(packed)


_ALL_OF: Final = attrgetter(*_Entry.__slots__)
# Shared by all users of whom nothing is known.
_NOTHING: Final = Known(History((), (), (), ()), frozenset(), {}, {}, is_erased=False)


def _unpacked(packed: bytes) -> _Entry:
    # Not its values: ids of those who were dropped, or erased, would stay in memory.
    return _Entry(*from_json(packed, cache_strings="keys"))


def _size(packed: bytes) -> int:
    return _ENTRY_BYTES + len(packed)
