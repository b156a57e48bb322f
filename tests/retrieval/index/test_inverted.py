"""How lists are made and how deep they are looked into, on catalogues easy to get wrong."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.retrieval.index.inverted import InvertedIndex, Probing
from candidfeed.retrieval.index.inverted_build import answered, recall_of
from candidfeed.retrieval.index.state import EXACT, INVERTED
from candidfeed.retrieval.index.vector_index import IndexSettings, VectorIndex

N_ITEMS, DIM = 20_000, 16
SETTINGS = IndexSettings(exact_below=1_000, recall_k=100)


def skewed(n: int, seed: int, *, skew: float) -> np.ndarray:
    """Vectors around 60 tastes; `skew` is the standard deviation of the log of their norms."""
    tastes = np.random.default_rng(5).normal(size=(60, DIM))
    rng = np.random.default_rng(seed)
    vectors = tastes[rng.integers(0, 60, n)] + 0.5 * rng.normal(size=(n, DIM))
    return (vectors * np.exp(rng.normal(0, skew, (n, 1)))).astype(np.float32)


def built(vectors: np.ndarray, queries: np.ndarray, seed: int = 0) -> VectorIndex:
    return VectorIndex.build(vectors, queries=queries, settings=SETTINGS, seed=seed)


def lists_of(index: VectorIndex) -> InvertedIndex:
    assert isinstance(index.base, InvertedIndex)
    return index.base


@pytest.mark.parametrize("skew", [0.0, 0.5, 2.0])
def test_the_target_is_reached_for_other_users_by_looking_at_a_small_part(skew: float) -> None:
    index = built(skewed(N_ITEMS, 0, skew=skew), skewed(600, 1, skew=0.3))
    others = answered(skewed(N_ITEMS, 0, skew=skew), skewed(200, 2, skew=0.3), 100)
    recall = recall_of(lists_of(index), others, 100).mean()
    assert recall > 0.95
    assert lists_of(index).probing.scanned_of(100) < N_ITEMS / 5


def test_the_report_says_what_a_search_finds_for_users_that_the_build_did_not_tune_with() -> None:
    vectors, queries = skewed(N_ITEMS, 0, skew=1), skewed(300, 1, skew=0.3)
    index = built(vectors, queries)
    drawn = queries[np.random.default_rng(0).permutation(300)]
    exact = VectorIndex.compare_all(vectors)
    shares = [
        len(set(index.search(query, 100).rows) & set(exact.search(query, 100).rows)) / 100
        for query in drawn[1::2]
    ]
    report = index.report
    assert report.recall == round(float(np.mean(shares)), 4)
    assert report.recall_p5 == round(float(np.quantile(shares, 0.05)), 4)
    assert (report.kind, report.n_held_out, report.n_items) == (INVERTED, 150, N_ITEMS)
    assert report.n_lists == lists_of(index).lists.nlist
    assert report.n_probes == lists_of(index).probing.most_of(100)


def test_a_higher_target_looks_deeper_and_finds_more() -> None:
    vectors, queries = skewed(N_ITEMS, 0, skew=1), skewed(600, 1, skew=0.3)
    reports = [
        VectorIndex.build(
            vectors,
            queries=queries,
            settings=IndexSettings(exact_below=1, recall_k=100, recall_target=target),
        ).report
        for target in (0.8, 0.9, 0.99)
    ]
    assert sorted(reports, key=lambda report: report.n_probes) == reports
    assert sorted(reports, key=lambda report: report.recall) == reports
    assert reports[2].recall > 0.975


def test_two_builds_with_one_seed_find_the_same() -> None:
    vectors, queries = skewed(N_ITEMS, 0, skew=1), skewed(100, 1, skew=0.3)
    first, second, other = (
        built(vectors, queries),
        built(vectors, queries),
        built(vectors, queries, 1),
    )
    assert asdict(first.report) == asdict(second.report)
    np.testing.assert_array_equal(lists_of(first).list_of, lists_of(second).list_of)
    assert (lists_of(first).list_of != lists_of(other).list_of).any()


def test_no_list_is_long_even_where_most_items_are_alike_or_were_never_trained() -> None:
    vectors = skewed(N_ITEMS, 0, skew=1)
    vectors[5_000:15_000] = 0
    vectors[15_000:] = vectors[0]
    index = built(vectors, skewed(100, 1, skew=0.3))
    sizes = np.bincount(lists_of(index).list_of)
    assert sizes.min() >= 1
    assert sizes.max() <= 128
    assert index.report.recall > 0.9


def test_items_that_are_all_alike_are_found_as_many_as_asked() -> None:
    same = np.tile(np.arange(1, DIM + 1, dtype=np.float32), (2_000, 1))
    index = built(same, skewed(40, 1, skew=0.3))
    found = index.search(np.ones(DIM, np.float32), 300)
    assert len(set(found.rows.tolist())) == 300
    assert set(found.scores.tolist()) == {136.0}
    zeros = built(np.zeros((2_000, DIM), np.float32), skewed(40, 1, skew=0.3))
    assert len(zeros.search(np.ones(DIM, np.float32), 300)) == 300


def test_a_query_of_zeros_finds_as_many_as_asked() -> None:
    index = built(skewed(N_ITEMS, 0, skew=1), skewed(100, 1, skew=0.3))
    found = index.search(np.zeros(DIM, np.float32), 100)
    assert len(found) == 100
    assert not found.scores.any()


def test_a_large_catalogue_without_users_is_refused_and_with_too_few_compared_as_a_whole() -> None:
    vectors = skewed(2_000, 0, skew=1)
    with pytest.raises(ValueError, match="2,000 items need the vectors of users"):
        VectorIndex.build(vectors, settings=SETTINGS)
    few = np.zeros((100, DIM), np.float32)
    few[:19] = skewed(19, 1, skew=0.3)
    index = built(vectors, few)
    assert (index.report.kind, index.report.recall, index.report.n_held_out) == (EXACT, 1.0, 0)


def test_users_of_another_length_or_that_are_not_finite_are_refused() -> None:
    vectors, queries = skewed(2_000, 0, skew=1), skewed(50, 1, skew=0.3)
    with pytest.raises(ValueError, match=r"shape \(50, 15\) came, not \[n, 16\]"):
        built(vectors, queries[:, 1:])
    queries[3, 3] = np.nan
    with pytest.raises(ValueError, match="1 queries are not finite"):
        built(vectors, queries)


@pytest.fixture(scope="module")
def pair() -> tuple[VectorIndex, VectorIndex]:
    """Lists, and exact search of the same 20,000 items."""
    vectors = skewed(N_ITEMS, 0, skew=1)
    return built(vectors, skewed(600, 1, skew=0.3)), VectorIndex.compare_all(vectors)


@pytest.mark.parametrize("n_denied", [20, 50, 100, 250, 500, 3_000])
@pytest.mark.parametrize("every", [1, 2])
def test_the_next_best_are_found_however_many_of_the_best_are_denied(
    pair: tuple[VectorIndex, VectorIndex], n_denied: int, every: int
) -> None:
    index, exact = pair
    shares = []
    for query in skewed(50, 2, skew=0.3):
        favourites = exact.search(query, n_denied * every).rows[::every]
        right = exact.search(query, 100, deny=favourites).rows
        found = index.search(query, 100, deny=favourites)
        assert len(found) == 100
        shares.append(np.isin(right, found.rows).mean())
    assert np.mean(shares) > 0.95


def test_a_removed_item_does_not_take_the_place_of_another() -> None:
    vectors = skewed(N_ITEMS, 0, skew=1)
    index, exact = built(vectors, skewed(600, 1, skew=0.3)), VectorIndex.compare_all(vectors)
    query = skewed(1, 2, skew=0.3)[0]
    favourites = exact.search(query, 250).rows
    assert (index.remove(favourites), exact.remove(favourites)) == (250, 250)
    found, right = index.search(query, 100), exact.search(query, 100)
    assert len(found) == 100
    assert np.isin(right.rows, found.rows).mean() > 0.9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_a_query_of_any_size_finds_as_many_as_asked(size: float) -> None:
    index = built(skewed(N_ITEMS, 0, skew=1), skewed(100, 1, skew=0.3))
    query = skewed(1, 2, skew=0.3)[0]
    found = index.search(query * np.float32(size), 100)
    assert len(found) == 100
    assert np.isin(index.search(query, 100).rows, found.rows).mean() > 0.9


@given(
    n=st.integers(1, 400), n_values=st.integers(1, 500), most=st.integers(1, 400),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_the_lists_worth_a_look_are_the_best_ones(
    n: int, n_values: int, most: int, seed: int
) -> None:
    # Few values make many equal scores.
    scores = np.random.default_rng(seed).integers(0, n_values, n).astype(np.float32)
    depths, nothing = np.array([1, 2]), np.zeros(n, np.float32)
    probing = Probing(0, nothing, depths, np.full(2, most), np.ones(2), np.full(2, n))
    found = probing.worth_a_look(scores, 1)
    assert len(np.unique(found)) == len(found) == min(most, n)
    assert sorted(scores[found]) == sorted(np.sort(scores)[::-1][: len(found)])
