"""What a user did lately, kept in memory over the store: read in microseconds, bounded in size."""

import sys
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Final, NamedTuple

from candidfeed.store.database import Row
from candidfeed.store.records import Event

# What a cached user takes beside their events, in events.
_ENTRY_EVENTS: Final = 8
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
    """What is cached of one user.

    Attributes:
        cursors: of each event of the history.
        seen: items of the latest events, further back than the history.
        counts: how many events there are of each kind, all that the store holds.
        fields: what was put of them; empty where nothing was.
        is_erased: nothing of them may be read any more, elsewhere neither.
    """

    history: History
    cursors: tuple[int, ...]
    seen: frozenset[str]
    counts: Mapping[str, int]
    fields: Mapping[str, Any]
    is_erased: bool


class Loaded(NamedTuple):
    """What a store holds of one user.

    Attributes:
        events: (cursor, item_id, kind, value, time_s) of the latest, latest first.
        counts, fields, is_erased: as in `Known`.
    """

    events: list[Row]
    counts: Mapping[str, int]
    fields: Mapping[str, Any]
    is_erased: bool


class HistoryCache:
    """The users asked for lately, kept up to date by what is committed.

    Args:
        load: what the store holds of a user, at most so many of their latest events.
        n_history: events of a history.
        n_seen: latest events of which the items count as seen.
        n_events: events of all cached users together.
    """

    def __init__(
        self,
        load: Callable[[str, int], Loaded],
        *,
        n_history: int,
        n_seen: int,
        n_events: int,
    ) -> None:
        self._load = load
        self._n_history = n_history
        self._n_seen = max(n_seen, n_history)
        self._n_events = n_events
        self._n_held = 0
        self._users: OrderedDict[str, Known] = OrderedDict()
        # Counts changes, of many users at once: what was read before a change is not kept after.
        self._stamps = [0] * _N_STAMPS
        self._lock = Lock()

    def get(self, user_id: str) -> Known:
        """What is known of a user; of one who is not known, nothing."""
        place = hash(user_id) % _N_STAMPS
        with self._lock:
            known = self._users.get(user_id)
            if known is not None:
                self._users.move_to_end(user_id)
                return known
            stamp = self._stamps[place]
        known = self._known(self._load(user_id, self._n_seen))
        with self._lock:
            if self._stamps[place] == stamp:
                kept = self._users.get(user_id)
                if kept is not None and _latest(kept) >= _latest(known):
                    # Another thread read the same, or more, meanwhile.
                    return kept
                self._keep(user_id, known)
        return known

    def add(self, committed: Iterable[tuple[int, Event]]) -> None:
        """Take in events that were committed, each with its cursor; any may be told twice."""
        with self._lock:
            for cursor, event in committed:
                self._stamps[hash(event.user_id) % _N_STAMPS] += 1
                known = self._users.get(event.user_id)
                if known is None:
                    continue
                if self._is_beyond(known, cursor, event):
                    self._drop(event.user_id)
                else:
                    self._keep(event.user_id, self._with(known, cursor, event))

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

    def _known(self, loaded: Loaded) -> Known:
        rows = loaded.events
        if not (rows or loaded.fields or loaded.is_erased):
            return _NOTHING
        # Popular items and kinds are the same text in many histories: held once.
        items = [sys.intern(row[1]) for row in rows]
        latest = rows[: self._n_history][::-1]
        history = History(
            tuple(items[: self._n_history][::-1]),
            tuple(sys.intern(row[2]) for row in latest),
            tuple(row[3] for row in latest),
            tuple(row[4] for row in latest),
        )
        cursors = tuple(row[0] for row in latest)
        counts = {sys.intern(kind): n for kind, n in loaded.counts.items()}
        return Known(history, cursors, frozenset(items), counts, loaded.fields, loaded.is_erased)

    def _is_beyond(self, known: Known, cursor: int, event: Event) -> bool:
        """Whether it is older than a full history, which can't tell then if it was counted."""
        if len(known.cursors) < self._n_history:
            return False
        return (event.time_s, cursor) < (known.history.times_s[0], known.cursors[0])

    def _with(self, known: Known, cursor: int, event: Event) -> Known:
        """The same, with one event more where it is not there yet."""
        if cursor in known.cursors:
            return known
        item_id = sys.intern(event.item_id)
        old = known.history
        at = bisect_right(old.times_s, event.time_s)
        # Events of one time stand in commit order, which is not always that of being told.
        while at and old.times_s[at - 1] == event.time_s and known.cursors[at - 1] > cursor:
            at -= 1
        history = History(
            self._insert(old.item_ids, at, item_id),
            self._insert(old.kinds, at, sys.intern(event.kind)),
            self._insert(old.values, at, event.value),
            self._insert(old.times_s, at, event.time_s),
        )
        seen = known.seen if item_id in known.seen else known.seen | {item_id}
        cursors = self._insert(known.cursors, at, cursor)
        counts = {**known.counts, event.kind: known.counts.get(event.kind, 0) + 1}
        return replace(known, history=history, cursors=cursors, seen=seen, counts=counts)

    def _insert(self, column: tuple, at: int, value: object) -> tuple:
        return (*column[:at], value, *column[at:])[-self._n_history :]

    def _keep(self, user_id: str, known: Known) -> None:
        self._drop(user_id)
        self._users[user_id] = known
        self._n_held += _weight(known)
        while self._n_held > self._n_events and self._users:
            _, dropped = self._users.popitem(last=False)
            self._n_held -= _weight(dropped)

    def _drop(self, user_id: str) -> None:
        known = self._users.pop(user_id, None)
        if known is not None:
            self._n_held -= _weight(known)


# Shared by all users of whom nothing is known: a full collection looks through all that is cached.
_NOTHING: Final = Known(History((), (), (), ()), (), frozenset(), {}, {}, is_erased=False)


def _latest(known: Known) -> int:
    return max(known.cursors, default=0)


def _weight(known: Known) -> int:
    return _ENTRY_EVENTS + max(len(known.history), len(known.seen))
