"""The k best columns: exact, ties by lower column, whether blocks are left out or not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.retrieval import top_k
from candidfeed.retrieval.top_k import best_columns, best_sets


@given(
    scores=st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.inf]), min_size=1),
    k=st.integers(1, 20),
)
def test_the_best_are_those_of_a_stable_sort(scores: list[float], k: int) -> None:
    row = np.array([scores], np.float32)
    expected = np.argsort(-row[0], kind="stable")[:k]
    np.testing.assert_array_equal(best_columns(row, k)[0], expected)
    np.testing.assert_array_equal(best_sets(row, k)[0], np.sort(expected))


def test_each_row_has_a_set_of_its_own() -> None:
    scores = np.array([[1.0, 3.0, 3.0, 3.0], [5.0, 0.0, 2.0, 5.0], [0.0, 0.0, 0.0, 0.0]])
    assert best_sets(scores, 2).tolist() == [[1, 2], [0, 3], [0, 1]]


@pytest.mark.parametrize("kind", ["normal", "few values", "rising", "falling", "equal"])
@pytest.mark.parametrize("k", [1, 7, 90, 200, 5000])
def test_leaving_blocks_out_changes_nothing(
    kind: str, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, rng = 3001, np.random.default_rng(3)
    made = {
        "normal": rng.standard_normal((2, n)),
        "few values": rng.integers(0, 3, (2, n)),
        "rising": np.arange(2 * n).reshape(2, n),
        "falling": -np.arange(2 * n).reshape(2, n),
        "equal": np.zeros((2, n)),
    }
    scores = made[kind].astype(np.float32)
    whole = best_columns(scores, k)
    monkeypatch.setattr(top_k, "_LONG", 100)
    monkeypatch.setattr(top_k, "_BLOCK", 16)
    np.testing.assert_array_equal(best_columns(scores, k), whole)
    np.testing.assert_array_equal(best_sets(scores, k), np.sort(whole, axis=1))


@pytest.mark.parametrize("n", [3, 40_000])
def test_a_score_that_is_no_number_is_refused(n: int) -> None:
    scores = np.zeros((1, n), np.float32)
    scores[0, n // 2] = np.nan
    for best in (best_columns, best_sets):
        with pytest.raises(ValueError, match="NaN"):
            best(scores, 2)
