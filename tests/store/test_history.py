"""The cache of histories: what it gives is what the store holds, whoever reads meanwhile."""

import tracemalloc
from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from candidfeed.store.history import HistoryCache, Loaded
from candidfeed.store.records import Event


class Log:
    """A store in memory, the slow and plain way."""

    def __init__(self) -> None:
        self.events: list[tuple[int, Event]] = []
        self.n_loads = 0
        self.while_loading: Callable[[], None] = lambda: None

    def add(self, user_id: str, item_id: str, time_s: float) -> list[tuple[int, Event]]:
        cursor = len(self.events) + 1
        kind = "click" if item_id < "d" else "view"
        event = Event(str(cursor), user_id, item_id, kind, None, time_s)
        self.events.append((cursor, event))
        return [(cursor, event)]

    def load(self, user_id: str, limit: int) -> Loaded:
        self.n_loads += 1
        rows = sorted(
            ((one.time_s, cursor, one) for cursor, one in self.events if one.user_id == user_id),
            reverse=True,
        )[:limit]
        self.while_loading()
        events = [(cursor, one.item_id, one.kind, one.value, at) for at, cursor, one in rows]
        return Loaded(events, self.counts(user_id), "", is_erased=False)

    def counts(self, user_id: str) -> Counter[str]:
        return Counter(one.kind for _, one in self.events if one.user_id == user_id)

    def cache(
        self, *, n_history: int = 4, n_seen: int = 6, n_bytes: int = 1_000_000
    ) -> HistoryCache:
        return HistoryCache(self.load, n_history=n_history, n_seen=n_seen, n_bytes=n_bytes)


def test_a_cached_user_is_not_loaded_again() -> None:
    log = Log()
    cache = log.cache()
    cache.add(log.add("u", "a", 1))
    assert cache.get("u").history.item_ids == ("a",)
    cache.add(log.add("u", "b", 2))
    assert cache.get("u").history.item_ids == ("a", "b")
    assert log.n_loads == 1


def test_of_those_who_did_nothing_one_answer_stands_for_all() -> None:
    log = Log()
    cache = log.cache()
    assert cache.get("u") is cache.get("v")
    cache.add(log.add("u", "a", 1))
    assert cache.get("u").history.item_ids == ("a",)
    assert not len(cache.get("v").history)


def test_what_is_committed_while_a_user_is_loaded_is_not_lost() -> None:
    log = Log()
    cache = log.cache()
    log.add("u", "a", 1)
    log.while_loading = lambda: cache.add(log.add("u", "b", 2))
    assert cache.get("u").history.item_ids == ("a",)
    log.while_loading = lambda: None
    assert cache.get("u").history.item_ids == ("a", "b")


def test_what_is_read_before_it_is_told_is_not_counted_twice() -> None:
    log = Log()
    cache = log.cache()
    committed = log.add("u", "a", 1)
    assert cache.get("u").history.item_ids == ("a",)
    cache.add(committed)
    assert cache.get("u").history.item_ids == ("a",)


def test_an_event_older_than_a_full_history_counts_once_however_often_it_is_told() -> None:
    log = Log()
    cache = log.cache(n_history=4)
    for at in range(5, 9):
        log.add("u", "a", at)
    assert cache.get("u").counts == {"click": 4}
    old = log.add("u", "d", 1)
    cache.add(old)
    cache.add(old)
    assert cache.get("u").counts == {"click": 4, "view": 1}
    cache.add(old)
    assert cache.get("u").counts == {"click": 4, "view": 1}


def test_who_was_forgotten_while_being_loaded_is_loaded_again() -> None:
    log = Log()
    cache = log.cache()
    log.add("u", "a", 1)
    log.while_loading = lambda: cache.forget({"u"})
    cache.get("u")
    assert len(cache) == 0
    log.while_loading = cache.clear
    cache.get("u")
    assert len(cache) == 0


def test_the_user_asked_for_longest_ago_makes_room() -> None:
    log = Log()
    # Room for three users with one event each.
    cache = log.cache(n_bytes=1_200)
    for user in "abc":
        log.add(user, "item", 1)
        cache.get(user)
    cache.get("a")
    log.add("d", "item", 1)
    cache.get("d")
    assert (len(cache), log.n_loads) == (3, 4)
    cache.get("a")
    assert log.n_loads == 4
    cache.get("b")
    assert log.n_loads == 5


def test_many_users_take_as_much_memory_as_is_said() -> None:
    def load(user_id: str, limit: int) -> Loaded:
        events = [(n, f"item {user_id} {n}", "view", None, float(n)) for n in range(30)]
        return Loaded(events, {"view": 30}, "", is_erased=False)

    n_bytes = 2_000_000
    tracemalloc.start()
    try:
        cache = HistoryCache(load, n_history=512, n_seen=512, n_bytes=n_bytes)
        for n in range(5_000):
            # Loaded, then read from what is held.
            assert cache.get(str(n)) == cache.get(str(n))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1_000 < len(cache) < 5_000
    assert 0.8 * n_bytes < held < 1.1 * n_bytes


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "late", "get", "forget"]),
            st.sampled_from("uvw"),
            st.sampled_from("abcdefgh"),
            st.integers(0, 6),
        ),
        max_size=60,
    ),
    st.sampled_from([600, 1_000_000]),
)
def test_a_history_is_that_of_the_log_whatever_happens(
    steps: list[tuple[str, str, str, int]], n_bytes: int
) -> None:
    log = Log()
    cache = log.cache(n_bytes=n_bytes)
    late: list[tuple[int, Event]] = []
    for what, user, item, at in steps:
        match what:
            case "add":
                cache.add(log.add(user, item, at))
            case "late":
                late += log.add(user, item, at)
            case "get":
                cache.get(user)
            case "forget":
                cache.forget({user})
    # In any order, and more than once.
    cache.add(late[::-1])
    cache.add(late)
    for user in "uvw":
        rows = log.load(user, 4).events
        history = cache.get(user).history
        assert history.item_ids == tuple(row[1] for row in reversed(rows))
        assert history.times_s == tuple(row[4] for row in reversed(rows))
        latest = {row[1] for row in log.load(user, 6).events}
        assert latest <= cache.get(user).seen
        assert cache.get(user).counts == log.counts(user)
