"""What was shown at which place, and what followed."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.data.conftest import ReadLog

from candidfeed.data.impressions import as_targets, read_impressions
from candidfeed.data.load import load_dataset
from candidfeed.data.splits import make_split
from candidfeed.data.synthetic.files import write_world
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.data.tables import Dataset, Label
from candidfeed.data.vocabulary import Vocabulary
from candidfeed.errors import ConfigError

KEYS = """timestamp = "t"
timestamp_unit = "s"
kind = "k"
positive = ["click"]
shown = "shown"
position = "p"
attribution_s = 100
"""
LABELS = """[labels.click]
kinds = ["click"]
weight = 1.0
[labels.done]
kinds = ["click", "share"]
counted = true
"""
LOG = """u,i,t,k,p
1,a,1000,shown,1
1,b,1000,shown,2
2,a,1000,shown,
1,a,1010,click,
1,a,1020,share,
1,b,1200,click,
2,b,1030,click,
1,a,2000,shown,3
1,a,2000,click,
"""


def impressions_of(dataset: Dataset, **window: float) -> pl.DataFrame:
    users, items = Vocabulary(pl.Series([1, 2])), Vocabulary(pl.Series(["a", "b"]))
    found = read_impressions(dataset, users, items, **window)
    return pl.DataFrame(
        {
            "user": found.user,
            "item": found.item,
            "time": found.time_s,
            "position": found.position,
            "click": found.followed[:, 0],
            "done": found.followed[:, 1],
        }
    )


def test_what_follows_within_the_window_is_put_down_to_the_last_impression_of_the_pair(
    read_log: ReadLog,
) -> None:
    found = impressions_of(read_log(LOG, KEYS, tables=LABELS))
    assert found.rows() == [
        (0, 0, 1000.0, 1, 1.0, 2.0),
        (0, 1, 1000.0, 2, 0.0, 0.0),  # clicked 200 seconds later
        (0, 0, 2000.0, 3, 1.0, 1.0),  # at once
        (1, 0, 1000.0, 0, 0.0, 0.0),  # the place is not known; a click on b without b being shown
    ]


def test_an_impression_whose_feedback_may_come_after_the_end_is_left_out(read_log: ReadLog) -> None:
    dataset = read_log(LOG, KEYS, tables=LABELS)
    assert impressions_of(dataset, until_s=1100.5)["time"].to_list() == [1000.0] * 3
    assert not len(impressions_of(dataset, until_s=1099.0))


def test_what_lies_before_the_beginning_is_not_read(read_log: ReadLog) -> None:
    dataset = read_log(LOG, KEYS, tables=LABELS)
    assert impressions_of(dataset, from_s=1000.5)["time"].to_list() == [2000.0]


def test_counts_stay_counts_and_others_are_whether_any_came() -> None:
    labels = (Label("any", ("x",)), Label("all", ("x",), counted=True))
    followed = np.array([[0, 0], [2, 3]], np.float32)
    np.testing.assert_array_equal(as_targets(followed, labels), [[0, 0], [1, 3]])


def test_a_log_without_impressions_has_none(read_log: ReadLog) -> None:
    dataset = read_log("u,i\n1,a\n2,b\n")
    users, items = Vocabulary(pl.Series([1, 2])), Vocabulary(pl.Series(["a", "b"]))
    assert not len(read_impressions(dataset, users, items))


def test_what_was_shown_is_no_positive_where_the_file_does_not_say(read_log: ReadLog) -> None:
    keys = KEYS.replace('positive = ["click"]\n', "")
    assert read_log(LOG, keys, tables=LABELS).positive_kinds == ("click", "share")


@pytest.mark.parametrize("place", ["0", "1.5", "x", "20000"])
def test_a_place_that_is_none_goes_to_quarantine_with_its_row(
    read_log: ReadLog, place: str
) -> None:
    bad = read_log(LOG.replace("shown,2", f"shown,{place}"), KEYS, tables=LABELS).quarantine
    assert bad["row"].to_list() == [3]
    assert bad["reason"].to_list() == ["'p' is no whole number from 1 to 10,000"]


@pytest.mark.parametrize(
    ("keys", "labels", "told"),
    [
        (KEYS.replace('shown = "shown"\n', ""), LABELS, "position needs shown"),
        (
            KEYS.replace('shown = "shown"\nposition = "p"\n', ""), LABELS,
            "labels.click needs events.shown",
        ),
        (KEYS.replace('["click"]', '["click", "shown"]'), LABELS, "'shown' is what was shown"),
        (KEYS, '[labels.engaged]\nkinds = ["click"]\n', "labels.engaged: this name is taken"),
        (KEYS, '[labels.x]\nkinds = ["shown"]\n', "'shown' is what was shown, not what was done"),
        (KEYS, "[labels.x]\nkinds = []\n", "labels.x.kinds should name at least one kind"),
        (KEYS + 'kinds = ["shown", "click"]\n', LABELS, "'share' is none of kinds"),
        (KEYS, '[labels."a b"]\nkinds = ["click"]\n', "a b"),
    ],
)  # fmt: skip
def test_labels_that_can_not_be_are_refused(
    read_log: ReadLog, keys: str, labels: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        read_log(LOG, keys, tables=labels)


def test_the_feedback_of_a_synthetic_world_is_all_attributed(tmp_path: Path) -> None:
    write_world(WorldSettings(n_users=60, n_items=40, n_events=3_000, seed=1), tmp_path / "w")
    dataset = load_dataset(
        str(tmp_path / "w"), cache=tmp_path, now=datetime(2026, 1, 1, tzinfo=UTC)
    )
    split = make_split(dataset, seed=0)
    found = read_impressions(dataset, split.users, split.items)
    n_of = dict(dataset.events["kind"].value_counts().iter_rows())
    assert len(found) == n_of["impression"]
    assert found.position.min() == 1
    assert found.followed.sum(axis=0).tolist() == [
        n_of.get(label.name, 0) for label in dataset.labels
    ]
