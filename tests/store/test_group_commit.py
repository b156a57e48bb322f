"""The queue before the disk: what waits together is one flush, and nobody waits for ever."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from candidfeed.errors import StoreBusyError, StoreError
from candidfeed.store.database import Row
from candidfeed.store.records import Event, SlateRecord
from candidfeed.store.store import Store, StoreSettings


def event(event_id: str) -> Event:
    return Event(event_id, "ann", "item", "click", None, 1.7e9)


def slate(request_id: str) -> SlateRecord:
    return SlateRecord(request_id, "ann", 1.7e9, "release", b"slots")


class Gated:
    """A database that keeps nothing, and lets a transaction end when the test says so."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.has_begun = threading.Event()
        self.fails_with: BaseException | None = None
        self.n_transactions = 0
        self.n_events = 0
        self.n_slates = 0

    @contextmanager
    def transaction(self) -> Iterator["Gated"]:
        self.n_transactions += 1
        self.has_begun.set()
        yield self
        assert self.may_end.wait(30)
        if self.fails_with:
            raise self.fails_with

    def run(self, sql: str, arguments: Sequence[Any] = ()) -> list[Row]:
        if sql.startswith("SELECT user_key"):
            return [(key, 1, None) for key in arguments]
        return []

    def run_each(self, sql: str, rows: Sequence[Row]) -> list[Row | None]:
        self.n_events += len(rows) if "INTO events" in sql else 0
        self.n_slates += len(rows) if "INTO slates" in sql else 0
        return [(n,) for n, _ in enumerate(rows, 1)]

    def fetch(self, sql: str, _: Sequence[Any] = ()) -> list[Row]:
        return [(b"secret" * 4,)] if "secret" in sql else [(0, 0)]

    def scrub(self) -> bool:
        return True

    def compact(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def gated() -> Iterator[Gated]:
    database = Gated()
    yield database
    database.may_end.set()


def opened(database: Gated, **bounds: int) -> Store:
    return Store(database, settings=StoreSettings(**bounds), clock=lambda: 12.5)


def test_what_waits_while_the_disk_works_is_one_transaction(gated: Gated) -> None:
    store = opened(gated)
    first = store.queue_events([event("first")])
    assert gated.has_begun.wait(30)
    waiting = [store.queue_events([event(f"{n}")]) for n in range(100)]
    assert not first.done()
    gated.may_end.set()
    assert [one.result().n_accepted for one in waiting] == [1] * 100
    store.close()
    assert gated.n_transactions == 2
    assert gated.n_events == 101


def test_who_stops_waiting_does_not_stop_the_writing(gated: Gated) -> None:
    store = opened(gated)
    waiting = [store.queue_events([event(f"{n}")]) for n in range(3)]
    assert [one.cancel() for one in waiting] == [False] * 3
    gated.may_end.set()
    assert [one.result().n_accepted for one in waiting] == [1] * 3
    store.close()


def test_beyond_the_bound_events_are_refused_at_once(gated: Gated) -> None:
    store = opened(gated, n_waiting_events=10)
    waiting = [store.queue_events([event(f"{n}") for n in range(5)]) for _ in range(2)]
    with pytest.raises(StoreBusyError, match=r"10 events wait .*1 more .* in a moment"):
        store.append_events([event("one more")])
    assert store.health().n_waiting_events == 10
    gated.may_end.set()
    for one in waiting:
        one.result()
    assert store.append_events([event("one more")]).n_accepted == 1
    assert store.health().n_waiting_events == 0
    store.close()


def test_slates_never_wait_and_are_counted_where_they_are_lost(gated: Gated) -> None:
    store = opened(gated, n_waiting_slates=3)
    assert [store.log_slate(slate(f"{n}")) for n in range(5)] == [True] * 3 + [False] * 2
    health = store.health()
    assert (health.n_waiting_slates, health.n_lost_slates) == (3, 2)
    assert store.slate("2") == slate("2")
    gated.may_end.set()
    store.flush()
    assert store.health().n_waiting_slates == 0
    store.close()
    assert gated.n_slates == 3


def test_slates_alone_are_written_without_being_asked_for(gated: Gated) -> None:
    store = opened(gated)
    store.log_slate(slate("r"))
    assert gated.has_begun.wait(30)
    gated.may_end.set()
    store.close()
    assert gated.n_slates == 1


def test_a_failed_transaction_fails_those_who_waited_and_no_one_later(gated: Gated) -> None:
    gated.fails_with = StoreError("no room; free space")
    gated.may_end.set()
    store = opened(gated)
    for _ in range(2):
        with pytest.raises(StoreError, match="no room; free space"):
            store.append_events([event("a")])
    health = store.health()
    assert (health.can_write, health.reason) == (False, "no room; free space")
    assert (health.failing_since_s, health.n_accepted) == (12.5, 0)
    assert health.n_waiting_events == 0
    gated.fails_with = None
    assert store.append_events([event("a")]).n_accepted == 1
    assert store.health().can_write
    assert store.health().failing_since_s is None
    store.close()


def test_writing_is_tried_again_without_being_asked_for(gated: Gated) -> None:
    gated.fails_with = StoreError("no room")
    gated.may_end.set()
    store = opened(gated)
    with pytest.raises(StoreError, match="no room"):
        store.append_events([event("a")])
    gated.fails_with = None
    gated.has_begun.clear()
    assert gated.has_begun.wait(30)
    store.close()
    assert gated.n_transactions == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_the_thread_itself_breaks_nobody_waits_for_ever(gated: Gated) -> None:
    store = opened(gated)
    waiting = [store.queue_events([event("a")])]
    assert gated.has_begun.wait(30)
    waiting.append(store.queue_events([event("b")]))
    gated.fails_with = ZeroDivisionError("a fault of the program")
    gated.may_end.set()
    for one in waiting:
        with pytest.raises(StoreError, match="writing thread ended"):
            one.result(30)
    with pytest.raises(StoreError, match="writing thread ended"):
        store.append_events([event("c")])
    assert not store.log_slate(slate("r"))
    assert not store.health().can_write
    store.close()
