"""New items: the baselines, and the figures among them alone."""

import numpy as np
import polars as pl
import pytest

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split
from candidfeed.data.vocabulary import Vocabulary
from candidfeed.evaluation.cold_items import ContentMap, RandomOrder, figures_among_new

N_USERS, N_ITEMS = 40, 30
GENRE = np.arange(N_ITEMS) % 2
BAG = Bag((GENRE[:, None] + 1).astype(np.int32), np.ones((N_ITEMS, 1), np.float32))


def log_of(touched: np.ndarray) -> Interactions:
    user, item = np.nonzero(touched)
    nothing = np.full(len(user), np.nan)
    return Interactions(
        user.astype(np.int32), item.astype(np.int32), nothing.astype(np.float32), nothing,
        *touched.shape,
    )  # fmt: skip


@pytest.fixture(scope="module")
def split() -> Split:
    """Users like one of two genres; items 26 to 29 are new."""
    rng = np.random.default_rng(0)
    likes = (np.arange(N_USERS)[:, None] % 2) == GENRE
    touched = rng.random((N_USERS, N_ITEMS)) < np.where(likes, 0.6, 0.05)
    train, test = touched.copy(), touched.copy()
    train[:, 26:], test[:, :26] = False, False
    users, items = (Vocabulary(pl.Series(range(n))) for n in (N_USERS, N_ITEMS))
    nothing = log_of(np.zeros_like(touched))
    return Split("item-cold", 0, users, items, log_of(train), nothing, log_of(test), "")


def test_the_content_map_finds_new_items_of_the_genre_that_a_user_likes(split: Split) -> None:
    model = ContentMap.fit(split, BAG, seed=0)
    scores = model.scores(np.arange(N_USERS, dtype=np.int32))[:, 26:]
    for user in range(N_USERS):
        own = GENRE[26:] == user % 2
        assert scores[user, own].min() > scores[user, ~own].max()


def test_among_new_items_only_they_compete(split: Split) -> None:
    class NewLast:
        """The new items below all others, the last one first among them."""

        def scores(self, users: np.ndarray) -> np.ndarray:
            row = np.concatenate([np.full(26, 9.0), [0, 1, 2, 3]])
            return np.tile(row.astype(np.float32), (len(users), 1))

    figures = figures_among_new(NewLast(), split)
    assert figures["top@10/new"].value() == 1.0
    target = split.test.matrix.toarray()[:, 26:]
    discount = 1 / np.log2(1 + np.array([4, 3, 2, 1]))
    best = np.sort(discount)[::-1]
    asked = target[target.any(axis=1)]
    ideal = [best[: int(row.sum())].sum() for row in asked]
    assert figures["ndcg@10/new"].value() == pytest.approx(np.mean(asked @ discount / ideal))


def test_a_random_order_is_a_users_own_and_repeatable() -> None:
    order = RandomOrder(50, seed=3)
    both = order.scores(np.array([4, 7], np.int32))
    np.testing.assert_array_equal(order.scores(np.array([7], np.int32)), both[[1]])
    assert (both[0] != both[1]).all()
