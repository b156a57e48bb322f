"""Interactions: aligned columns of the log, and who touched what."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.data.interactions import Interactions

N_USERS, N_ITEMS = 3, 4


def log_of(pairs: list[tuple[int, int]]) -> Interactions:
    """Values count up from 1, times from 100."""
    n = len(pairs)
    return Interactions(
        user=np.array([user for user, _ in pairs], dtype=np.int32),
        item=np.array([item for _, item in pairs], dtype=np.int32),
        value=np.arange(1, n + 1, dtype=np.float32),
        time_s=np.arange(100, 100 + n, dtype=np.float64),
        n_users=N_USERS,
        n_items=N_ITEMS,
    )


def rows_of(log: Interactions) -> list[tuple]:
    columns = (log.user.tolist(), log.item.tolist(), log.value.tolist(), log.time_s.tolist())
    return list(zip(*columns, strict=True))


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"columns of different lengths \[1, 2\]"):
        Interactions(
            np.zeros(2, np.int32), np.zeros(1, np.int32), np.zeros(2, np.float32), np.zeros(2), 3, 4
        )


def test_rows_are_taken_in_the_order_asked_for_and_by_mask() -> None:
    log = log_of([(0, 1), (1, 2), (2, 3)])
    assert rows_of(log.take(np.array([2, 0, 2]))) == [
        (2, 3, 3.0, 102.0), (0, 1, 1.0, 100.0), (2, 3, 3.0, 102.0),
    ]  # fmt: skip
    assert rows_of(log.take(np.array([False, True, False]))) == [(1, 2, 2.0, 101.0)]
    nobody = log.take(np.zeros(3, dtype=bool))
    assert len(nobody) == 0
    assert (nobody.n_users, nobody.n_items) == (N_USERS, N_ITEMS)


def test_joined_logs_keep_every_row_in_order() -> None:
    first, later = log_of([(0, 1)]), log_of([(2, 3), (1, 1)])
    assert rows_of(first.concat(later)) == rows_of(first) + rows_of(later)


def test_logs_of_different_vocabularies_are_not_joined() -> None:
    log = log_of([(0, 1)])
    other = Interactions(log.user, log.item, log.value, log.time_s, N_USERS, N_ITEMS + 1)
    with pytest.raises(ValueError, match="3 users and 4 items can't be joined with 3 and 5"):
        log.concat(other)


@given(st.lists(st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1)), max_size=20))
def test_the_matrix_holds_a_one_for_each_pair_however_often_it_occurs(pairs: list) -> None:
    matrix = log_of(pairs).matrix
    expected = np.zeros((N_USERS, N_ITEMS), np.float32)
    for user, item in pairs:
        expected[user, item] = 1.0
    np.testing.assert_array_equal(matrix.toarray(), expected)
    assert matrix.nnz == len(set(pairs))
    assert matrix.has_sorted_indices
    assert matrix.dtype == np.float32
