"""The service against a plain model: events, seen items, swaps, erasure and restarts in any order.

The release is loaded once and lent to every run; store, routes and swaps are the service's own.
"""

import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.conftest import TINY_ITEMS, item_id, user_id
from tests.serving.conftest import PATIENT, answering, event
from tests.serving.test_releases import second_of

from candidfeed.errors import ReleaseError
from candidfeed.feed.served import Served
from candidfeed.release.bundle import encode
from candidfeed.release.storage import (
    OpenedDirectory,
    read_directory,
    roll_back,
    write_directory,
)
from candidfeed.retrieval.index.vector_index import VectorIndex
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.service import Service
from candidfeed.serving.settings import ServeSettings
from candidfeed.store.store import open_store

# Two whom the release knows, two whom nobody knows.
USERS = (user_id(3), user_id(4), "new one", "new two")
ITEMS = tuple(item_id(i) for i in range(TINY_ITEMS))
PAST_KIND = "rating"


@dataclass
class World:
    """What there should be: the plain model.

    Attributes:
        events: by event id, who did what; only of those who are not erased.
        in_force: the release that the pointer names.
    """

    events: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    blocked: dict[str, set[str]] = field(default_factory=dict)
    in_force: str = ""

    def take(self, batch: list[tuple[str, str, str, str]]) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        for event_id, user, item, kind in batch:
            if user in self.erased:
                outcomes["rejected"] += 1
            elif event_id in self.events:
                outcomes["duplicate"] += 1
            else:
                self.events[event_id] = (user, item, kind)
                outcomes["accepted"] += 1
        return outcomes

    def of(self, user: str) -> list[tuple[str, str]]:
        return [(item, kind) for who, item, kind in self.events.values() if who == user]

    def erase(self, user: str) -> int:
        gone = [event_id for event_id, (who, _, _) in self.events.items() if who == user]
        for event_id in gone:
            del self.events[event_id]
        self.blocked.pop(user, None)
        self.erased.add(user)
        return len(gone)


