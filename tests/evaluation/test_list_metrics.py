"""What lists look like: by hand, and against slow loops."""

from math import log2

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from sklearn.metrics.pairwise import cosine_similarity

from candidfeed.evaluation import list_metrics
from candidfeed.evaluation.bootstrap import Resamples, estimates
from candidfeed.evaluation.list_metrics import TopLists, evaluate_lists, top_rows


def matrix(rows):
    return sp.csr_matrix(np.asarray(rows, dtype=np.float32))


def lists_of(*items, users=None):
    users = np.arange(len(items)) if users is None else np.asarray(users)
    return TopLists(users.astype(np.int32), np.asarray(items, dtype=np.int32))


def values(*args, **kwargs):
    return {name: figure.value() for name, figure in evaluate_lists(*args, **kwargs).items()}


def random_lists(rng, n_users, n_items, k):
    return lists_of(*(rng.permutation(n_items)[:k] for _ in range(n_users)))


# Lists


def test_equal_scores_are_listed_by_row():
    scores = np.array([1, 2, 1, 3, 1, 2], dtype=np.float32)
    assert top_rows(scores, np.array([], dtype=int), 4).tolist() == [3, 1, 5, 0]


def test_what_must_not_be_listed_is_not_listed():
    scores = np.array([5, -np.inf, 3, 2], dtype=np.float32)
    assert top_rows(scores, np.array([0]), 3).tolist() == [2, 3]
    assert top_rows(scores, np.array([0, 2, 3]), 3).tolist() == []


@given(
    st.lists(st.sampled_from([-np.inf, -1.0, 0.0, -0.0, 2.0, 7.0]), min_size=1, max_size=20),
    st.integers(1, 25),
)
def test_a_list_is_the_start_of_the_stable_order(scores, k):
    expected = [i for i in np.argsort(-np.array(scores), kind="stable") if scores[i] > -np.inf]
    found = top_rows(np.array(scores, dtype=np.float32), np.array([], dtype=int), k)
    assert found.tolist() == expected[:k]


# Figures by hand


def test_coverage_is_the_share_of_items_on_some_list():
    train = matrix(np.ones((2, 8)))
    found = values(lists_of([0, 1, 2], [2, 1, -1]), train=train, known=train)
    assert found["coverage@3"] == 3 / 8


