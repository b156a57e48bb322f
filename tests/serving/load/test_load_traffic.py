"""Who asks, what they click, and what is reported of it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.data.synthetic.oracle import Oracle
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.data.synthetic.world import make_world
from candidfeed.errors import ConfigError
from candidfeed.serving.load import traffic as traffic_module
from candidfeed.serving.load.clicks import ClicksByPosition, ClicksOfWorld
from candidfeed.serving.load.people import people_by_zipf, people_of_file, people_of_world
from candidfeed.serving.load.traffic import Ask, Traffic


class ClicksAll:
    def p_click(self, users: object, items: Any, positions: object) -> np.ndarray:
        return np.ones(len(items))


def make_traffic(*, clicks: Any = None, seed: int = 0, **options: Any) -> Traffic:
    settings = {"limit": 3, "events_share": 0.5, "batch": 1, "run_name": "run", **options}
    rng = np.random.default_rng(seed)
    return Traffic(people_by_zipf(10), clicks or ClicksAll(), rng=rng, **settings)


def slate_of(ask: Ask, name: str, items: tuple[Any, ...]) -> bytes:
    slots = [{"position": r, "item_id": item} for r, item in enumerate(items, start=1)]
    slate = {"request_id": name, "release_id": "0001-a", "degraded": [], "slots": slots}
    return json.dumps(slate).encode()


def receipt_of(ask: Ask, rejected: tuple[int, ...] = ()) -> bytes:
    n = len(ask.event_ids) - len(rejected)
    told = [{"index": index, "event_id": "", "reason": "x"} for index in rejected]
    receipt = {"accepted": n, "duplicate": 0, "rejected": len(told), "rejections": told}
    return json.dumps(receipt).encode()


def events_of(ask: Ask) -> list[dict[str, Any]]:
    return json.loads(ask.body)["events"]


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.of(make_world(WorldSettings(n_users=40, n_items=30, n_events=100, seed=1)))


# Who asks


def test_users_of_a_world_ask_as_often_as_in_its_log(oracle: Oracle) -> None:
    people, tickets = people_of_world(oracle), oracle.world.users.tickets
    np.testing.assert_allclose(
        np.diff(people.share_up_to, prepend=0), tickets / tickets.sum(), rtol=1e-9
    )
    assert people.user_id(7) == 7


def test_users_by_zipf_ask_in_proportion_to_one_over_their_place() -> None:
    shares = np.diff(people_by_zipf(3).share_up_to, prepend=0)
    np.testing.assert_allclose(shares, [6 / 11, 3 / 11, 2 / 11])


def test_a_user_who_stands_twice_in_the_file_asks_twice_as_often(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    path.write_text("anna\n\n  bo é \nanna\n", encoding="utf-8")
    people = people_of_file(path)
    drawn = people.draw(6_000, np.random.default_rng(0)).tolist()
    counts = Counter(people.user_id(row) for row in drawn)
    assert set(counts) == {"anna", "bo é"}
    # Six standard deviations.
    assert abs(counts["anna"] - 4_000) < 6 * (6_000 * 2 / 9) ** 0.5


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\xfe"])
def test_a_file_that_names_nobody_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "users.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"users\.txt: .*write one id a line"):
        people_of_file(path)


@given(st.integers(1, 200), st.integers(0, 2**32))
def test_every_row_that_is_drawn_is_a_user(n_users: int, seed: int) -> None:
    drawn = people_by_zipf(n_users).draw(500, np.random.default_rng(seed))
    assert 0 <= drawn.min()
    assert drawn.max() < n_users


# What they click


def test_a_world_clicks_by_its_truth_and_never_what_it_does_not_know(oracle: Oracle) -> None:
    users, items, positions = [3, 3, 4, 5, 6], [2, "2", "no item", 30, 29], [1, 1, 2, 1, 50]
    p_click = ClicksOfWorld(oracle).p_click(users, items, positions)
    truth = oracle.feedback(
        np.array([3, 6]), np.array([2, 29]), oracle.end_s, position=np.array([1, 8])
    ).click
    np.testing.assert_array_equal(p_click[[2, 3]], 0)
    np.testing.assert_allclose(p_click[[0, 1, 4]], truth[[0, 0, 1]], rtol=1e-6)


def test_without_a_truth_a_fifth_clicks_the_first_position_and_fewer_those_below() -> None:
    p_click = ClicksByPosition().p_click([0, 0], ["a", "b"], [1, 4])
    np.testing.assert_allclose(p_click, [0.2, 0.05])


# What is asked


def test_a_feed_names_user_limit_and_time() -> None:
    traffic = make_traffic(now_s=lambda: 12.5)
    expected = {"user_id": 4, "limit": 3, "context": {"time_s": 12.5}}
    assert json.loads(traffic.feed(4).body) == expected
    assert json.loads(make_traffic().feed(4).body) == {"user_id": 4, "limit": 3}


def test_every_click_is_reported_once_with_its_request_and_position() -> None:
    traffic = make_traffic(now_s=lambda: 9.0)
    for name, user in (("one", 4), ("two", 5)):
        ask = traffic.feed(user)
        traffic.read(ask, slate_of(ask, name, ("a", "b")))
    reported = [event for _ in range(4) for event in events_of(traffic.reports())]
    click = {"kind": "click", "time_s": 9.0}
    assert reported == [
        {"event_id": f"run-{n}", "user_id": user, "item_id": item, **click}
        | {"request_id": name, "position": position}
        for n, (name, user, item, position) in enumerate(
            [("one", 4, "a", 1), ("one", 4, "b", 2), ("two", 5, "a", 1), ("two", 5, "b", 2)]
        )
    ]
    [more] = events_of(traffic.reports())
    assert "request_id" not in more
    assert (more["event_id"], more["item_id"] in {"a", "b"}) == ("run-4", True)


def test_a_batch_holds_all_that_waits_up_to_its_size() -> None:
    traffic = make_traffic(batch=4)
    for name in ("one", "two"):
        ask = traffic.feed(1)
        traffic.read(ask, slate_of(ask, name, (1, 2, 3)))
    reported = [events_of(traffic.reports()) for _ in range(3)]
    places = [[(event.get("request_id"), event.get("position")) for event in r] for r in reported]
    assert places == [
        [("one", 1), ("one", 2), ("one", 3), ("two", 1)],
        [("two", 2), ("two", 3)],
        [(None, None)],
    ]


def test_where_only_events_are_sent_each_batch_is_full() -> None:
    traffic = make_traffic(batch=5, events_share=1.0)
    ask = traffic.feed(4)
    traffic.read(ask, slate_of(ask, "one", ("a", "b")))
    events = events_of(traffic.reports())
    assert [event.get("position") for event in events] == [1, 2, None, None, None]
    assert len({event["event_id"] for event in events}) == 5


def test_what_was_clicked_and_not_reported_is_left_in_batches() -> None:
    traffic = make_traffic()
    for n in range(100):
        ask = traffic.feed(1)
        traffic.read(ask, slate_of(ask, f"request {n}", (1, 2, 3)))
    left = list(traffic.left(batch=80))
    assert [len(ask.event_ids) for ask in left] == [80, 80, 80, 60]
    places = [(event["request_id"], event["position"]) for a in left for event in events_of(a)]
    assert places == [(f"request {n}", r) for n in range(100) for r in (1, 2, 3)]
    assert list(traffic.left(batch=80)) == []


def test_clicks_beyond_the_bound_are_forgotten_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_module, "MOST_WAITING_CLICKS", 4)
    traffic = make_traffic()
    for name in ("one", "two"):
        ask = traffic.feed(1)
        traffic.read(ask, slate_of(ask, name, (1, 2, 3)))
    [ask] = traffic.left(batch=10)
    assert [event["request_id"] for event in events_of(ask)] == ["one", "two", "two", "two"]
    assert traffic.sent.n_forgotten == 2


def test_what_was_acknowledged_is_remembered_and_what_was_rejected_is_not() -> None:
    traffic = make_traffic(batch=3, events_share=1.0)
    ask = traffic.feed(1)
    traffic.read(ask, slate_of(ask, "one", (1, 2, 3)))
    first, second = traffic.reports(), traffic.reports()
    traffic.read(second, receipt_of(second, rejected=(1,)))
    assert traffic.sent.acknowledged == ["run-3", "run-5"]
    assert (traffic.sent.n_sent, traffic.sent.n_accepted, traffic.sent.n_rejected) == (6, 2, 1)
    traffic.read(first, receipt_of(first))
    assert traffic.sent.acknowledged[2:] == ["run-0", "run-1", "run-2"]


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_share_of_events_is_what_was_asked_for(share: float) -> None:
    traffic = make_traffic(events_share=share)
    ask = traffic.feed(1)
    traffic.read(ask, slate_of(ask, "one", (1, 2, 3)))
    n_events = sum(traffic.next().kind == "events" for _ in range(4_000))
    assert abs(n_events - 4_000 * share) <= 6 * (4_000 * share * (1 - share)) ** 0.5


def test_without_a_share_of_events_nobody_clicks() -> None:
    traffic = make_traffic(events_share=0.0)
    ask = traffic.feed(1)
    traffic.read(ask, slate_of(ask, "one", (1, 2, 3)))
    assert list(traffic.left(batch=10)) == []
    assert {traffic.next().kind for _ in range(100)} == {"feed"}


def test_one_seed_asks_the_same_twice() -> None:
    bodies = [[make_traffic(seed=3).next().body for _ in range(5)] for _ in range(2)]
    assert bodies[0] == bodies[1]
