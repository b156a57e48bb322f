"""The exact index finds what a slow loop finds, whatever is denied and however scores tie."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.retrieval.index import ExactIndex


def by_hand(vectors: np.ndarray, query: np.ndarray, k: int, deny: set[int]) -> list[int]:
    """Rows by falling inner product, equal ones by lower row."""
    open_rows = [row for row in range(len(vectors)) if row not in deny]
    return sorted(open_rows, key=lambda row: (-float(vectors[row] @ query), row))[:k]


@given(
    seed=st.integers(0, 10**6),
    n_items=st.integers(1, 300),
    k=st.integers(1, 320),
    share_denied=st.floats(0, 1),
)
def test_it_finds_what_a_slow_loop_finds_even_among_equal_scores(
    seed: int, n_items: int, k: int, share_denied: float
) -> None:
    rng = np.random.default_rng(seed)
    # Small integers: products are exact, and many of them are equal.
    vectors = rng.integers(-2, 3, (n_items, 3)).astype(np.float32)
    query = rng.integers(-2, 3, 3).astype(np.float32)
    deny = np.flatnonzero(rng.random(n_items) < share_denied).astype(np.int32)
    found = ExactIndex.build(vectors).search(query, k, deny=deny)
    assert found.rows.tolist() == by_hand(vectors, query, k, set(deny.tolist()))
    assert found.scores.tolist() == (vectors[found.rows] @ query).tolist()


def test_an_items_score_does_not_depend_on_the_other_items() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1000, 129)).astype(np.float32)
    query = rng.normal(size=129).astype(np.float32)
    every = ExactIndex.build(vectors).search(query, 1000)
    score_of = dict(zip(every.rows.tolist(), every.scores.tolist(), strict=True))
    for row in (0, 1, 500, 999):
        alone = ExactIndex.build(vectors[row : row + 1]).search(query, 1)
        assert alone.scores[0] == score_of[row]
    rest = np.setdiff1d(np.arange(1000), [3, 500, 999])
    few = ExactIndex.build(vectors).search(query, 5, deny=rest)
    assert few.rows.tolist() == sorted([3, 500, 999], key=lambda row: -score_of[row])
    assert few.scores.tolist() == [score_of[row] for row in few.rows.tolist()]


def test_when_everything_is_denied_nothing_is_found() -> None:
    found = ExactIndex.build(np.eye(4, dtype=np.float32)).search(
        np.ones(4, np.float32), 3, deny=np.array([3, 2, 1, 0, 0])
    )
    assert (len(found.rows), len(found.scores)) == (0, 0)
    assert found.rows.dtype == np.int32


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    vectors = np.eye(3, dtype=np.float32)
    vectors[1, 1] = bad
    with pytest.raises(ValueError, match="the vectors of 1 items are not finite"):
        ExactIndex.build(vectors)
    with pytest.raises(ValueError, match="query is not finite"):
        ExactIndex.build(np.eye(3, dtype=np.float32)).search(vectors[1], 1)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_query_starts_no_threads() -> None:
    script = """
import os
import numpy as np
from candidfeed.retrieval.index import ExactIndex
index = ExactIndex.build(np.random.default_rng(0).normal(size=(50_000, 32)).astype("float32"))
query = np.ones(32, "float32")
before = len(os.listdir("/proc/self/task"))
index.search(query, 500, deny=np.arange(1000))
print(before, len(os.listdir("/proc/self/task")))
"""
    free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=free)
    before, after = done.stdout.split()
    assert after == before
