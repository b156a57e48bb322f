"""Item neighbours and EASE, against slow loops and a dense formula."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.data.interactions import Interactions
from candidfeed.errors import DataError
from candidfeed.retrieval import neighbours
from candidfeed.retrieval.neighbours import (
    EASE_MAX_INVERTED,
    EASE_MAX_ITEMS,
    Ease,
    ItemKnn,
    why_no_ease,
)

N_USERS, N_ITEMS = 6, 7
EVERYONE = np.arange(N_USERS, dtype=np.int32)


def events_of(pairs: list[tuple[int, int]], *, n_items: int = N_ITEMS) -> Interactions:
    user, item = zip(*pairs, strict=True) if pairs else ((), ())
    return Interactions(
        user=np.array(user, dtype=np.int32),
        item=np.array(item, dtype=np.int32),
        value=np.ones(len(pairs), dtype=np.float32),
        time_s=np.full(len(pairs), np.nan),
        n_users=N_USERS,
        n_items=n_items,
    )


some_pairs = st.lists(
    st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1)), min_size=1, max_size=30
)


def popular_row(train: set[tuple[int, int]]) -> list[int]:
    return [sum((user, item) in train for user in range(N_USERS)) for item in range(N_ITEMS)]


def knn_by_loop(
    train: set[tuple[int, int]], known: set[tuple[int, int]], k: int, shrink: float
) -> np.ndarray:
    users_of = [{user for user, item in train if item == i} for i in range(N_ITEMS)]
    scores = np.zeros((N_USERS, N_ITEMS))
    for target in range(N_ITEMS):
        found = []
        for other in range(N_ITEMS):
            shared = len(users_of[target] & users_of[other])
            if other != target and shared:
                norm = np.sqrt(len(users_of[target]) * len(users_of[other]))
                found.append((-np.float32(shared / (norm + shrink)), other))
        for minus_similarity, other in sorted(found)[:k]:
            for user in range(N_USERS):
                scores[user, target] -= minus_similarity * ((user, other) in known)
    for user in range(N_USERS):
        if not any((user, item) in known for item in range(N_ITEMS)):
            scores[user] = popular_row(train)
    return scores


@given(train=some_pairs, more=some_pairs, k=st.integers(1, 8), shrink=st.sampled_from([0, 1, 10]))
def test_item_knn_equals_a_slow_loop(train, more, k, shrink):
    known = train[: len(train) // 2] + more
    model = ItemKnn.fit(events_of(train), known=events_of(known), k=k, shrink=shrink)
    expected = knn_by_loop(set(train), set(known), k, shrink)
    np.testing.assert_allclose(model.scores(EVERYONE), expected, rtol=1e-5)


def test_item_knn_by_hand():
    train = events_of([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 2)])
    model = ItemKnn.fit(train, known=events_of([(3, 0)]), k=1, shrink=1)
    # Items 0 and 1 share two users of 3 and 2; items 0 and 2 share one of 3 and 1.
    expected = [0, 2 / (np.sqrt(6) + 1), 1 / (np.sqrt(3) + 1), 0, 0, 0, 0]
    np.testing.assert_allclose(model.scores(EVERYONE[3:4])[0], expected, rtol=1e-6)


def test_item_knn_does_not_depend_on_the_size_of_its_blocks(monkeypatch):
    rng = np.random.default_rng(3)
    train = events_of(list(zip(rng.integers(0, 6, 40), rng.integers(0, 7, 40), strict=True)))
    whole = ItemKnn.fit(train, known=train, k=2, shrink=1).scores(EVERYONE)
    monkeypatch.setattr(neighbours, "_BLOCK_PAIRS", 10)
    np.testing.assert_array_equal(
        ItemKnn.fit(train, known=train, k=2, shrink=1).scores(EVERYONE), whole
    )


def ease_by_loop(train: np.ndarray, l2: float) -> np.ndarray:
    """Each item's column by itself: ridge regression on all the other items."""
    n_items = train.shape[1]
    weights = np.zeros((n_items, n_items))
    for item in range(n_items):
        others = np.delete(np.arange(n_items), item)
        x = train[:, others]
        ridge = x.T @ x + l2 * np.eye(len(others))
        weights[others, item] = np.linalg.solve(ridge, x.T @ train[:, item])
    return weights


def ease_by_formula(train: np.ndarray, l2: float) -> np.ndarray:
    inverse = np.linalg.inv(train.T @ train + l2 * np.eye(train.shape[1]))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


