"""The figures of a data set, worked out by hand on a small log."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from candidfeed.data.describe import Bin, Cold, TopItem, describe, log_bins
from candidfeed.data.graph_text import read_graph_text
from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split, make_split
from candidfeed.data.tables import Dataset
from candidfeed.data.vocabulary import Vocabulary

ReadLog = Callable[..., Dataset]
TABLES = """
[users]
path = "u.csv"
user_id = "id"
[users.features.age]
kind = "bucket"
sensitive = true
[items]
path = "i.csv"
item_id = "id"
title = "name"
"""


@pytest.fixture
def dataset(read_log: ReadLog, tmp_path: Path) -> Dataset:
    (tmp_path / "u.csv").write_text("id,age\n1,30\n2,\n9,40\n")
    (tmp_path / "i.csv").write_text("id,name\na,Apple\nb,Bread\nz,Zebra\n")
    return read_log(
        "u,i,t,v,k\n"
        "1,a,1700000000,5,rate\n"
        "1,b,1700000001,3,rate\n"
        "1,c,1700000002,,view\n"
        "2,a,1700000003,4,rate\n"
        "2,a,1700000009,4,rate\n"
        "2,a,soon,4,rate\n"
        "3,a,later,4,rate\n"
        ",a,1700000003,4,rate\n",
        'timestamp = "t"\ntimestamp_unit = "s"\nvalue = "v"\nlike_at = 4\nkind = "k"\n'
        'positive = ["rate"]\n',
        tables=TABLES,
    )


def test_counts_and_dates(dataset: Dataset) -> None:
    figures = describe(dataset, None)
    assert figures.name == "shop"
    assert figures.n_rows_read == 8
    assert figures.n_events == 5
    assert (figures.n_users, figures.n_users_without_events) == (3, 1)
    assert (figures.n_items, figures.n_items_without_events) == (4, 1)
    # 1a, 1b, 1c, 2a of 2 users x 3 items that have an event.
    assert figures.density == 4 / 6
    assert figures.kinds == {"rate": 4, "view": 1}
    assert figures.positive_kinds == ("rate",)
    assert figures.parts == {}
    assert figures.first_time == "2023-11-14T22:13:20+00:00"
    assert figures.last_time == "2023-11-14T22:13:29+00:00"
    assert figures.cold is None


def test_spreads_values_and_the_most_popular(dataset: Dataset) -> None:
    figures = describe(dataset, None)
    assert figures.events_per_user is not None
    assert figures.events_per_user.mean == figures.events_per_user.median == 2.5
    assert (figures.events_per_user.least, figures.events_per_user.most) == (2, 3)
    assert figures.events_per_item is not None
    assert figures.events_per_item.bins == (Bin(1, 1, 2), Bin(2, 3, 1))
    assert figures.values is not None
    assert (figures.values.n, figures.values.mean, figures.values.liked_share) == (4, 4.0, 0.75)
    assert figures.values.bins == (Bin(3.0, 3.0, 1), Bin(4.0, 4.0, 2), Bin(5.0, 5.0, 1))
    assert figures.top_items == (
        TopItem("a", "Apple", 3, 0.6),
        TopItem("b", "Bread", 1, 0.2),
        TopItem("c", "c", 1, 0.2),
    )


def test_missing_values_and_features(dataset: Dataset) -> None:
    columns = {(one.table, one.column): one for one in describe(dataset, None).columns}
    assert columns["events", "value"].n_missing == 1
    # User 2 has no age, and user 3, of whom no row is usable, is not there.
    assert (columns["users", "age"].n_missing, columns["users", "age"].n_rows) == (1, 3)
    assert columns["users", "age"].kind == "bucket"
    assert columns["users", "age"].sensitive
    assert columns["items", "title"].n_missing == 0
    assert columns["items", "title"].kind == ""


def test_the_quarantine_is_told_by_reason_with_its_first_row(dataset: Dataset) -> None:
    figures = describe(dataset, None)
    assert figures.n_quarantined == 3
    assert [(one.reason, one.n, one.file, one.row, one.received) for one in figures.quarantine] == [
        ("'t' is not a time", 2, "e.csv", 7, "'soon'"),
        ("'u' is empty", 1, "e.csv", 9, "(nothing)"),
    ]


def test_the_figures_are_json(dataset: Dataset) -> None:
    figures = describe(dataset, make_split(dataset, "random"))
    told = json.loads(json.dumps(figures.to_json(), allow_nan=False))
    assert told["kinds"] == {"rate": 4, "view": 1}
    assert told["top_items"][0] == {"item_id": "a", "title": "Apple", "n": 3, "share": 0.6}
    assert told["cold"]["protocol"] == "random"


def test_an_empty_log_is_described_too(read_log: ReadLog) -> None:
    figures = describe(read_log("u,i\n,a\n,b\n"), None)
    assert figures.n_events == 0
    assert figures.density == 0.0
    assert figures.events_per_user is None
    assert figures.values is None
    assert figures.top_items == ()
    assert figures.first_time is None
    assert figures.n_quarantined == 2


def test_the_parts_of_a_given_split_are_counted(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0 1 2\n1 1\n")
    (tmp_path / "test.txt").write_text("0 3\n")
    assert describe(read_graph_text(tmp_path), None).parts == {"train": 3, "test": 1}


def test_bins_double_and_empty_ones_between_stay() -> None:
    assert log_bins(np.array([1, 2, 3, 8, 15, 15])) == (
        Bin(1, 1, 1),
        Bin(2, 3, 2),
        Bin(4, 7, 0),
        Bin(8, 15, 3),
    )
    assert log_bins(np.array([5, 4])) == (Bin(4, 7, 2),)
    assert log_bins(np.array([], dtype=np.int64)) == ()


def test_many_different_values_are_put_in_ten_equal_bins(read_log: ReadLog) -> None:
    text = "u,i,v\n" + "".join(f"{n},{n},{n}\n" for n in range(101))
    values = describe(read_log(text, 'value = "v"\n'), None).values
    assert values is not None
    assert [one.n for one in values.bins] == [10] * 9 + [11]
    assert (values.bins[0].low, values.bins[-1].high) == (0.0, 100.0)
    assert values.liked_share is None


def interactions(user: list[int], item: list[int]) -> Interactions:
    n = len(user)
    return Interactions(
        user=np.array(user, dtype=np.int32),
        item=np.array(item, dtype=np.int32),
        value=np.full(n, np.nan, dtype=np.float32),
        time_s=np.full(n, np.nan),
        n_users=4,
        n_items=4,
    )


def test_cold_users_and_items_are_those_of_the_test_part_without_a_training_row(
    dataset: Dataset,
) -> None:
    split = Split(
        protocol="temporal",
        seed=42,
        users=Vocabulary(dataset.users["user_id"]),
        items=Vocabulary(dataset.items["item_id"]),
        train=interactions([0, 1], [0, 1]),
        history=interactions([2], [2]),
        test=interactions([0, 2, 2, 2, 3], [0, 0, 1, 2, 1]),
        test_rows_sha256="",
    )
    assert describe(dataset, split).cold == Cold(
        protocol="temporal",
        seed=42,
        n_train=2,
        n_history=1,
        n_test=5,
        users=2 / 3,
        items=1 / 3,
        rows_of_cold_users=4 / 5,
        rows_of_cold_items=1 / 5,
    )


def test_on_ml_100k_most_test_rows_are_of_users_without_a_training_row(ml_100k: Dataset) -> None:
    figures = describe(ml_100k, make_split(ml_100k))
    assert figures.density == 100_000 / (943 * 1_682)
    assert figures.top_items[0] == TopItem(50, "Star Wars (1977)", 583, 0.00583)
    assert figures.first_time == datetime(1997, 9, 20, 3, 5, 10, tzinfo=UTC).isoformat()
    assert figures.cold is not None
    assert figures.cold.protocol == "temporal"
    # 85 % by an independent count of this split.
    assert round(figures.cold.rows_of_cold_users, 2) == 0.85
