"""A release in memory: whom it knows, and what it knows of them."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from candidfeed.data.histories import Histories
from candidfeed.data.interactions import Interactions
from candidfeed.data.vocabulary import Vocabulary
from candidfeed.feed.served import Past, Pasts, Served


def some_events(n_users: int = 7, n_items: int = 9, n: int = 60) -> Interactions:
    rng = np.random.default_rng(3)
    return Interactions(
        user=rng.integers(0, n_users - 1, n).astype(np.int32),
        item=rng.integers(0, n_items, n).astype(np.int32),
        value=rng.integers(1, 6, n).astype(np.float32),
        time_s=rng.integers(0, 20, n) + 1.7e9,
        n_users=n_users,
        n_items=n_items,
    )


@pytest.mark.parametrize("width", [1, 4, 64])
def test_a_padded_past_is_the_history_that_training_reads(width: int) -> None:
    events = some_events()
    everyone = np.arange(events.n_users)
    histories = Histories.of(events, max_length=width).padded(everyone, width=width)
    pasts = Pasts.of(events)
    for row in range(events.n_users):
        padded = pasts.of_user(row).padded(width, n_items=events.n_items)
        np.testing.assert_array_equal(padded.items[0], histories.items[row])
        np.testing.assert_array_equal(padded.values[0], histories.values[row])
        np.testing.assert_array_equal(padded.times_s[0], histories.times_s[row])
        assert padded.lengths.tolist() == [histories.lengths[row]]


def test_a_past_holds_each_item_once_and_the_last_user_has_none() -> None:
    events = some_events()
    pasts = Pasts.of(events)
    for row in range(events.n_users):
        mine = pasts.of_user(row).items.tolist()
        assert sorted(mine) == np.unique(events.item[events.user == row]).tolist()
    assert len(pasts.of_user(6)) == 0


def test_a_past_without_an_item_is_as_if_it_had_never_been_touched() -> None:
    past = Past(np.array([4, 7, 9], np.int32), np.array([1, 2, 3], "f4"), np.array([1.0, 2, 3]))
    left = past.without(7)
    assert (left.items.tolist(), left.values.tolist()) == ([4, 9], [1, 3])
    assert left.times_s.tolist() == [1, 3]


def test_a_person_has_their_own_row_features_and_past(tiny_served: Served) -> None:
    for row in (0, 3, 59):
        user_id = tiny_served.users.id_of(row)
        person = tiny_served.person(user_id)
        assert (person.user_id, person.row) == (user_id, row)
        np.testing.assert_array_equal(person.bag.ids[0], tiny_served.user_bag.ids[row])
        np.testing.assert_array_equal(person.past.items, tiny_served.pasts.of_user(row).items)
        times = person.past.times_s
        assert (np.diff(times) >= 0).all()
        last = times[-1] if len(times) else np.nan
        np.testing.assert_equal(person.last_time_s, last)


def test_an_unknown_id_makes_a_person_without_past_and_features(tiny_served: Served) -> None:
    person = tiny_served.person("nobody 🙈")
    assert (person.row, len(person.past), person.bag.weights.sum()) == (60, 0, 0)
    assert np.isnan(person.last_time_s)


@pytest.mark.parametrize(
    ("typed", "row"), [("42", 1), (42, 1), ("-7", 0), ("042x", 3), ("", 3), ("9" * 30, 3)]
)
def test_where_ids_are_numbers_a_text_that_is_one_is_taken_for_it(
    tiny_served: Served, typed: str | int, row: int
) -> None:
    users = Vocabulary(pl.Series([-7, 42, 4200]))
    assert replace(tiny_served, users=users).person(typed).row == row


def test_counts_are_of_people_not_of_events(tiny_served: Served) -> None:
    rows = np.repeat(np.arange(60), np.diff(tiny_served.pasts.ends, prepend=0))
    for item in range(tiny_served.n_items):
        mine = rows[tiny_served.pasts.items == item]
        assert tiny_served.n_people[item] == len(set(mine.tolist()))