class ServiceAndModel(RuleBasedStateMachine):
    """Set by the test: what the releases hold, already compiled."""

    served: Served
    release: Path
    files: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.stack = ExitStack()

    @initialize()
    def begin(self) -> None:
        scratch = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.state = Path(scratch)
        self.folder = self.state / "releases"
        shutil.copytree(self.release, self.folder)
        self.world.in_force = read_directory(self.folder).release_id
        self.open()

    def open(self) -> None:
        # No watcher: the machine says when the pointer is looked at.
        chosen = ServeSettings(**{**PATIENT, "watch_s": 3_600.0})
        store = open_store(str(self.state / "store.db"))
        self.up = ExitStack()
        self.service = Service.open(self.folder, store, chosen, with_keys=False)
        self.up.callback(self.service.close)
        self.service.releases.load()
        self.client = self.up.enter_context(answering(self.service))

    def teardown(self) -> None:
        if hasattr(self, "up"):
            self.up.close()
        self.stack.close()

    def ask(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        answer = self.client.request(method, path, **more)
        assert answer.status_code == status, answer.text
        return answer.json()

    # What people and operators do

    @rule(
        batch=st.lists(
            st.tuples(
                st.integers(0, 40), st.sampled_from(USERS), st.sampled_from(ITEMS),
                st.sampled_from([PAST_KIND, "hide"]),
            ),
            min_size=1, max_size=6,
        )
    )  # fmt: skip
    def send(self, batch: list[tuple[int, str, str, str]]) -> None:
        named = [(f"e{number}", *rest) for number, *rest in batch]
        told = self.ask(
            "POST", "/v1/events",
            json={"events": [event(one, who, what, kind=kind) for one, who, what, kind in named]},
        )  # fmt: skip
        expected = self.world.take(named)
        assert {name: told[name] for name in ("accepted", "duplicate", "rejected")} == {
            name: expected[name] for name in ("accepted", "duplicate", "rejected")
        }

    @rule(user=st.sampled_from(USERS), limit=st.integers(1, 40))
    def look(self, user: str, limit: int) -> None:
        answer = self.ask("POST", "/v1/feed", json={"user_id": user, "limit": limit})
        shown = [slot["item_id"] for slot in answer["slots"]]
        world, past, known = self.world, self.past_of(user), self.known_before(user)
        seen = {item for item, _ in world.of(user)} | known
        barred = seen | world.deleted | world.blocked.get(user, set())
        assert answer["release_id"] == world.in_force
        assert {slot["title"].endswith("(second)") for slot in answer["slots"]} <= {
            not world.in_force.startswith("0001-")
        }
        assert answer["mode"] == ("personal" if past else "popular")
        assert not barred & set(shown)
        assert len(set(shown)) == len(shown)
        open_to = {*ITEMS} if past else {*self.popular()}
        n_most = self.served.settings.n_candidates
        assert len(shown) == min(limit, n_most, len(open_to - barred))

    @rule(user=st.sampled_from(USERS))
    def erase(self, user: str) -> None:
        was_there = user not in self.world.erased
        told = self.ask("DELETE", f"/v1/users/{quote(user)}")
        assert told["n_events"] == (self.world.erase(user) if was_there else 0)

    @rule(user=st.sampled_from(USERS), items=st.sets(st.sampled_from(ITEMS), max_size=3))
    def block(self, user: str, items: set[str]) -> None:
        status = 403 if user in self.world.erased else 200
        fields = {"fields": {"blocked_items": sorted(items)}}
        self.ask("PUT", f"/v1/users/{quote(user)}", status, json=fields)
        if status == 200:
            self.world.blocked[user] = items

    @rule(item=st.sampled_from(ITEMS))
    def delete(self, item: str) -> None:
        self.ask("DELETE", f"/v1/items/{quote(item)}")
        self.world.deleted.add(item)

    @rule()
    def publish(self) -> None:
        write_directory(self.folder, self.files, {})
        self.service.releases.load()
        self.world.in_force = read_directory(self.folder).release_id

    @rule()
    def roll_back(self) -> None:
        try:
            roll_back(self.folder)
        except ReleaseError:
            return
        self.service.releases.load()
        self.world.in_force = read_directory(self.folder).release_id

    @rule()
    def restart(self) -> None:
        self.up.close()
        self.open()

    # What must hold after each of them

    @precondition(lambda self: hasattr(self, "service"))
    @invariant()
    def histories_are_what_was_sent(self) -> None:
        for user in USERS:
            history, done = self.service.store.history(user), self.world.of(user)
            assert Counter(zip(history.item_ids, history.kinds, strict=True)) == Counter(done)
            assert self.service.store.seen(user) == {item for item, _ in done}
            assert self.service.store.is_erased(user) == (user in self.world.erased)

    # What the release knows

    def known_before(self, user: str) -> set[str]:
        if user in self.world.erased:
            return set()
        rows = self.served.person(user).past.items
        return {str(self.served.item_ids.id_of(int(row))) for row in rows}

    def past_of(self, user: str) -> set[str]:
        new = {item for item, kind in self.world.of(user) if kind == PAST_KIND}
        return new | self.known_before(user)

    def popular(self) -> list[Any]:
        return [self.served.item_ids.id_of(int(row)) for row in self.served.by_popularity]


def test_the_service_does_what_a_plain_model_does(
    tiny_served: Served, tiny_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_served.compile(quickly=False)
    second = second_of(tiny_served)
    vectors = tiny_served.item_vectors

    def lent(opened: OpenedDirectory) -> Served:
        """What is in force, without compiling it anew; its index is the run's own."""
        release_id = opened.release_id
        held = tiny_served if release_id.startswith("0001-") else second
        return replace(held, release_id=release_id, index=VectorIndex.compare_all(vectors))

    monkeypatch.setattr("candidfeed.serving.releases.decode", lent)
    monkeypatch.setattr(LiveRelease, "warm_up", lambda *_: None)
    ServiceAndModel.served, ServiceAndModel.release = tiny_served, tiny_release
    ServiceAndModel.files = encode(second)
    run_state_machine_as_test(
        ServiceAndModel,
        settings=settings(
            max_examples=15, stateful_step_count=25, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
