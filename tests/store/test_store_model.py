"""A store beside a plain model of it: whatever is done, in whatever order, they agree."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from candidfeed.store.records import Event, SlateRecord
from candidfeed.store.store import Store, StoreSettings, open_store

USERS = st.sampled_from(["ann", "bob", "çem", "dan"])
ITEMS = st.sampled_from(["i1", "i2", "i3"])
EVENTS = st.builds(
    Event,
    event_id=st.integers(0, 25).map(str),
    user_id=USERS,
    item_id=ITEMS,
    kind=st.sampled_from(["click", "like"]),
    value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    time_s=st.integers(0, 5).map(float),
)


class Agreement(RuleBasedStateMachine):
    """The model: a list of events, and dictionaries."""

    where: str

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.erased: set[str] = set()
        self.slates: dict[str, SlateRecord] = {}
        self.users: dict[str, Any] = {}
        self.items: dict[str, Any] = {}
        self.cursor = 0
        self.followed: list[Event] = []

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="candidfeed-tests-")
        self.where = str(Path(self.folder.name) / "store.db")
        self.store = self.open()

    def open(self) -> Store:
        bounds = StoreSettings(n_history=4, n_seen=4, n_cached_bytes=1_000)
        return open_store(self.where, settings=bounds)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()

    @rule(batch=st.lists(EVENTS, max_size=6))
    def append(self, batch: list[Event]) -> None:
        expected = []
        for one in batch:
            if one.user_id in self.erased:
                expected.append("erased")
            elif one.event_id in {kept.event_id for kept in self.events}:
                expected.append("duplicate")
            else:
                expected.append("accepted")
                self.events.append(one)
        assert list(self.store.append_events(batch).outcomes) == expected

    @rule(request_id=st.integers(0, 8).map(str), user_id=USERS | st.none())
    def log(self, request_id: str, user_id: str | None) -> None:
        record = SlateRecord(request_id, user_id, 1.0, "release", b"slots")
        assert self.store.log_slate(record)
        # Written now: which of two with one id is the first must not depend on the moment.
        self.store.flush()
        if user_id not in self.erased:
            self.slates.setdefault(request_id, record)

    @rule(user_id=USERS, number=st.integers())
    def put_user(self, user_id: str, number: int) -> None:
        assert self.store.put_user(user_id, {"n": number}, 1.0) == (user_id not in self.erased)
        if user_id not in self.erased:
            self.users[user_id] = {"n": number}

    @rule(item_id=ITEMS, number=st.integers() | st.none())
    def put_item(self, item_id: str, number: int | None) -> None:
        is_deleted = item_id in self.items and self.items[item_id] is None
        if number is None:
            self.store.delete_item(item_id, 1.0)
        else:
            cursor = self.store.put_item(item_id, {"n": number}, 1.0)
            assert (cursor is None) == is_deleted
            if is_deleted:
                return
        self.items.pop(item_id, None)
        self.items[item_id] = None if number is None else {"n": number}

    @rule(user_id=USERS)
    def erase(self, user_id: str) -> None:
        n_events = sum(one.user_id == user_id for one in self.events)
        assert self.store.delete_user(user_id, 1.0).n_events == n_events
        self.erased.add(user_id)
        self.events = [one for one in self.events if one.user_id != user_id]
        self.followed = [one for one in self.followed if one.user_id != user_id]
        self.slates = {k: one for k, one in self.slates.items() if one.user_id != user_id}
        self.users.pop(user_id, None)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.open()

    @rule()
    def compact(self) -> None:
        self.store.compact()

    @rule(limit=st.integers(1, 5))
    def follow(self, limit: int) -> None:
        for cursor, event in self.store.events_after(self.cursor, limit):
            self.cursor = cursor
            self.followed.append(event)
        assert self.followed == self.events[: len(self.followed)]

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "store"):
            return
        assert [one for _, one in self.store.events_after(0, 1_000)] == self.events
        for user_id in ("ann", "bob", "çem", "dan"):
            latest = sorted(
                (one for one in self.events if one.user_id == user_id),
                key=lambda one: one.time_s,
            )[-4:]
            history = self.store.history(user_id)
            assert history.item_ids == tuple(one.item_id for one in latest)
            assert history.kinds == tuple(one.kind for one in latest)
            assert history.values == tuple(one.value for one in latest)
            assert {one.item_id for one in latest} <= self.store.seen(user_id)
            kinds = Counter(one.kind for one in self.events if one.user_id == user_id)
            assert self.store.counts(user_id) == kinds
            assert self.store.is_erased(user_id) == (user_id in self.erased)
            known = self.store.user(user_id)
            assert (known and known.fields) == self.users.get(user_id)
        assert {one.request_id: one for _, one in self.store.slates_after(0, 99)} == self.slates
        assert {one.id: one.fields for one in self.store.items_after(0, 99)} == self.items


TestAgreement = pytest.mark.filterwarnings("error")(Agreement.TestCase)
TestAgreement.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