@given(train=some_pairs, l2=st.sampled_from([0.5, 3.0, 100.0]))
def test_ease_equals_the_formula_and_one_ridge_regression_an_item(train, l2):
    events = events_of(train)
    dense = events.matrix.toarray().astype(np.float64)
    model = Ease.fit(events, known=events, l2=l2)
    np.testing.assert_allclose(model.weights, ease_by_formula(dense, l2), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.weights, ease_by_loop(dense, l2), rtol=1e-4, atol=1e-6)


def test_ease_of_few_users_equals_the_formula():
    dense = (np.random.default_rng(5).random((12, 60)) < 0.3).astype(np.float64)
    dense[4] = 0
    user, item = (column.astype(np.int32) for column in np.nonzero(dense))
    nothing = np.full(len(user), np.nan)
    events = Interactions(user, item, nothing.astype(np.float32), nothing, *dense.shape)
    model = Ease.fit(events, known=events, l2=2.0)
    assert model.weights.dtype == np.float32
    np.testing.assert_allclose(model.weights, ease_by_formula(dense, 2.0), rtol=1e-4, atol=1e-6)


def test_ease_scores_from_what_is_known_and_not_from_train():
    train = events_of([(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3)])
    model = Ease.fit(train, known=events_of([(5, 0), (0, 2)]), l2=1.0)
    scores = model.scores(np.array([5, 0], dtype=np.int32))
    assert scores.dtype == np.float32
    assert scores[0].argmax() == 1
    assert scores[1].argmax() == 3


def test_ease_does_not_depend_on_the_size_of_its_blocks(monkeypatch):
    train = events_of([(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3), (4, 6), (4, 0)])
    whole = Ease.fit(train, known=train, l2=1.0).weights
    monkeypatch.setattr(neighbours, "_BLOCK_PAIRS", 1)
    np.testing.assert_array_equal(Ease.fit(train, known=train, l2=1.0).weights, whole)


@pytest.mark.parametrize(
    "fit",
    [
        lambda train, known: ItemKnn.fit(train, known=known, k=3, shrink=0),
        lambda train, known: Ease.fit(train, known=known, l2=1.0),
    ],
)
def test_a_user_of_whom_nothing_is_known_gets_the_popular_order(fit):
    train = events_of([(0, 0), (0, 1), (1, 0)])
    scores = fit(train, train).scores(np.array([4, 0], dtype=np.int32))
    assert scores[0].tolist() == [2, 1, 0, 0, 0, 0, 0]
    assert scores[1].tolist() != scores[0].tolist()


@pytest.mark.parametrize(
    "fit",
    [
        lambda train: ItemKnn.fit(train, known=train, k=2, shrink=1),
        lambda train: Ease.fit(train, known=train, l2=1.0),
    ],
)
def test_scores_do_not_depend_on_the_batch_and_a_repeated_event_counts_once(fit):
    pairs = [(0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (2, 2), (3, 5)]
    model, again = fit(events_of(pairs)), fit(events_of(pairs + pairs[:3]))
    together = model.scores(EVERYONE)
    alone = np.concatenate([model.scores(EVERYONE[i : i + 1]) for i in EVERYONE])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, again.scores(EVERYONE))
    assert np.isfinite(together).all()


def test_a_log_too_large_for_ease_is_refused_with_what_it_needs():
    train = events_of([(0, 0)], n_items=30_000)
    with pytest.raises(DataError, match=r"ease on 30,000 items .* a matrix of 1 users .* 3\.4 GiB"):
        Ease.fit(train, known=train, l2=1.0)
    assert why_no_ease(events_of([(0, 0)], n_items=EASE_MAX_ITEMS)) == ""
    n = EASE_MAX_INVERTED
    everyone = [(user, 0) for user in range(n)]
    assert why_no_ease(replace(events_of(everyone, n_items=n), n_users=n)) == ""
    refusal = why_no_ease(replace(events_of(everyone, n_items=n + 1), n_users=n))
    assert refusal.startswith(f"ease on {n + 1:,} items would invert a matrix of {n + 1:,} items")


def test_settings_out_of_range_are_refused():
    train = events_of([(0, 0)])
    with pytest.raises(ValueError, match="l2 > 0, not 0"):
        Ease.fit(train, known=train, l2=0)
    with pytest.raises(ValueError, match="k >= 1 and shrink >= 0, not 0 and 1"):
        ItemKnn.fit(train, known=train, k=0, shrink=1)
