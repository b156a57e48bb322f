"""Events over HTTP: each is looked at by itself, acknowledged once it is on disk, counted once."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import item_id, user_id
from tests.serving.conftest import Running, Start, event, running
from tests.store.test_sqlite import fill

from candidfeed.errors import DataError
from candidfeed.serving.events import event_of
from candidfeed.serving.keys import ANYBODY, Bearer
from candidfeed.store.store import open_store


def test_a_batch_is_counted_by_what_became_of_each(shared: Running) -> None:
    batch = [
        event("b1", user_id(30), item_id(1)),
        event("b1", user_id(30), item_id(1)),
        event("b2", user_id(30), item_id(2), value=float("inf")),
        event("b3", user_id(30), None),
        "no event",
        event("b4", user_id(30), item_id(3), time_s=9e9),
        {**event("b5", user_id(30), item_id(3)), "item": 1},
        event("b6", user_id(30), item_id(2)),
    ]
    # JSON has no infinity: Python writes one all the same, and other clients might.
    answer = shared.client.post("/v1/events", content=json.dumps({"events": batch})).json()
    assert (answer["accepted"], answer["duplicate"], answer["rejected"]) == (2, 1, 5)
    assert [(one["index"], one["event_id"], one["reason"]) for one in answer["rejections"]] == [
        (2, "b2", "value: expected a finite number, came inf"),
        (3, "b3", "item_id: is missing"),
        (4, None, "expected an object, came str"),
        (5, "b4", "time_s: 9000000000.0 is in the future; send seconds since 1970, UTC"),
        (6, "b5", "'item' is no field; meant 'item_id'?"),
    ]


def test_what_is_acknowledged_is_on_disk(start: Start) -> None:
    one = start()
    sent = [event(f"d{n}", user_id(n % 7), item_id(n % 11)) for n in range(50)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one.send, sent))
    assert {each["accepted"] for each in answers} == {1}
    # Read by another connection, while the service runs.
    path = next(one.folder.parent.glob("store.db"))
    with open_store(str(path), read_only=True) as store:
        kept = [each.event_id for _, each in store.events_after(0, 1_000)]
    assert sorted(kept) == sorted(each["event_id"] for each in sent)


def test_one_event_may_come_without_a_batch(shared: Running) -> None:
    answer = shared.client.post("/v1/events", json=event("s1", 31, 1, kind="click")).json()
    assert answer == {"accepted": 1, "duplicate": 0, "rejected": 0, "rejections": []}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "body: expected JSON"),
        (b"[" * 100_000, "body: expected JSON"),
        (b"[]", 'body: expected {"events": [...]}, or one event'),
        (b'{"events": []}', "events: expected 1 to 1000, came 0"),
        (b'{"events": [' + b"1," * 1_000 + b"1]}", "events: expected 1 to 1000, came 1001"),
        (b'{"events": 1}', 'body: expected {"events": [...]}, or one event'),
        (b'{"events": [1], "more": 1}', 'body: expected {"events": [...]}, or one event'),
    ],
)
def test_what_is_no_batch_is_told_so(shared: Running, body: bytes, told: str) -> None:
    answer = shared.client.post("/v1/events", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(told)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    ["event_id", "user_id", "item_id", "kind", "value", "time_s", "request_id", "position"]
)


@given(came=st.dictionaries(names, anything) | anything)
def test_anything_is_refused_or_kept_as_it_came(came: Any) -> None:
    try:
        kept = event_of(came, ANYBODY, now_s=1e9, latest_s=1e9)
    except DataError:
        return
    assert (kept.event_id, kept.user_id) == (str(came["event_id"]), str(came["user_id"]))
    assert (kept.item_id, kept.kind, kept.value) == (
        str(came["item_id"]), came["kind"], came.get("value"),
    )  # fmt: skip


def test_a_key_of_one_user_sends_no_events_of_another() -> None:
    bearer = Bearer("phone", ("events",), "ann")
    assert event_of(event("1", "ann", 1), bearer, now_s=2e9, latest_s=2e9).user_id == "ann"
    with pytest.raises(DataError, match="the key is for another user"):
        event_of(event("2", "bob", 1), bearer, now_s=2e9, latest_s=2e9)


def test_too_many_events_of_one_key_have_to_wait(start: Start) -> None:
    one = start(events_per_s=1.0)
    assert one.send(*(event(f"r{n}", 1, n) for n in range(10)))["accepted"] == 10
    refused = one.client.post("/v1/events", json={"events": [event("r", 1, 1)] * 5})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate")
    assert int(refused.headers["retry-after"]) in range(1, 6)


def test_a_full_disk_refuses_events_says_why_serves_on_and_recovers(
    tiny_release: Path, small_disk: Callable[[int], Path]
) -> None:
    folder = small_disk(2_048)
    with running(tiny_release, folder) as one:
        kept = [f"before {n}" for n in range(50)]
        assert one.send(*(event(name, "ann", item_id(3)) for name in kept))["accepted"] == 50
        filler = fill(folder)
        refused: list[list[str]] = []
        for n in range(1_000):
            names = [f"{n} {k} {'x' * 500}" for k in range(40)]
            batch = {"events": [event(name, "bob", item_id(4)) for name in names]}
            answer = one.client.post("/v1/events", json=batch)
            if answer.status_code == 200:
                kept += names
                continue
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert "full" in answer.json()["error"]["message"]
            refused.append(names)
            if len(refused) == 3:
                break
        assert len(refused) == 3
        # What waits for the disk keeps nobody from a feed.
        assert one.feed(user_id(3))["mode"] == "personal"
        assert "full" in one.client.get("/readyz").json()["store"]
        filler.unlink()
        for names in refused:
            sent = one.send(*(event(name, "bob", item_id(4)) for name in names))
            assert sent["accepted"] == 40
            kept += names
        assert one.client.get("/readyz").json()["store"] == "ok"
    with open_store(str(folder / "store.db"), read_only=True) as store:
        assert [one.event_id for _, one in store.events_after(0, 100_000)] == kept
