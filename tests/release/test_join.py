"""A data set and what a service has logged since become one data set."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from candidfeed.data.impressions import read_impressions
from candidfeed.data.load import load_dataset
from candidfeed.data.tables import Dataset
from candidfeed.data.vocabulary import Vocabulary
from candidfeed.release.join import Joined, join_store
from candidfeed.release.store_log import read_store
from candidfeed.store.records import Event, SlateRecord
from candidfeed.store.store import Store, open_store

T = 1_700_000_000.0
NOW = datetime.fromtimestamp(T + 10_000, UTC)
CONFIG = """
[events]
path = "events.csv"
user_id = "u"
item_id = "i"
timestamp = "t"
timestamp_unit = "s"
kind = "k"
kinds = ["shown", "click", "buy"]
positive = ["click", "buy"]
shown = "shown"
position = "p"
attribution_s = 100

[labels.click]
kinds = ["click"]

[users]
path = "users.csv"
user_id = "u"
features.age = { kind = "bucket" }

[items]
path = "items.csv"
item_id = "i"
title = "name"
features.tags = { kind = "tags" }
features.out = { kind = "time", timestamp_unit = "s" }
"""
LOG = f"""u,i,k,t,p
1,10,shown,{T:.0f},2
1,10,click,{T + 5:.0f},
2,11,click,{T + 7:.0f},
"""


def slot(position: int, item_id: object, **more: Any) -> dict[str, Any]:
    return {"position": position, "item_id": item_id, "kind": "organic", "score": 0.5, **more}


def slate(request_id: str, user_id: str | None, time_s: float, *slots: dict) -> SlateRecord:
    content = json.dumps({"slots": slots}).encode()
    return SlateRecord(request_id, user_id, time_s, "0001-abc", content)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / "events.csv").write_text(LOG)
    (tmp_path / "users.csv").write_text("u,age\n1,30\n2,40\n3,50\n")
    (tmp_path / "items.csv").write_text("i,name,tags,out\n10,Ten,a|b,5\n11,Eleven,b,6\n12,,c,\n")
    (tmp_path / "shop.toml").write_text(CONFIG)
    return load_dataset(str(tmp_path / "shop.toml"), cache=tmp_path, now=NOW)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "store.db")) as one:
        yield one


Join = Callable[..., Joined]


@pytest.fixture
def join(dataset: Dataset, store: Store, tmp_path: Path) -> Join:
    """Joins what the store holds, read as another process reads it."""

    def run(**changed: Any) -> Joined:
        store.flush()
        with open_store(str(tmp_path / "store.db"), read_only=True) as reading:
            return join_store(
                replace(dataset, **changed), read_store(reading), erased_of=reading.erased_of,
                now=NOW,
            )  # fmt: skip

    return run


def clicks(joined: Joined) -> list[tuple[str, str, float, float]]:
    """(user, item, seconds after T, clicks) of each impression that is learned from."""
    dataset = joined.dataset
    users, items = Vocabulary(dataset.users["user_id"]), Vocabulary(dataset.items["item_id"])
    found = read_impressions(dataset, users, items)
    return [
        (str(users.id_of(u)), str(items.id_of(i)), round(float(t) - T, 3), float(n))
        for u, i, t, n in zip(
            found.user, found.item, found.time_s, found.followed[:, 0], strict=True
        )
    ]


def test_an_empty_store_leaves_the_data_set_as_it_is(join: Join, dataset: Dataset) -> None:
    joined = join()
    assert joined.dataset.events.equals(dataset.events)
    assert joined.dataset.users.equals(dataset.users)
    assert joined.dataset.items.equals(dataset.items)
    assert (joined.n_events, joined.n_impressions, joined.left_out, joined.notes) == (0, 0, {}, [])


def test_an_event_answers_the_impression_that_it_names_else_the_latest_within_the_window(
    join: Join, store: Store
) -> None:
    store.log_slate(slate("r1", "2", T + 1000, slot(1, 10), slot(2, 11)))
    store.log_slate(slate("r2", "2", T + 1050, slot(1, 10), slot(2, 12)))
    store.append_events(
        [
            # By name: the earlier of the two; the clock of a client may be behind.
            Event("e1", "2", "10", "click", None, T + 1060, "r1", 1),
            Event("e2", "2", "11", "click", None, T + 990, "r1", 2),
            # Without a name: the latest.
            Event("e3", "2", "10", "click", None, T + 1070),
            # Beyond the window, and named wrongly: events all the same.
            Event("e4", "2", "12", "click", None, T + 1151, "r2", 2),
            Event("e5", "3", "12", "click", None, T + 1060, "r2", 2),
        ]
    )
    joined = join()
    assert clicks(joined) == [
        ("1", "10", 0.0, 1.0),
        ("2", "10", 1000.0, 1.0),
        ("2", "11", 1000.0, 1.0),
        ("2", "10", 1050.0, 1.0),
        ("2", "12", 1050.0, 0.0),
    ]
    assert (joined.n_events, joined.n_impressions, joined.n_answered) == (5, 4, 3)
    assert joined.dataset.events["position"].to_list() == [2, None, None, 1, 2, 1, 2, *[None] * 5]
    assert joined.dataset.events["user_id"].dtype == pl.Int64
    assert joined.left_out == {}


def test_another_window_puts_other_events_down_to_what_was_shown(join: Join, store: Store) -> None:
    store.log_slate(slate("r1", "2", T + 1000, slot(1, 12)))
    store.append_events([Event("e1", "2", "12", "click", None, T + 1151, "r1", 1)])
    assert [n for *_, n in clicks(join())] == [1.0, 0.0]
    assert [n for *_, n in clicks(join(attribution_s=151.0))] == [1.0, 1.0]


def test_what_was_shown_lately_waits_for_its_feedback(join: Join, store: Store) -> None:
    now_s = NOW.timestamp()
    store.log_slate(slate("r1", "2", now_s - 101, slot(1, 10)))
    store.log_slate(slate("r2", "2", now_s - 99, slot(1, 11)))
    joined = join()
    assert [(item, at) for _, item, at, _ in clicks(joined)] == [("10", 0.0), ("10", 9899.0)]
    (reason,) = joined.left_out
    assert reason == "an impression whose feedback may be still to come"


def test_an_impression_that_the_client_reports_too_is_one(join: Join, store: Store) -> None:
    store.log_slate(slate("r1", "2", T + 1000, slot(1, 10), slot(2, 11)))
    store.append_events(
        [
            Event("s1", "2", "10", "shown", None, T + 1001, "r1", 1),
            Event("s2", "2", "11", "shown", None, T + 1002),
            # Of no slate that is known: one of its own, at its own place.
            Event("s3", "3", "11", "shown", None, T + 1003, "gone", 4),
        ]
    )
    joined = join()
    assert joined.n_impressions == 3
    shown = joined.dataset.events.tail(3).select("user_id", "item_id", "position").rows()
    assert shown == [(2, 10, 1), (2, 11, 2), (3, 11, 4)]


def test_propensities_are_carried(join: Join, store: Store) -> None:
    store.log_slate(slate("r1", "2", T + 1000, slot(1, 10, propensity=0.25), slot(2, 11)))
    joined = join()
    assert joined.dataset.events["propensity"].to_list() == [None, None, None, 0.25, None]
    assert "propensity" not in join(shown_kind=None, labels=()).dataset.events.columns


def test_without_shown_events_join_and_impressions_do_not(join: Join, store: Store) -> None:
    store.log_slate(slate("r1", "2", T + 1000, slot(1, 10), slot(2, 11)))
    store.append_events([Event("e1", "2", "10", "click", None, T + 1001, "r1", 1)])
    joined = join(shown_kind=None, labels=())
    assert (joined.n_events, joined.n_impressions, joined.n_answered) == (1, 0, 0)
    (note,) = joined.notes
    assert note.startswith("2 places of slates are no impressions")


def test_what_the_log_has_already_counts_once(join: Join, store: Store) -> None:
    # The log has whole seconds; an export of the store cut them off.
    store.append_events(
        [
            Event("e1", "1", "10", "click", None, T + 5.25),
            Event("e2", "1", "10", "click", None, T + 6.0),
        ]
    )
    store.log_slate(slate("r1", "1", T, slot(2, 10)))
    joined = join()
    assert (joined.n_events, joined.n_impressions) == (1, 0)
    assert list(joined.left_out.values()) == [(2, "kind 'shown'")]


def test_rows_that_cant_be_used_are_counted_and_named(join: Join, store: Store) -> None:
    store.append_events(
        [
            Event("e1", "2", "10", "click", None, -1.0),
            Event("e2", "2", "10", "click", None, 1e15),
            Event("e3", "2", "010", "click", None, T + 1000),
            Event("e4", "2", "10", "share", None, T + 1000),
            Event("e5", "2", "10", "click", 1e13, T + 1000),
            Event("e6", "2", "10", "click", 9.0, T + 1000),
            Event("e7", "2", "11", "click", 5.0, T + 1000),
        ]
    )
    store.log_slate(slate("r1", None, T + 1000, slot(1, 10)))
    store.log_slate(SlateRecord("r2", "2", T + 1000, "0001-abc", b"no JSON"))
    store.log_slate(slate("r3", "2", -5.0, slot(1, 10)))
    joined = join(values=(1.0, 5.0))
    assert joined.n_events == 1
    counts = {reason.split(" (")[0]: n for reason, n in joined.left_out.items()}
    assert counts == {
        "an event before 1970": (1, "time_s -1.0"),
        "an event later than a day from now": (1, "time_s 1000000000000000.0"),
        "an event about an item that the data set does not have and that was not put": (
            1, "item_id '010'",
        ),
        "an event of a kind that is no positive, no label and not in the data set's log": (
            1, "kind 'share'",
        ),
        "an event whose value is out of bounds": (2, "value 10000000000000.0"),
        "an impression before 1970": (1, "time_s -5.0"),
    }  # fmt: skip


def test_ratings_without_a_value_are_left_out_where_the_log_has_none(
    join: Join, store: Store, dataset: Dataset
) -> None:
    rated = dataset.events.filter(kind="click").with_columns(value=pl.lit(4.0, pl.Float32))
    store.append_events([Event("e1", "2", "10", "click", None, T + 1000)])
    joined = join(events=rated, like_at=4.0)
    assert joined.n_events == 0
    assert list(joined.left_out) == [
        "an event without a value, which all of the data set's log have"
    ]


def test_items_and_users_that_were_put_replace_and_add(join: Join, store: Store) -> None:
    store.put_item("10", {"name": "?", "title": "Neu", "tags": ["z", " "], "out": 7}, T)
    store.put_item("13", {"title": "New", "out": "1970-01-01T00:00:08Z", "colour": "red"}, T)
    store.put_item("11", {"expires_s": 5.0}, T)
    store.put_user("2", {"age": "41"}, T)
    store.put_user("9", {"age": ["old"]}, T)
    store.append_events([Event("e1", "8", "13", "click", None, T + 1000)])
    joined = join()
    items = joined.dataset.items.with_columns(pl.col("out").dt.epoch("s")).rows()
    assert items == [
        (11, "Eleven", ["b"], 6),
        (12, "12", ["c"], None),
        (10, "Neu", ["z"], 7),
        (13, "New", None, 8),
    ]
    assert joined.dataset.users.rows() == [(1, 30.0), (3, 50.0), (2, 41.0), (9, None), (8, None)]
    assert (joined.n_put_items, joined.n_put_users) == (3, 2)
    assert {reason: n for reason, (n, _) in joined.left_out.items()} == {
        "a field that is no column of the data set: name": 1,
        "a field that is no column of the data set: colour": 1,
        "a field of this kind can't be read: age (bucket)": 1,
    }


def test_an_id_that_is_no_number_makes_all_of_them_text(join: Join, store: Store) -> None:
    store.put_item("sku-1", {"title": "New"}, T)
    store.append_events([Event("e1", "2", "sku-1", "click", None, T + 1000)])
    joined = join()
    assert set(joined.dataset.items["item_id"]) == {"10", "11", "12", "sku-1"}
    assert joined.dataset.users["user_id"].dtype == pl.Int64
    assert joined.dataset.events["item_id"].to_list() == ["10", "10", "11", "sku-1"]
    store.append_events([Event("e2", "007", "10", "click", None, T + 1000)])
    users = join().dataset.users["user_id"]
    assert users.to_list() == ["1", "2", "3", "007"]


def test_deleted_items_and_their_events_are_gone(join: Join, store: Store) -> None:
    store.append_events([Event("e1", "2", "10", "click", None, T + 1000)])
    store.log_slate(slate("r1", "2", T + 900, slot(1, 10)))
    store.delete_item("10", T)
    joined = join()
    assert joined.dataset.items["item_id"].to_list() == [11, 12]
    assert joined.dataset.events["item_id"].to_list() == [11]
    assert (joined.n_deleted, joined.n_events, joined.n_impressions) == (1, 0, 0)


def test_an_erased_user_is_in_nothing_whatever_the_log_says(join: Join, store: Store) -> None:
    store.append_events([Event("e1", "1", "11", "click", None, T + 1000)])
    store.put_user("1", {"age": 3}, T)
    store.delete_user("1", T)
    joined = join()
    assert joined.dataset.users["user_id"].to_list() == [2, 3]
    assert joined.dataset.events["user_id"].to_list() == [2]
    assert (joined.n_erased, joined.n_put_users) == (1, 0)


def test_a_log_without_times_takes_each_pair_once(
    join: Join, store: Store, dataset: Dataset
) -> None:
    timeless = dataset.events.select(
        "user_id", "item_id", pl.lit("interaction").alias("kind"), "value",
        pl.lit(None, dataset.events.schema["timestamp"]).alias("timestamp"),
        pl.lit("test").alias("part"),
    ).unique(["user_id", "item_id"], maintain_order=True)  # fmt: skip
    store.append_events(
        [
            Event("e1", "1", "10", "interaction", None, T),
            Event("e2", "1", "12", "interaction", None, T),
            Event("e3", "1", "12", "interaction", None, T + 9),
        ]
    )
    joined = join(
        events=timeless, shown_kind=None, labels=(), kinds=(), positive_kinds=("interaction",)
    )
    assert joined.dataset.events.rows()[-1] == (1, 12, "interaction", None, None, "train")
    assert joined.n_events == 1
    assert sum(n for n, _ in joined.left_out.values()) == 2


def test_the_order_and_the_pages_of_a_large_store_do_not_matter(join: Join, store: Store) -> None:
    rng = np.random.default_rng(0)
    times = T + 1000 + rng.permutation(25_000) / 10
    events = [
        Event(f"e{n}", str(1 + n % 3), str(10 + n % 2), "click", None, float(time_s))
        for n, time_s in enumerate(times)
    ]
    for start in range(0, len(events), 10_000):
        store.append_events(events[start : start + 10_000])
    for n in range(2_500):
        while not store.log_slate(slate(f"r{n}", "1", T + 1000 + n, slot(1, 10), slot(2, 11))):
            store.flush()
    joined = join()
    assert (joined.n_events, joined.n_impressions) == (25_000, 5_000)
    # Each second both items are shown to user 1, and last of all a second before.
    assert joined.n_answered == sum(one.user_id == "1" for one in events)