def test_novelty_is_self_information_with_one_more_user_who_touched_everything():
    # Three users train; items were touched by 3, 1 and 0 of them: p = 4/4, 2/4 and 1/4.
    train = matrix([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    found = values(lists_of([0, 1], [1, 2], [2, -1], [-1, -1]), train=train, known=train)
    assert found["novelty@2"] == pytest.approx((0.5 + 1.5 + 2.0) / 3)


def test_popularity_lift_is_the_excess_over_the_same_users_histories():
    # Users of the items: 3, 2, 1. User 0 knows items 0 and 2, user 1 item 1, user 2 nothing.
    train = matrix([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
    known = matrix([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    found = values(lists_of([1, -1], [0, 2], [0, 1]), train=train, known=known)
    assert found["popularity-lift@2"] == pytest.approx((2 + 2) / (2 + 2) - 1)
    found = values(lists_of([0, 1], [0, -1], [0, 1]), train=train, known=known)
    assert found["popularity-lift@2"] == pytest.approx((2.5 + 3) / (2 + 2) - 1)


def test_popularity_lift_is_undefined_where_no_user_has_a_history():
    train = matrix([[1, 0], [0, 0]])
    nobody = matrix([[0, 0], [0, 0]])
    found = values(lists_of([0, 1], users=[1]), train=train, known=nobody)
    assert np.isnan(found["popularity-lift@2"])


def test_diversity_is_one_less_the_mean_cosine_of_the_features():
    genres = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], dtype=np.float32)
    train = matrix(np.ones((2, 4)))
    found = values(lists_of([0, 1, 2], [0, 3, -1]), train=train, known=train, item_vectors=genres)
    cosines = (1 / np.sqrt(2) + 1 / np.sqrt(2) + 0) / 3
    assert found["diversity@3"] == pytest.approx(((1 - cosines) + 1) / 2)


def test_diversity_without_features_compares_who_touched_the_items():
    train = matrix([[1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1]])
    found = values(lists_of([0, 1]), train=train, known=train)
    assert found["diversity@2"] == pytest.approx(1 - 2 / np.sqrt(4 * 2))
    found = values(lists_of([1, 2]), train=train, known=train)
    assert found["diversity@2"] == pytest.approx(1)


def test_a_list_of_the_same_item_twice_over_has_no_diversity():
    twins = matrix([[1, 1], [1, 1]])
    assert values(lists_of([0, 1]), train=twins, known=twins)["diversity@2"] == pytest.approx(0)


def test_empty_lists_leave_figures_undefined_and_cover_nothing():
    train = matrix([[1, 1]])
    found = values(lists_of([-1, -1]), train=train, known=train)
    assert found.pop("coverage@2") == 0
    assert all(np.isnan(value) for value in found.values())


def test_item_vectors_must_fit_the_items():
    train = matrix(np.ones((1, 3)))
    with pytest.raises(ValueError, match="2 item vectors for 3 items"):
        evaluate_lists(lists_of([0]), train=train, known=train, item_vectors=np.ones((2, 2)))


# Against slow loops


def test_diversity_is_that_of_a_loop_over_all_pairs():
    rng = np.random.default_rng(4)
    train = matrix(rng.random((30, 50)) < 0.2)
    lists = random_lists(rng, 30, 50, 7)
    cosine = cosine_similarity(train.T)
    per_user = []
    for listed in lists.items:
        between = [1 - cosine[a, b] for a in listed for b in listed if a != b]
        per_user.append(np.mean(between))
    figure = evaluate_lists(lists, train=train, known=train)["diversity@7"]
    np.testing.assert_allclose(figure.sums[:, 0], per_user, atol=1e-12)


@pytest.mark.parametrize("chunk_entries", [1, 40, 200])
def test_the_size_of_a_block_does_not_matter(monkeypatch, chunk_entries):
    rng = np.random.default_rng(5)
    train = matrix(rng.random((20, 30)) < 0.2)
    lists = random_lists(rng, 20, 30, 4)
    whole = evaluate_lists(lists, train=train, known=train)["diversity@4"]
    monkeypatch.setattr(list_metrics, "CHUNK_ENTRIES", chunk_entries)
    parts = evaluate_lists(lists, train=train, known=train)["diversity@4"]
    np.testing.assert_array_equal(whole.sums, parts.sums)


def test_self_information_is_that_of_the_shares():
    rng = np.random.default_rng(6)
    train = matrix(rng.random((9, 12)) < 0.4)
    lists = random_lists(rng, 9, 12, 5)
    active = sum(row.nnz > 0 for row in train)
    bits = [-log2((train[:, item].nnz + 1) / (active + 1)) for item in range(12)]
    found = values(lists, train=train, known=train)["novelty@5"]
    assert found == pytest.approx(np.mean([[bits[i] for i in row] for row in lists.items]))


def test_the_interval_of_coverage_is_as_wide_as_the_jackknife_says():
    rng = np.random.default_rng(7)
    n_users, n_items = 400, 3000
    train = matrix(np.ones((n_users, n_items)))
    lists = random_lists(rng, n_users, n_items, 5)
    figure = evaluate_lists(lists, train=train, known=train)["coverage@5"]
    without = [
        len(np.unique(np.delete(lists.items, user, axis=0))) / n_items for user in range(n_users)
    ]
    spread = np.sqrt((n_users - 1) * np.var(without))
    resamples = Resamples.draw(lists.users, rng=rng, n_replicates=4000)
    found = estimates({"coverage@5": [figure]}, resamples)["coverage@5"]
    assert found.mean == len(np.unique(lists.items)) / n_items
    assert found.mean - found.low == pytest.approx(1.96 * spread, rel=0.08)
    assert found.high - found.mean == pytest.approx(1.96 * spread, rel=0.08)


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_items_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    train = matrix(rng.random((6, 9)) < 0.5)
    lists = random_lists(rng, 6, 9, 3)
    order = rng.permutation(9)
    moved = TopLists(lists.users, np.argsort(order)[lists.items].astype(np.int32))
    plain = values(lists, train=train, known=train)
    found = values(moved, train=train[:, order], known=train[:, order])
    assert found == pytest.approx(plain, nan_ok=True)
