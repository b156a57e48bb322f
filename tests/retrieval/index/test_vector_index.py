"""What holds of every index, small or large: one class of tests that both kinds pass."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.retrieval.index import inverted as inverted_index
from candidfeed.retrieval.index.inner_products import Marks
from candidfeed.retrieval.index.state import EXACT, INVERTED
from candidfeed.retrieval.index.vector_index import IndexSettings, VectorIndex

DIM = 16
SMALL = IndexSettings(exact_below=500, recall_k=50)


def world(n_items: int = 3_000, seed: int = 0) -> np.ndarray:
    """Items around a few tastes, some far longer than others, as factorisations make them."""
    rng = np.random.default_rng(seed)
    tastes = rng.normal(size=(40, DIM))
    vectors = tastes[rng.integers(0, 40, n_items)] + 0.5 * rng.normal(size=(n_items, DIM))
    return (vectors * np.exp(rng.normal(0, 1, (n_items, 1)))).astype(np.float32)


def users(n: int = 300, seed: int = 1) -> np.ndarray:
    return world(n, seed)


def by_hand(vectors: np.ndarray, query: np.ndarray, k: int, deny: set[int]) -> list[int]:
    """Rows by falling inner product, equal ones by lower row."""
    open_rows = [row for row in range(len(vectors)) if row not in deny]
    return sorted(open_rows, key=lambda row: (-float(vectors[row] @ query), row))[:k]


def share_found(index: VectorIndex, exact: VectorIndex, k: int, **chosen: Any) -> float:
    """Mean share of what exact search finds."""
    shares = []
    for query in users(60, seed=9):
        right = exact.search(query, k, **chosen).rows
        shares.append(np.isin(right, index.search(query, k, **chosen).rows).mean())
    return float(np.mean(shares))


def side_by_side(work: Callable[..., None], arguments: list[tuple]) -> None:
    """Does the work with each of these arguments, on a thread each."""
    threads = [threading.Thread(target=work, args=each) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture(params=[EXACT, INVERTED])
def index(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> VectorIndex:
    """3,000 items; where it has lists, it uses them for short ways too."""
    monkeypatch.setattr(inverted_index, "_FEW_ROWS", 100)
    if request.param == EXACT:
        return VectorIndex.build(world())
    built = VectorIndex.build(world(), queries=users(), settings=SMALL)
    assert built.report.kind == INVERTED
    return built


class TestEveryIndex:
    def test_scores_are_the_inner_products_best_first_and_equal_ones_by_lower_row(
        self, index: VectorIndex
    ) -> None:
        exact = VectorIndex.build(world())
        for query in users(20):
            found = index.search(query, 50)
            assert (found.rows.dtype, found.scores.dtype) == (np.int32, np.float32)
            every = exact.search(query, 3_000)
            score_of = dict(zip(every.rows.tolist(), every.scores.tolist(), strict=True))
            assert found.scores.tolist() == [score_of[row] for row in found.rows.tolist()]
            pairs = list(zip((-found.scores).tolist(), found.rows.tolist(), strict=True))
            assert pairs == sorted(set(pairs))
            np.testing.assert_allclose(found.scores, world()[found.rows] @ query, rtol=1e-4)

    @pytest.mark.parametrize("k", [1, 7, 50, 150, 400, 2_999, 3_000, 10_000])
    def test_as_many_are_found_as_are_asked_for_and_are_there(
        self, index: VectorIndex, k: int
    ) -> None:
        for chosen in ({}, {"deny": np.arange(10)}, {"allow": np.arange(2_000)}):
            n_open = {"deny": 2_990, "allow": 2_000}.get(next(iter(chosen), ""), 3_000)
            found = index.search(users()[0], k, **chosen)
            assert len(found) == len(set(found.rows.tolist())) == min(k, n_open)

    def test_most_of_the_best_are_found_whatever_is_shut_out(self, index: VectorIndex) -> None:
        exact = VectorIndex.build(world())
        rng = np.random.default_rng(0)
        favourites = exact.search(users()[3], 200).rows
        first_taste = np.flatnonzero(world() @ users()[3] > 0)
        for chosen in (
            {},
            {"deny": rng.choice(3_000, 200, replace=False)},
            {"deny": favourites},
            {"deny": np.arange(2_000)},
            {"allow": rng.choice(3_000, 1_500, replace=False)},
            {"allow": first_taste},
            {"allow": np.arange(40)},
        ):
            assert share_found(index, exact, 50, **chosen) > 0.93, chosen

    def test_what_is_denied_or_not_allowed_is_not_found(self, index: VectorIndex) -> None:
        query = users()[0]
        best = index.search(query, 100).rows
        left = index.search(query, 100, deny=best[::2])
        assert not np.isin(left.rows, best[::2]).any()
        assert np.isin(best[1::2], left.rows).mean() > 0.9
        allowed = np.setdiff1d(np.arange(1_500), best[:10])
        found = index.search(query, 100, allow=allowed, deny=allowed[:700])
        assert np.isin(found.rows, allowed[700:]).all()

    def test_when_nothing_is_open_nothing_is_found(self, index: VectorIndex) -> None:
        query, every = users()[0], np.arange(3_000)
        for found in (
            index.search(query, 3, deny=every),
            index.search(query, 3, allow=np.empty(0, np.int32)),
            index.search(query, 3, allow=every[:9], deny=every[:9]),
            index.search(query, 0),
            index.search(query, -1),
        ):
            assert (len(found), found.rows.dtype, found.scores.dtype) == (0, np.int32, np.float32)

    def test_rows_that_are_unknown_or_come_twice_do_no_harm(self, index: VectorIndex) -> None:
        query = users()[0]
        best = index.search(query, 10).rows
        odd = np.array([-1, -5, 3_000, 2**31 - 1, best[0], best[0]])
        assert index.search(query, 9, deny=odd).rows.tolist() == best[1:].tolist()
        assert index.search(query, 5, allow=odd).rows.tolist() == [best[0]]
        assert index.remove(odd) == 1
        assert index.search(query, 9).rows.tolist() == best[1:].tolist()

    @pytest.mark.parametrize(
        "rows", [np.ones(3_000, bool), np.array([1.0, 2.0]), np.array([[1, 2]]), np.array(["1"])]
    )
    def test_rows_that_are_no_integers_are_refused(
        self, index: VectorIndex, rows: np.ndarray
    ) -> None:
        query = users()[0]
        for use in (
            lambda: index.search(query, 5, deny=rows),
            lambda: index.search(query, 5, allow=rows),
            lambda: index.add(rows, world()[: rows.size]),
            lambda: index.remove(rows),
        ):
            with pytest.raises(ValueError, match=r"came, not integers \[n\]"):
                use()
        assert len(index) == 3_000

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_what_is_not_finite_is_refused(self, index: VectorIndex, bad: float) -> None:
        query = users()[0].copy()
        query[3] = bad
        with pytest.raises(ValueError, match="1 queries are not finite"):
            index.search(query, 5)
        with pytest.raises(ValueError, match="the vectors of 1 items are not finite"):
            index.add(np.array([1, 2]), np.stack([users()[0], query]))
        assert len(index) == 3_000

    def test_a_query_of_another_length_is_refused(self, index: VectorIndex) -> None:
        with pytest.raises(ValueError, match=r"shape \(1, 5\) came, not \[n, 16\]"):
            index.search(np.ones(5, np.float32), 5)

    def test_an_added_item_is_found_and_a_removed_one_is_not_by_the_next_search(
        self, index: VectorIndex
    ) -> None:
        query = users()[0]
        before = index.search(query, 5).rows
        index.add(np.array([70_000, 3_000]), np.stack([query * 900, query * 800]))
        assert index.search(query, 4).rows.tolist() == [70_000, 3_000, *before[:2]]
        assert len(index) == 3_002
        assert index.remove(np.array([70_000, before[0]])) == 2
        assert index.search(query, 3).rows.tolist() == [3_000, *before[1:3]]
        assert index.search(query, 3, deny=np.array([3_000])).rows.tolist() == [*before[1:4]]
        assert index.search(query, 3, allow=np.array([3_000, before[0]])).rows.tolist() == [3_000]
        assert len(index) == 3_000

    def test_an_item_that_is_added_again_has_its_new_vector_only(self, index: VectorIndex) -> None:
        query = users()[0]
        best = index.search(query, 3).rows
        index.add(best[:1], -query[None])
        assert index.search(query, 2).rows.tolist() == best[1:].tolist()
        index.add(best[:1], query[None] * 500)
        found = index.search(query, 2)
        assert found.rows.tolist() == best[:2].tolist()
        np.testing.assert_allclose(found.scores[0], 500 * query @ query, rtol=1e-5)
        assert len(index) == 3_000

    def test_removing_twice_counts_once_and_a_removed_item_can_come_back(
        self, index: VectorIndex
    ) -> None:
        query = users()[0]
        best = index.search(query, 1).rows
        assert (index.remove(best), index.remove(best), len(index)) == (1, 0, 2_999)
        index.add(best, world()[best])
        assert (index.search(query, 1).rows.tolist(), len(index)) == (best.tolist(), 3_000)

    def test_reset_forgets_what_was_added_and_removed(self, index: VectorIndex) -> None:
        query = users()[0]
        before = index.search(query, 20)
        index.add(np.array([70_000]), query[None] * 900)
        index.remove(before.rows[:3])
        index.reset()
        again = index.search(query, 20)
        np.testing.assert_array_equal(again.rows, before.rows)
        np.testing.assert_array_equal(again.scores, before.scores)
        assert len(index) == 3_000

    @pytest.mark.parametrize(
        ("rows", "n", "message"),
        [
            ([5, 5], 2, "negative or comes twice"),
            ([-1], 1, "negative or comes twice"),
            ([2**31], 1, "above the largest row"),
            ([1, 2], 1, "2 rows came with 1 vectors"),
        ],
    )
    def test_rows_that_can_not_be_added_leave_everything_as_it_was(
        self, index: VectorIndex, rows: list[int], n: int, message: str
    ) -> None:
        before = index.snapshot
        with pytest.raises(ValueError, match=message):
            index.add(np.array(rows), users()[:n])
        assert index.snapshot is before

    def test_readers_find_a_whole_state_while_items_come_and_go(self, index: VectorIndex) -> None:
        query = users()[0]
        index.add(np.array([5_000, 5_001]), np.stack([query * 900, query * 800]))
        stop, wrong = threading.Event(), []

        def read() -> None:
            while not stop.is_set():
                # The two are added and removed together: never one without the other.
                first = [row for row in index.search(query, 2).rows.tolist() if row >= 5_000]
                if first not in ([], [5_000, 5_001]):
                    wrong.append(first)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for _ in range(100):
            index.remove(np.array([5_000, 5_001]))
            index.add(np.array([5_000, 5_001]), np.stack([query * 900, query * 800]))
        stop.set()
        for reader in readers:
            reader.join()
        assert wrong == []

    def test_readers_at_the_same_time_each_keep_to_their_own_deny_list(
        self, index: VectorIndex
    ) -> None:
        query = users()[0]
        best = index.search(query, 120).rows
        lists = [best[first::4] for first in range(4)]
        expected = [index.search(query, 50, deny=deny).rows.tolist() for deny in lists]
        wrong: list[list[int]] = []

        def read(deny: np.ndarray, right: list[int]) -> None:
            for _ in range(300):
                found = index.search(query, 50, deny=deny).rows.tolist()
                if found != right:
                    wrong.append(found)

        side_by_side(read, list(zip(lists, expected, strict=True)))
        assert wrong == []

    def test_what_was_denied_before_is_found_again_however_many_searches_there_were(
        self, index: VectorIndex
    ) -> None:
        query = users()[0]
        best = index.search(query, 10).rows
        for i in range(600):
            found = index.search(query, 5, deny=best[i % 5 : i % 5 + 1]).rows
            assert found.tolist() == np.delete(best, i % 5)[:5].tolist()

    def test_no_change_is_lost_when_many_threads_write(self, index: VectorIndex) -> None:
        def write(first: int) -> None:
            for row in range(first, first + 20):
                index.add(np.array([row]), users()[:1])
                index.remove(np.array([row - 8_000]))

        side_by_side(write, [(8_000 + 20 * i,) for i in range(4)])
        assert index.snapshot.added_rows.tolist() == list(range(8_000, 8_080))
        assert index.snapshot.gone.tolist() == list(range(80))


# Parts

rows_below_9 = st.lists(st.integers(0, 8), max_size=12)


@given(st.lists(st.tuples(rows_below_9, rows_below_9), min_size=1, max_size=600))
def test_marks_tell_which_rows_are_among_others_whatever_was_asked_before(
    asked: list[tuple[list[int], list[int]]],
) -> None:
    marks = Marks(9)
    for rows, others in asked:
        found = marks.among(np.array(rows, int), np.array(others, int))
        assert found.tolist() == [row in others for row in rows]


# Exact search


@given(
    seed=st.integers(0, 10**6),
    n_items=st.integers(1, 300),
    dim=st.integers(1, 9),
    k=st.integers(1, 320),
    share_denied=st.floats(0, 1),
)
def test_exact_search_finds_what_a_slow_loop_finds_even_among_equal_scores(
    seed: int, n_items: int, dim: int, k: int, share_denied: float
) -> None:
    rng = np.random.default_rng(seed)
    # Small integers: products are exact, and many of them are equal.
    vectors = rng.integers(-2, 3, (n_items, dim)).astype(np.float32)
    query = rng.integers(-2, 3, dim).astype(np.float32)
    deny = np.flatnonzero(rng.random(n_items) < share_denied).astype(np.int32)
    found = VectorIndex.build(vectors).search(query, k, deny=deny)
    assert found.rows.tolist() == by_hand(vectors, query, k, set(deny.tolist()))
    assert found.scores.tolist() == (vectors[found.rows] @ query).tolist()


@pytest.mark.parametrize("dim", [1, 2, 4, 8, 12, 16, 129])
def test_an_items_score_does_not_depend_on_the_other_items(dim: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1000, dim)).astype(np.float32)
    query = rng.normal(size=dim).astype(np.float32)
    every = VectorIndex.build(vectors).search(query, 1000)
    score_of = dict(zip(every.rows.tolist(), every.scores.tolist(), strict=True))
    for row in (0, 1, 500, 999):
        alone = VectorIndex.build(vectors[row : row + 1]).search(query, 1)
        assert alone.scores[0] == score_of[row]
    few = VectorIndex.build(vectors).search(query, 5, allow=np.array([3, 500, 999]))
    assert few.rows.tolist() == sorted([3, 500, 999], key=lambda row: -score_of[row])
    assert few.scores.tolist() == [score_of[row] for row in few.rows.tolist()]


def test_an_index_of_no_items_finds_what_is_added() -> None:
    empty = VectorIndex.build(np.empty((0, 4), np.float32))
    query = np.ones(4, np.float32)
    assert (len(empty), len(empty.search(query, 3))) == (0, 0)
    assert len(empty.search(query, 3, deny=np.array([1]))) == 0
    empty.add(np.array([7]), query[None])
    assert empty.search(query, 3).rows.tolist() == [7]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(bad: float) -> None:
    vectors = np.eye(3, dtype=np.float32)
    vectors[1, 1] = bad
    with pytest.raises(ValueError, match="the vectors of 1 items are not finite"):
        VectorIndex.build(vectors)


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"recall_target": 0}, {"recall_target": 1.1}, {"recall_k": 0}):
        with pytest.raises(ValueError, match="out of range"):
            IndexSettings(**wrong)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("exact_below", [100_000, 1_000])
def test_a_query_starts_no_threads(exact_below: int, tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
import faiss
import numpy as np
from candidfeed.retrieval.index.vector_index import IndexSettings, VectorIndex
vectors = np.random.default_rng(0).normal(size=(30_000, 32)).astype("float32")
faiss.omp_set_num_threads(1)
settings = IndexSettings(exact_below=int(sys.argv[1]))
VectorIndex.build(vectors, queries=vectors[:40], settings=settings).save(Path(sys.argv[2]))
index = VectorIndex.load(Path(sys.argv[2]))
faiss.omp_set_num_threads(4)
query = np.ones(32, "float32")
before = len(os.listdir("/proc/self/task"))
index.search(query, 500)
index.search(query, 500, deny=np.arange(1000))
index.search(query, 500, deny=index.search(query, 500).rows)
index.search(query, 500, allow=np.arange(20_000))
index.add(np.array([40_000]), query[None])
index.search(query, 500)
print(before, len(os.listdir("/proc/self/task")))
"""
    free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", script, str(exact_below), str(tmp_path / "saved")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=free)
    before, after = done.stdout.split()
    assert after == before
