"""One thread that writes for all others: what waits meanwhile is one transaction, and one flush.

Callers wait for their own write; the disk is waited for once a group. Slates are not waited for:
they ride along, or go by themselves after a moment.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice
from threading import Condition, Thread
from typing import Any, Final

from candidfeed.errors import StoreBusyError, StoreError
from candidfeed.store.database import Database
from candidfeed.store.group import (
    AddEvents,
    Committed,
    Compact,
    EraseUser,
    OtherWrite,
    Write,
    commit_group,
)
from candidfeed.store.records import Erasure, Event, Receipt, SlateRecord

CLOSED: Final = "the store is closed"
_BROKEN: Final = "the store's writing thread ended; start the program again"
# How long slates wait for company, and how long what failed waits to be tried again.
_SLATES_WAIT_S: Final = 0.1
_RETRY_S: Final = 1.0
# Of one transaction: what waits behind it waits for so many at most.
_GROUP_EVENTS: Final = 10_000
GROUP_SLATES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Health:
    """How the writing goes.

    Args:
        failing_since_s: when the first of the latest failures was; None where writing works.
        reason: what failed; None where writing works.
        n_waiting_events: not yet on disk, and so not acknowledged.
        n_waiting_slates: not yet on disk.
        n_lost_slates: those that found the queue full, since the store was opened.
        n_accepted: events since the store was opened, and so are the next two.
        n_duplicates: events that were there before.
        n_erased: events of erased users.
        is_scrub_due: bytes of an erased user are still in the files.
    """

    failing_since_s: float | None
    reason: str | None
    n_waiting_events: int
    n_waiting_slates: int
    n_lost_slates: int
    n_accepted: int
    n_duplicates: int
    n_erased: int
    is_scrub_due: bool

    @property
    def can_write(self) -> bool:
        return self.reason is None


class GroupCommit:
    """The queue and its thread.

    Args:
        secret: of the tables (`Reading.secret`).
        n_waiting_events: how many events may wait; more are refused at once.
        n_waiting_slates: how many slates may wait; more are lost, and counted.
        clock: seconds since 1970, for what `health` tells.
        added: is told of accepted events, with their cursors, before those who wait are.
        forget: is told of users of whom nothing that was read before holds any longer.
    """

    def __init__(
        self,
        database: Database,
        secret: bytes,
        *,
        n_waiting_events: int,
        n_waiting_slates: int,
        clock: Callable[[], float],
        added: Callable[[list[tuple[int, Event]]], None],
        forget: Callable[[set[str]], None],
    ) -> None:
        self._database = database
        self._secret = secret
        self._most_events = n_waiting_events
        self._most_slates = n_waiting_slates
        self._clock = clock
        self._added = added
        self._forget = forget
        # Guards all below.
        self._changed = Condition()
        self._writes: deque[Write] = deque()
        self._slates: OrderedDict[str, SlateRecord] = OrderedDict()
        self._slates_due_s = 0.0
        self._retry_due_s = 0.0
        self._health = Health(None, None, 0, 0, 0, 0, 0, 0, is_scrub_due=False)
        self._ended: str | None = None
        self._thread = Thread(target=self._run, name="candidfeed-store", daemon=True)
        self._thread.start()

    def add_events(self, events: Sequence[Event]) -> Future[Receipt]:
        """Queue a batch; the future ends once it is on disk, or with a `StoreError`.

        Raises:
            StoreBusyError: too many wait already.
        """
        write = AddEvents(events)
        with self._changed:
            waiting = self._health.n_waiting_events
            if waiting + len(events) > self._most_events:
                raise StoreBusyError(
                    f"{waiting} events wait to be written, and with {len(events)} more they would"
                    f" be over {self._most_events}; send these again in a moment"
                )
            self._queue(write)
            self._note(n_waiting_events=waiting + len(events))
        return write.done

    def put(self, write: EraseUser | OtherWrite | Compact) -> Any:
        """Queue a write and wait until it is on disk; what it answers.

        Raises:
            StoreError: it could not be written.
        """
        with self._changed:
            self._queue(write)
        return write.done.result()

    def log_slate(self, record: SlateRecord) -> bool:
        """Queue a slate, and wait for nothing; False where the queue is full."""
        with self._changed:
            if self._ended or len(self._slates) >= self._most_slates:
                self._note(n_lost_slates=self._health.n_lost_slates + 1)
                return False
            if not self._slates:
                self._slates_due_s = time.monotonic() + _SLATES_WAIT_S
                self._changed.notify()
            self._slates.setdefault(record.request_id, record)
        return True

    def waiting_slate(self, request_id: str) -> SlateRecord | None:
        """A slate that is not on disk yet."""
        with self._changed:
            return self._slates.get(request_id)

    def health(self) -> Health:
        with self._changed:
            return replace(self._health, n_waiting_slates=len(self._slates))

    def close(self) -> None:
        """Write what waits and end the thread; slates that can't be written are lost."""
        with self._changed:
            self._ended = self._ended or CLOSED
            self._changed.notify()
        self._thread.join()

    def _queue(self, write: Write) -> None:
        if self._ended:
            raise StoreError(self._ended)
        self._writes.append(write)
        self._changed.notify()

    def _note(self, **changes: Any) -> None:
        self._health = replace(self._health, **changes)

    # What the thread does

    def _run(self) -> None:
        try:
            while self._wait():
                self._write_group()
        finally:
            with self._changed:
                if not self._ended:
                    self._ended = _BROKEN
                    self._note(failing_since_s=self._clock(), reason=_BROKEN)
                _refuse(self._writes, self._ended)

    def _wait(self) -> bool:
        """Until there is something to write; False once there never will be."""
        with self._changed:
            while not self._writes:
                if self._ended:
                    # Slates get one try more: a failing disk must not keep the process.
                    return bool(self._slates) and self._health.can_write
                due_s = self._due_s()
                left_s = None if due_s is None else due_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    break
                self._changed.wait(left_s)
        return True

    def _due_s(self) -> float | None:
        """When to write although nobody waits for it."""
        if self._health.is_scrub_due or not self._health.can_write:
            return self._retry_due_s
        return self._slates_due_s if self._slates else None

    def _write_group(self) -> None:
        with self._changed:
            group = self._take()
            slates = list(islice(self._slates.values(), GROUP_SLATES))
        try:
            if group and isinstance(group[0], Compact):
                self._database.compact()
                answers: list[Any] = [None]
                self._works()
                self._scrub()
            else:
                answers = self._commit(group, slates)
            for write, answer in zip(group, answers, strict=True):
                write.done.set_result(answer)
        except StoreError as error:
            self._fails(group, str(error))
            _refuse(group, str(error))
        finally:
            # Whatever went wrong: nobody waits for ever.
            _refuse(group, _BROKEN)

    def _take(self) -> list[Write]:
        """The next of those that wait, in their order; a `Compact` is a group by itself."""
        group: list[Write] = []
        n_events = 0
        while self._writes:
            write = self._writes[0]
            n_events += _n_events(write)
            if group and (n_events > _GROUP_EVENTS or isinstance(write, Compact)):
                break
            group.append(self._writes.popleft())
            if isinstance(write, Compact):
                break
        return group

    def _commit(self, group: Sequence[Write], slates: Sequence[SlateRecord]) -> list[Any]:
        try:
            committed = commit_group(self._database, self._secret, group, slates)
            self._works()
        except StoreError as error:
            if not (group and slates):
                raise
            # Slates may be what finds no room, and nobody waits for them.
            slates = []
            committed = commit_group(self._database, self._secret, group, slates)
            self._fails((), str(error))
        self._added(committed.added)
        if committed.erased:
            self._forget(committed.erased)
        self._settle(group, slates, committed)
        if committed.erased or self._is_scrub_due():
            self._scrub()
        is_scrubbed = not self._health.is_scrub_due
        return [
            replace(answer, is_scrubbed=is_scrubbed) if isinstance(answer, Erasure) else answer
            for answer in committed.answers
        ]

    def _settle(
        self, group: Sequence[Write], slates: Sequence[SlateRecord], committed: Committed
    ) -> None:
        with self._changed:
            for one in slates:
                del self._slates[one.request_id]
            for one in list(self._slates.values()) if committed.erased else ():
                if one.user_id in committed.erased:
                    del self._slates[one.request_id]
            health = self._health
            self._note(
                n_waiting_events=health.n_waiting_events - sum(map(_n_events, group)),
                n_accepted=health.n_accepted + committed.outcomes.count("accepted"),
                n_duplicates=health.n_duplicates + committed.outcomes.count("duplicate"),
                n_erased=health.n_erased + committed.outcomes.count("erased"),
                is_scrub_due=health.is_scrub_due or bool(committed.erased),
            )

    def _is_scrub_due(self) -> bool:
        return self._health.is_scrub_due and time.monotonic() >= self._retry_due_s

    def _scrub(self) -> None:
        """Take what was erased out of the files; where that can't be, try again after a while."""
        try:
            is_scrubbed = self._database.scrub()
        except StoreError:
            # What was written stays written; the next write tells how the disk is.
            is_scrubbed = False
        with self._changed:
            self._note(is_scrub_due=not is_scrubbed)
            self._retry_due_s = time.monotonic() + _RETRY_S

    def _works(self) -> None:
        with self._changed:
            self._note(failing_since_s=None, reason=None)

    def _fails(self, group: Sequence[Write], reason: str) -> None:
        # Where the connection was lost in the end, the events may be in the database after all.
        self._forget({one.user_id for write in group for one in _events(write)})
        with self._changed:
            since_s = self._health.failing_since_s
            self._note(
                failing_since_s=self._clock() if since_s is None else since_s,
                reason=reason,
                n_waiting_events=self._health.n_waiting_events - sum(map(_n_events, group)),
            )
            self._retry_due_s = time.monotonic() + _RETRY_S


def _events(write: Write) -> Sequence[Event]:
    return write.events if isinstance(write, AddEvents) else ()


def _n_events(write: Write) -> int:
    return len(_events(write))


def _refuse(writes: Sequence[Write] | deque[Write], reason: str) -> None:
    for write in writes:
        if not write.done.done():
            # One each: they are raised in different threads.
            write.done.set_exception(StoreError(reason))
