"""Negatives from our own index."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.large import hard_negatives
from candidfeed.retrieval.large.hard_negatives import mine

N_ITEMS = 9


@dataclass(frozen=True)
class Model:
    """Every user scores item i as 9 - i."""

    n_asked: list[int]

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        return np.arange(9, 0, -1, dtype=np.float32)[:, None]

    def user_vectors(self, users: NDArray[np.integer]) -> NDArray[np.float32]:
        self.n_asked.append(len(users))
        return np.ones((len(users), 1), np.float32)


def log_of(*pairs: tuple[int, int]) -> Interactions:
    user, item = np.array(pairs, np.int32).T
    nothing = np.full(len(user), np.nan)
    return Interactions(user, item, nothing.astype(np.float32), nothing, 4, N_ITEMS)


@pytest.fixture(autouse=True)
def _ranks_1_and_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hard_negatives, "_FIRST_RANK", 1)
    monkeypatch.setattr(hard_negatives, "_LAST_RANK", 3)


def test_what_is_mined_is_ranked_high_and_neither_known_to_its_user_nor_untouched_by_all() -> None:
    train = log_of((0, 0), (0, 2), (1, 4), (1, 5), (3, 8))
    mined = mine(Model([]), train, seed=0)
    # 0 has touched items 0 and 2: 4, 5, 8 are left. 1: 0, 2, 8. 3: 0, 2, 4, 5. User 2 is none.
    np.testing.assert_array_equal(mined, [5, 8, 2, 8, 2, 4])


def test_of_many_users_some_are_asked_and_one_seed_asks_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hard_negatives, "_USERS", 2)
    model, train = Model([]), log_of((0, 0), (0, 2), (1, 4), (1, 5), (3, 8))
    first = mine(model, train, seed=3)
    np.testing.assert_array_equal(mine(model, train, seed=3), first)
    assert model.n_asked == [2, 2]
    assert len(first) == 4
