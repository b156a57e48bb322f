"""What both stores promise: the same tests on a SQLite file and on a PostgreSQL server."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candidfeed.errors import DataError, StoreError
from candidfeed.store.history import History
from candidfeed.store.records import ApiKey, Event, SlateRecord
from candidfeed.store.store import LARGEST_BATCH, Store, open_store
from candidfeed.store.tables import Reading

Opener = Callable[..., Store]
EMPTY = History((), (), (), ())
# One store for all examples: they use ids of their own.
ONE_STORE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


def event(event_id: str, user_id: str = "ann", **fields: object) -> Event:
    given = {"item_id": f"item of {event_id}", "kind": "click", "value": None, "time_s": 1.7e9}
    return Event(event_id, user_id, **{**given, **fields})


def slate(request_id: str, user_id: str | None = "ann") -> SlateRecord:
    return SlateRecord(request_id, user_id, 1.7e9, "0001-abc", b'{"slots": [1, 2]}', b"\x00\xff")


def events_of(store: Store) -> list[Event]:
    return [one for _, one in store.events_after(0, 1_000_000)]


# Events


def test_an_event_comes_back_as_it_was_sent(store: Store) -> None:
    sent = [
        event("a", value=0.1, time_s=1_700_000_000.123456, request_id="r", position=1),
        event("b", user_id="bée 🙂", item_id="x" * 1024, kind="watch", value=-1e-300, time_s=0.0),
        event("c", value=None, time_s=-5.5),
    ]
    assert store.append_events(sent).outcomes == ("accepted",) * 3
    assert events_of(store) == sent


def test_an_event_sent_twice_counts_once(where: str, opened: Opener) -> None:
    store = opened(where)
    receipt = store.append_events([event("a"), event("b"), event("a", user_id="bob")])
    assert receipt.outcomes == ("accepted", "accepted", "duplicate")
    receipt = store.append_events([event("b", item_id="other"), event("c")])
    assert (receipt.n_accepted, receipt.n_duplicates, receipt.n_erased) == (1, 1, 0)
    store.close()
    again = opened(where)
    assert again.append_events([event("a"), event("c"), event("d")]).outcomes == (
        "duplicate",
        "duplicate",
        "accepted",
    )
    assert [one.event_id for one in events_of(again)] == ["a", "b", "c", "d"]
    assert events_of(again)[1].item_id == "item of b"


def test_of_one_event_sent_by_many_at_once_one_is_accepted(store: Store) -> None:
    barrier = threading.Barrier(16)

    def send(_: int) -> str:
        barrier.wait()
        return store.append_events([event("the one")]).outcomes[0]

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(send, range(16)))
    assert sorted(outcomes) == ["accepted"] + ["duplicate"] * 15
    assert len(events_of(store)) == 1


def test_thirty_two_threads_one_by_one_lose_nothing(store: Store) -> None:
    n_each = 12

    def send(thread: int) -> list[str]:
        outcomes = []
        for n in range(n_each):
            # Every third is what the next thread sends too.
            shared = n % 3 == 0
            event_id = f"shared {n}" if shared else f"{thread} {n}"
            outcomes.append(store.append_events([event(event_id, str(thread))]).outcomes[0])
            assert event_id in "".join(store.history(str(thread)).item_ids) or shared
        return outcomes

    with ThreadPoolExecutor(32) as pool:
        outcomes = [one for each in pool.map(send, range(32)) for one in each]
    assert outcomes.count("accepted") == 32 * n_each * 2 // 3 + n_each // 3
    ids = [one.event_id for one in events_of(store)]
    assert len(ids) == len(set(ids)) == outcomes.count("accepted")
    health = store.health()
    assert (health.n_accepted, health.n_duplicates) == (len(ids), len(outcomes) - len(ids))
    assert health.can_write
    assert health.n_waiting_events == 0


@ONE_STORE
@given(data=st.data())
def test_whatever_the_order_and_the_batches_each_id_is_kept_once(
    store: Store, data: st.DataObject
) -> None:
    before = len(events_of(store))
    ids = data.draw(st.lists(st.integers(0, 8), max_size=30))
    cuts = sorted(data.draw(st.sets(st.integers(0, 30), max_size=4)))
    sent = [event(f"{before} {n}") for n in ids]
    accepted = 0
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        if start <= end:
            accepted += store.append_events(sent[start:end]).n_accepted
    kept = [one.event_id for one in events_of(store)[before:]]
    assert accepted == len(set(ids))
    assert kept == list(dict.fromkeys(one.event_id for one in sent))


def test_an_empty_batch_is_acknowledged(store: Store) -> None:
    assert store.append_events([]).outcomes == ()


def test_a_batch_that_is_too_large_is_refused(store: Store) -> None:
    with pytest.raises(DataError, match=f"at most {LARGEST_BATCH} in one batch, came 10001"):
        store.append_events([event("a")] * (LARGEST_BATCH + 1))
    assert events_of(store) == []


def test_the_largest_batch_is_taken(store: Store) -> None:
    sent = [event(str(n), f"user {n % 700}") for n in range(LARGEST_BATCH)]
    assert store.append_events(sent).n_accepted == LARGEST_BATCH
    assert len(store.history("user 0")) == sum(n % 700 == 0 for n in range(LARGEST_BATCH))


def test_who_follows_finds_each_event_once_in_commit_order(store: Store) -> None:
    found: list[str] = []
    cursor = 0
    with ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(store.append_events, [event(f"{n}")]) for n in range(100)]
        while len(found) < 100:
            page = store.events_after(cursor, 7)
            assert [seq for seq, _ in page] == sorted({seq for seq, _ in page})
            cursor = page[-1][0] if page else cursor
            found += [one.event_id for _, one in page]
    assert all(one.result().n_accepted for one in sending)
    assert found == [one.event_id for one in events_of(store)]
    assert sorted(found, key=int) == [str(n) for n in range(100)]


def test_a_cursor_is_good_after_a_restart_an_erasure_and_a_compaction(
    where: str, opened: Opener
) -> None:
    store = opened(where)
    store.append_events([event("a"), event("b", "bob"), event("c")])
    cursor = store.events_after(0, 2)[-1][0]
    store.append_events([event("d", "bob"), event("e")])
    store.delete_user("bob", 1.8e9)
    store.close()
    store = opened(where)
    store.compact()
    store.append_events([event("f")])
    assert [one.event_id for _, one in store.events_after(cursor, 100)] == ["c", "e", "f"]


# Histories


def test_an_acknowledged_event_is_in_the_next_history(store: Store) -> None:
    assert store.history("ann") == EMPTY
    assert store.counts("ann") == {}
    for n in range(5):
        store.append_events([event(str(n), item_id=f"i{n}", value=float(n), time_s=n)])
        history = store.history("ann")
        assert history.item_ids == tuple(f"i{m}" for m in range(n + 1))
        assert history.times_s == history.values == tuple(float(m) for m in range(n + 1))
        assert history.kinds == ("click",) * (n + 1)
        assert store.seen("ann") == set(history.item_ids)


def test_a_history_is_in_the_order_of_time_and_then_of_commit(where: str, opened: Opener) -> None:
    store = opened(where)
    store.append_events([event("b", time_s=2), event("c", time_s=2), event("e", time_s=4)])
    cached = store.history("ann")
    store.append_events([event("a", time_s=1), event("d", time_s=2), event("f", time_s=4)])
    expected = tuple(f"item of {one}" for one in "abcdef")
    assert len(cached) == 3
    assert store.history("ann").item_ids == expected
    store.close()
    assert opened(where).history("ann").item_ids == expected


def test_a_history_is_bounded_and_what_is_seen_reaches_further_back(
    where: str, opened: Opener
) -> None:
    store = opened(where, n_history=3, n_seen=5)
    store.append_events([event(str(n), item_id=f"i{n}", time_s=n) for n in range(7)])
    assert store.history("ann").item_ids == ("i4", "i5", "i6")
    assert store.seen("ann") == {"i2", "i3", "i4", "i5", "i6"}
    assert store.counts("ann") == {"click": 7}
    store.append_events([event("late", item_id="late", time_s=3.5)])
    store.append_events([event("7", item_id="i7", time_s=7)])
    assert store.history("ann").item_ids == ("i5", "i6", "i7")
    assert {"late", "i7"} <= store.seen("ann")
    assert store.counts("ann") == {"click": 9}


def test_readers_beside_a_writer_see_whole_histories_with_all_that_is_acknowledged(
    store: Store,
) -> None:
    n_sent = 60
    acknowledged = [0]

    def read(_: int) -> int:
        n_read = 0
        while acknowledged[0] < n_sent:
            at_least = acknowledged[0]
            history = store.history("ann")
            assert history.item_ids == tuple(f"i{n}" for n in range(len(history)))
            assert at_least <= len(history)
            n_read += 1
        return n_read

    with ThreadPoolExecutor(4) as pool:
        reading = [pool.submit(read, n) for n in range(4)]
        for n in range(n_sent):
            try:
                store.append_events([event(str(n), item_id=f"i{n}", time_s=n)])
            finally:
                acknowledged[0] += 1
    assert all(one.result() for one in reading)
    assert len(store.history("ann")) == n_sent


def test_a_small_cache_gives_the_same_histories(where: str, opened: Opener) -> None:
    # Two or three of eight users fit.
    store = opened(where, n_cached_bytes=1_000)
    for n in range(40):
        store.append_events([event(str(n), f"user {n % 8}", item_id=f"i{n}", time_s=n)])
        of_user = [m for m in range(n + 1) if m % 8 == n % 8]
        assert store.history(f"user {n % 8}").item_ids == tuple(f"i{m}" for m in of_user)


# Slates


def test_a_slate_is_read_back_at_once_and_after_a_restart(where: str, opened: Opener) -> None:
    store = opened(where)
    assert store.slate("r1") is None
    assert store.log_slate(slate("r1"))
    assert store.log_slate(slate("r2", None))
    assert store.slate("r1") == slate("r1")
    store.close()
    store = opened(where)
    assert store.slate("r1") == slate("r1")
    assert store.slate("r2") == slate("r2", None)
    assert [one for _, one in store.slates_after(0, 10)] == [slate("r1"), slate("r2", None)]
    cursor = store.slates_after(0, 1)[0][0]
    assert [one.request_id for _, one in store.slates_after(cursor, 10)] == ["r2"]


def test_a_request_logged_twice_has_its_first_slate(store: Store) -> None:
    store.log_slate(slate("r"))
    store.flush()
    store.log_slate(slate("r", "bob"))
    store.flush()
    assert store.slate("r") == slate("r")
    assert len(store.slates_after(0, 10)) == 1


# Items and users


def test_the_latest_of_an_item_counts_and_is_followed(store: Store) -> None:
    assert store.item("i") is None
    store.put_item("i", {"title": "Ä", "tags": ["a", None], "price": 1.5}, 1.0)
    first = store.items_after(0, 10)
    assert [(one.id, one.fields) for one in first] == [
        ("i", {"title": "Ä", "tags": ["a", None], "price": 1.5})
    ]
    store.put_item("j", {}, 2.0)
    cursor = store.put_item("i", {"title": "B"}, 3.0)
    assert [(one.id, one.time_s) for one in store.items_after(0, 10)] == [("j", 2.0), ("i", 3.0)]
    assert store.items_after(cursor, 10) == []
    store.delete_item("j", 4.0)
    assert [(one.id, one.fields) for one in store.items_after(cursor, 10)] == [("j", None)]
    gone = store.item("j")
    assert gone is not None
    assert gone.fields is None
    # It does not come back.
    assert store.put_item("j", {"title": "C"}, 5.0) is None
    assert store.item("j") == gone


def test_the_latest_of_a_user_counts_and_is_followed(store: Store) -> None:
    assert store.user("ann") is None
    assert store.put_user("ann", {"country": "is"}, 1.0)
    assert store.put_user("bob", {"country": "at"}, 2.0)
    assert store.put_user("ann", {"country": "no"}, 3.0)
    assert [(one.id, one.fields) for one in store.users_after(0, 10)] == [
        ("bob", {"country": "at"}),
        ("ann", {"country": "no"}),
    ]
    known = store.user("ann")
    assert known is not None
    assert (known.fields, known.time_s) == ({"country": "no"}, 3.0)
    assert store.user("carl") is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"a": float("nan")}, "JSON"), ({"a": object()}, "JSON"), ({"a": "x" * (1 << 20)}, "at most")],
)
def test_fields_that_json_cannot_hold_are_refused(
    store: Store, fields: dict[str, object], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        store.put_item("i", fields, 1.0)
    assert store.items_after(0, 10) == []


def test_fields_that_only_few_programs_take_are_read_from_memory_too(store: Store) -> None:
    deep: object = 2**80
    for _ in range(400):
        deep = [deep]
    # Half of a pair of surrogates is no Unicode, but JSON can write it.
    fields = {"half": "\ud800", "deep": deep, "quotes": '"\\', "": None}
    store.put_user("ann", fields, 1.0)
    for _ in range(2):
        assert store.about("ann").fields == fields
    store.append_events([event("a", "ann")])
    assert store.about("ann").fields == fields
    assert len(store.history("ann")) == 1


# Erasure


def test_an_erased_user_is_gone_and_stays_out(where: str, opened: Opener) -> None:
    store = opened(where)
    store.append_events([event("a"), event("b", "bob"), event("c")])
    store.put_user("ann", {"country": "is"}, 1.0)
    store.add_key(ApiKey("ann's own", b"hash", ("feed",), 1.0, user_id="ann"))
    store.log_slate(slate("r1"))
    store.log_slate(slate("r2", "bob"))
    assert len(store.history("ann")) == 2
    assert not store.is_erased("ann")
    erasure = store.delete_user("ann", 5.0)
    assert (erasure.n_events, erasure.n_slates, erasure.is_scrubbed) == (2, 1, True)
    assert store.append_events([event("d"), event("e", "bob"), event("a")]).outcomes == (
        "erased",
        "accepted",
        "erased",
    )
    assert not store.put_user("ann", {"country": "is"}, 6.0)
    assert not store.add_key(ApiKey("another", b"hash", (), 6.0, user_id="ann"))
    store.log_slate(slate("r3"))
    store.flush()
    for _ in range(2):
        assert store.is_erased("ann")
        assert not store.is_erased("bob")
        assert store.history("ann") == EMPTY
        assert store.seen("ann") == frozenset()
        assert store.user("ann") is None
        assert store.keys() == []
        assert [store.slate(one) for one in ("r1", "r3")] == [None, None]
        assert store.slate("r2") == slate("r2", "bob")
        assert [one.event_id for one in events_of(store)] == ["b", "e"]
        assert [one.user_id for _, one in store.slates_after(0, 10)] == ["bob"]
        assert [one.id for one in store.users_after(0, 10)] == [None]
        store.close()
        store = opened(where)
        store.compact()


def test_who_was_never_there_can_be_erased_too(store: Store) -> None:
    erasure = store.delete_user("nobody", 1.0)
    assert (erasure.n_events, erasure.n_slates) == (0, 0)
    assert store.is_erased("nobody")
    assert store.delete_user("nobody", 2.0).n_events == 0


def test_slates_of_an_erased_user_that_wait_are_gone_too(store: Store) -> None:
    for n in range(50):
        store.log_slate(slate(f"r{n}", "ann" if n % 2 else "bob"))
    store.delete_user("ann", 1.0)
    assert [store.slate(f"r{n}") is None for n in range(50)] == [bool(n % 2) for n in range(50)]
    store.flush()
    assert {one.user_id for _, one in store.slates_after(0, 100)} == {"bob"}


# Keys


def test_keys_are_kept_by_name_as_hashes(where: str, opened: Opener) -> None:
    store = opened(where)
    first = ApiKey("first", b"\x01" * 32, ("feed", "admin"), 1.0)
    bound = ApiKey("bound", b"\x02" * 32, ("feed",), 2.0, expires_s=3.5, user_id="ann")
    assert store.add_key(first)
    assert store.add_key(bound)
    store.close()
    store = opened(where)
    assert store.keys() == [bound, first]
    newer = ApiKey("first", b"\x03" * 32, (), 4.0)
    store.add_key(newer)
    assert store.keys() == [bound, newer]
    assert store.remove_key("bound")
    assert not store.remove_key("bound")
    assert store.keys() == [newer]


# Others


def test_a_second_process_reads_along_and_takes_in_what_is_new(where: str, opened: Opener) -> None:
    store = opened(where)
    store.append_events([event("a", time_s=1)])
    other = opened(where, read_only=True)
    assert len(other.history("ann")) == 1
    store.append_events([event("b", time_s=2), event("c", "bob")])
    other.refresh()
    other.refresh()
    assert other.history("ann") == store.history("ann")
    assert len(other.history("ann")) == 2
    store.delete_user("ann", 3.0)
    other.refresh()
    assert other.history("ann") == EMPTY
    assert len(other.history("bob")) == 1
    for write in (
        lambda: other.append_events([event("d")]),
        lambda: other.delete_user("bob", 1.0),
        other.health,
    ):
        with pytest.raises(StoreError, match="reading only"):
            write()


def test_what_this_process_wrote_is_not_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    found, here = Reading.events_after, threading.get_ident()

    def events_after(reading: Reading, cursor: int, limit: int) -> list[tuple[int, Event]]:
        page = found(reading, cursor, limit)
        # Services of other tests look into their stores meanwhile, on threads of their own.
        if threading.get_ident() == here:
            asked.append(len(page))
        return page

    monkeypatch.setattr(Reading, "events_after", events_after)
    for n in range(3):
        # The second of each two is a duplicate, which may leave a gap.
        store.append_events([event(f"{n}"), event(f"{n}"), event(f"bob's {n}", "bob")])
    store.delete_user("bob", 1.0)
    store.refresh()
    assert asked == [0]
    assert len(store.history("ann")) == 3
    store.append_events([event("later")])
    store.refresh()
    store.refresh()
    assert asked == [0, 0, 0]
    assert len(store.history("ann")) == 4


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    for ask in (
        lambda: store.append_events([event("a")]),
        lambda: store.put_item("i", {}, 1.0),
        lambda: store.history("ann"),
        lambda: store.events_after(0, 1),
    ):
        with pytest.raises(StoreError, match="closed"):
            ask()
    assert not store.log_slate(slate("r"))


def test_closing_writes_what_waits(where: str, opened: Opener) -> None:
    store = opened(where)
    waiting = [store.queue_events([event(str(n))]) for n in range(200)]
    store.close()
    assert all(one.result().n_accepted == 1 for one in waiting)
    assert len(events_of(opened(where))) == 200


def test_a_path_is_a_file_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "store.db"
    with open_store(str(path)) as store:
        store.append_events([event("a")])
    assert path.stat().st_mode & 0o077 == 0
