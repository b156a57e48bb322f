"""Histories: the past of each user as both stages read it."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.data.histories import Histories
from candidfeed.data.interactions import Interactions

N_USERS, N_ITEMS = 4, 5
EVERYONE = np.arange(N_USERS)
EVERYONE = np.arange(N_USERS)
Row = tuple[int, int, float, float]


def log_of(rows: list[Row]) -> Interactions:
    """Rows are (user, item, value, time)."""
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return Interactions(
        user=columns[0].astype(np.int32),
        item=columns[1].astype(np.int32),
        value=columns[2].astype(np.float32),
        time_s=columns[3],
        n_users=N_USERS,
        n_items=N_ITEMS,
    )


def items_of(histories: Histories, user: int) -> list[int]:
    return histories.item[histories.starts[user] : histories.starts[user + 1]].tolist()


def test_events_stand_oldest_first_and_one_instant_keeps_the_logs_order() -> None:
    log = log_of([(0, 3, 1, 50), (0, 1, 1, 10), (0, 4, 1, 50), (0, 0, 1, 50), (0, 2, 1, 20)])
    assert items_of(Histories.of(log, max_length=9), 0) == [1, 2, 3, 4, 0]


def test_a_repeated_item_counts_once_at_its_last_time_with_its_last_value() -> None:
    log = log_of([(0, 1, 5, 30), (0, 2, 3, 20), (0, 1, 4, 10), (0, 1, 2, 30)])
    histories = Histories.of(log, max_length=9)
    assert items_of(histories, 0) == [2, 1]
    assert histories.value.tolist() == [3, 2]
    assert histories.time_s.tolist() == [20, 30]


def test_the_same_item_of_two_users_counts_for_both() -> None:
    histories = Histories.of(log_of([(0, 1, 1, 1), (1, 1, 1, 2)]), max_length=9)
    assert items_of(histories, 0) == items_of(histories, 1) == [1]


def test_a_long_history_keeps_its_latest_distinct_items() -> None:
    log = log_of([(0, 0, 1, 1), (0, 1, 1, 2), (0, 2, 1, 3), (0, 2, 1, 4), (0, 2, 1, 5)])
    histories = Histories.of(log, max_length=2)
    assert items_of(histories, 0) == [1, 2]
    assert histories.lengths.tolist() == [2, 0, 0, 0]


def test_without_times_the_order_of_the_log_stands_in() -> None:
    log = log_of([(0, 4, 1, math.nan), (0, 1, 1, math.nan), (0, 3, 1, math.nan)])
    histories = Histories.of(log, max_length=2)
    assert items_of(histories, 0) == [1, 3]
    assert np.isnan(histories.time_s).all()


def test_an_event_without_a_time_counts_as_older_than_all_others() -> None:
    log = log_of([(0, 4, 1, -5), (0, 1, 1, math.nan), (0, 3, 1, 7)])
    assert items_of(Histories.of(log, max_length=9), 0) == [1, 4, 3]


def test_a_user_without_events_has_padding_alone() -> None:
    histories = Histories.of(log_of([(2, 1, 1, 1)]), max_length=9)
    padded = histories.padded(EVERYONE)
    assert padded.lengths.tolist() == histories.lengths.tolist() == [0, 0, 1, 0]
    assert padded.items.tolist() == [[N_ITEMS], [N_ITEMS], [1], [N_ITEMS]]
    assert np.isnan(padded.values[[0, 1, 3]]).all()
    assert np.isnan(padded.times_s[[0, 1, 3]]).all()


def test_an_empty_log_is_one_column_of_padding() -> None:
    histories = Histories.of(log_of([]), max_length=9)
    assert histories.padded(EVERYONE).items.tolist() == [[N_ITEMS]] * N_USERS
    assert histories.lengths.tolist() == [0] * N_USERS


def test_types_are_those_that_the_models_read() -> None:
    padded = Histories.of(log_of([(0, 1, 1, 1)]), max_length=9).padded(EVERYONE)
    kinds = [a.dtype for a in (padded.items, padded.values, padded.times_s)]
    assert kinds == [np.int32, np.float32, np.float64]
    assert padded.lengths.dtype == np.int32


def test_a_wider_batch_has_more_padding_and_a_narrower_one_the_latest_events() -> None:
    log = log_of([(0, 1, 3, 1), (0, 2, 4, 2), (0, 4, 1, 5), (1, 0, 5, 3)])
    histories = Histories.of(log, max_length=9)
    wide, narrow = (histories.padded(np.array([1, 0]), width=width) for width in (4, 2))
    nothing = N_ITEMS
    assert wide.items.tolist() == [[0, nothing, nothing, nothing], [1, 2, 4, nothing]]
    assert narrow.items.tolist() == [[0, nothing], [2, 4]]
    np.testing.assert_array_equal(narrow.values, [[5, np.nan], [4, 1]])
    np.testing.assert_array_equal(narrow.times_s, [[3, np.nan], [2, 5]])
    assert (wide.lengths.tolist(), narrow.lengths.tolist()) == ([1, 3], [1, 2])
    assert wide.n_items == N_ITEMS


def by_loop(rows: list[Row], user: int, max_length: int) -> list[tuple[int, float, float]]:
    """(item, value, time) of one user, oldest first."""

    def age(place: int) -> tuple[float, int]:
        time = rows[place][3]
        return (-math.inf if math.isnan(time) else time, place)

    last: dict[int, int] = {}
    for place in sorted((p for p in range(len(rows)) if rows[p][0] == user), key=age):
        last[rows[place][1]] = place
    places = sorted(last.values(), key=age)[-max_length:]
    return [rows[place][1:] for place in places]


some_rows = st.lists(
    st.tuples(
        st.integers(0, N_USERS - 1),
        st.integers(0, N_ITEMS - 1),
        st.sampled_from([1.0, 2.5, math.nan]),
        st.sampled_from([-1.0, 0.0, 7.0, 8.0, math.nan]),
    ),
    max_size=30,
)


@given(rows=some_rows, max_length=st.integers(1, 6))
def test_histories_are_those_of_a_slow_loop(rows: list[Row], max_length: int) -> None:
    histories = Histories.of(log_of(rows), max_length=max_length)
    padded = histories.padded(EVERYONE)
    for user in range(N_USERS):
        n = histories.lengths[user]
        expected = np.array(by_loop(rows, user, max_length)).reshape(-1, 3)
        assert n == len(expected)
        np.testing.assert_array_equal(padded.items[user, :n], expected[:, 0])
        np.testing.assert_array_equal(padded.values[user, :n], expected[:, 1])
        np.testing.assert_array_equal(padded.times_s[user, :n], expected[:, 2])
        assert (padded.items[user, n:] == N_ITEMS).all()
        assert np.isnan(padded.values[user, n:]).all()
    assert padded.items.shape[1] == histories.longest == max(1, histories.lengths.max())
