"""How a validation part judges scores, worked out by hand."""

from math import log2

import numpy as np
import pytest

from candidfeed.data.interactions import Interactions
from candidfeed.retrieval import validation as module
from candidfeed.retrieval.validation import Asked, ndcg_of_vectors, rank


def log_of(pairs: list[tuple[int, int]], *, n_users: int, n_items: int) -> Interactions:
    user, item = (np.array(column, np.int32) for column in zip(*pairs, strict=True))
    nothing = np.full(len(pairs), np.nan)
    return Interactions(user, item, nothing.astype(np.float32), nothing, n_users, n_items)


def asked_of(known: list[tuple[int, int]], target: list[tuple[int, int]], n_items: int) -> Asked:
    return Asked(*(log_of(part, n_users=3, n_items=n_items) for part in (known, target)))


def descending(n_items: int):
    """Item 0 first, for everyone."""
    row = -np.arange(n_items, dtype=np.float32)
    return lambda rows: np.tile(row, (len(rows), 1))


def test_ndcg_leaves_known_items_out_and_top_seen_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TOP_K", 3)
    monkeypatch.setattr(module, "NDCG_K", 3)
    # User 0 knows item 0, so that item 3 comes third of the others; user 2 asks for item 1.
    asked = asked_of([(0, 0)], [(0, 3), (2, 1)], n_items=6)
    ranked = rank(descending(6), asked)
    assert ranked.ndcg == pytest.approx((1 / log2(4) + 1 / log2(3)) / 2)
    assert ranked.top == 1.0
    assert ranked.top_seen == 0.5
    assert ranked.worth == pytest.approx(ranked.ndcg + 0.5 + 0.125)


def test_the_ideal_list_of_many_targets_is_as_long_as_the_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "NDCG_K", 2)
    asked = asked_of([(1, 0)], [(0, 0), (0, 2), (0, 4)], n_items=5)
    ranked = rank(descending(5), asked)
    assert ranked.ndcg == pytest.approx(1.0 / (1.0 + 1 / log2(3)))


def test_a_target_that_is_known_already_is_not_asked_for() -> None:
    asked = asked_of([(0, 1)], [(0, 1), (0, 2)], n_items=4)
    assert rank(descending(4), asked).ndcg == pytest.approx(1 / log2(3))
    nothing = asked_of([(0, 1)], [(0, 1)], n_items=4)
    ranked = rank(descending(4), nothing)
    assert (ranked.ndcg, ranked.top, ranked.top_seen) == (0.0, 0.0, 0.0)


def test_users_in_parts_give_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((3, 300)).astype(np.float32)
    pairs = [(int(user), int(item)) for user in range(3) for item in rng.choice(300, 20, False)]
    asked = asked_of(pairs[::2], pairs[1::2], n_items=300)
    together = rank(lambda rows: scores[rows], asked)
    monkeypatch.setattr(module, "_USERS_AT_ONCE", 1)
    apart = rank(lambda rows: scores[rows], asked)
    assert together.top == apart.top
    assert together.ndcg == pytest.approx(apart.ndcg)


def test_of_very_many_users_only_some_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_of([(0, 1)], [(0, 0), (1, 0), (2, 0)], n_items=4)
    assert asked.users.tolist() == [0, 1, 2]
    monkeypatch.setattr(module, "_MAX_PAIRS", 8)
    few = asked_of([(0, 1)], [(0, 0), (1, 0), (2, 0)], n_items=4)
    assert few.users.tolist() == [0, 1]


def test_equal_scores_stand_by_row_also_at_the_end_of_the_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TOP_K", 3)
    monkeypatch.setattr(module, "NDCG_K", 3)
    # All are equal: items 0, 2 and 3 are the first three that user 0 does not know, and items 0
    # to 2 the first three of all.
    asked = asked_of([(0, 1)], [(0, 2), (0, 3), (0, 4)], n_items=6)
    ranked = rank(lambda rows: np.zeros((len(rows), 6), np.float32), asked)
    assert ranked.top == pytest.approx(2 / 3)
    assert ranked.top_seen == pytest.approx(1 / 3)
    ideal = 1.0 + 1 / log2(3) + 1 / log2(4)
    assert ranked.ndcg == pytest.approx((1 / log2(3) + 1 / log2(4)) / ideal)


@pytest.mark.parametrize("n_different", [3, 10_000])
def test_figures_equal_those_of_whole_sorted_lists(n_different: int) -> None:
    rng = np.random.default_rng(4)
    n_users, n_items = 30, 400
    scores = rng.integers(0, n_different, (n_users, n_items)).astype(np.float32)
    part = rng.random((n_users, n_items))
    known, target = part < 0.2, (part > 0.2) & (part < 0.3)
    asked = Asked(*(
        log_of(list(zip(*np.nonzero(each), strict=True)), n_users=n_users, n_items=n_items)
        for each in (known, target)
    ))  # fmt: skip
    order = np.argsort(-scores, axis=1, kind="stable")
    unseen = np.argsort(np.where(known, np.inf, -scores), axis=1, kind="stable")
    seen_hits = np.take_along_axis(target, order, axis=1)[:, : module.TOP_K]
    hits = np.take_along_axis(target, unseen, axis=1)[:, : module.TOP_K]
    discounts = 1 / np.log2(np.arange(2, module.NDCG_K + 2))
    ideal = [discounts[:n].sum() for n in target.sum(axis=1)]
    ranked = rank(lambda rows: scores[rows], asked)
    assert ranked.top == pytest.approx(hits.sum() / target.sum())
    assert ranked.top_seen == pytest.approx(seen_hits.sum() / target.sum())
    assert ranked.ndcg == pytest.approx(((hits[:, : module.NDCG_K] @ discounts) / ideal).mean())


def test_ndcg_of_vectors_is_that_of_their_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    users, items = (rng.normal(size=(n, 5)).astype(np.float32) for n in (40, 70))
    known, target = (
        log_of(list(zip(*drawn.nonzero(), strict=True)), n_users=40, n_items=70)
        for drawn in rng.random((2, 40, 70)) < 0.08
    )
    expected = rank(lambda rows: users[rows] @ items.T, Asked(known, target)).ndcg
    monkeypatch.setattr(module, "_ITEMS_AT_ONCE", 16)
    monkeypatch.setattr(module, "_USERS_OF_BLOCK", 7)
    found = ndcg_of_vectors(users, items, known=known.matrix, target=target.matrix)
    assert found == pytest.approx(expected, rel=1e-6)


def test_ndcg_of_vectors_without_a_target_left_is_0() -> None:
    known = log_of([(0, 0), (1, 2)], n_users=2, n_items=3).matrix
    vectors = np.ones((3, 4), np.float32)
    assert ndcg_of_vectors(vectors[:2], vectors, known=known, target=known) == 0.0
