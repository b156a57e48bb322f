"""What the history tower computes in training and in serving."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.retrieval.large.history_tower import HistoryTower

N_ITEMS, LONGEST, DIM = 12, 4, 5
ITEM_BAG = Bag(
    np.array([[1 + i % 3, 4 + i % 2] for i in range(N_ITEMS)], np.int32),
    np.full((N_ITEMS, 2), 0.5, np.float32),
)
USER_IDS, USER_WEIGHTS = np.array([[1, 2]], np.int32), np.array([[1.0, 0.5]], np.float32)


@pytest.fixture
def tower() -> HistoryTower:
    """With random numbers in every weight."""
    made = HistoryTower(
        n_items=N_ITEMS, n_user_ids=3, n_item_ids=6, dim=DIM, max_history=LONGEST, n_hidden=3
    )
    made.build()
    rng = np.random.default_rng(0)
    for one in made.weights:
        if "learning_rate" not in one.path:
            one.assign(rng.normal(size=one.shape).astype(np.float32))
    made.set_items(ITEM_BAG)
    return made


def served(tower: HistoryTower, history: list[int]) -> NDArray[np.float32]:
    """The vector of one user, their history padded to a width of 8."""
    padded = np.full((1, 8), N_ITEMS, np.int32)
    padded[0, : len(history)] = history
    inputs = {"history": padded, "feature_ids": USER_IDS, "feature_weights": USER_WEIGHTS}
    return np.asarray(tower.user_vectors(inputs))[0]


def stream(items: list[int], users: list[int]) -> dict[str, Any]:
    """A batch of two blocks after one of nothing, without negatives."""
    item = np.array([0] * LONGEST + items, np.int32)
    n = len(items)
    return {
        "item_row": item,
        "item_id": item,
        "item_ids": ITEM_BAG.ids[item],
        "item_weights": ITEM_BAG.weights[item],
        "user": np.array([-1] * LONGEST + users, np.int32),
        "is_read": np.array([False] * LONGEST + [True] * n),
        "user_ids": np.repeat(USER_IDS, n, axis=0),
        "user_weights": np.repeat(USER_WEIGHTS, n, axis=0),
    }


def test_training_predicts_each_event_by_the_vector_that_serving_gives_the_events_before_it(
    tower: HistoryTower,
) -> None:
    items, users = [3, 1, 7, 7, 2, 5, 11, 4], [0, 0, 1, 1, 1, 1, 1, 1]
    vectors = np.asarray(tower(stream(items, users))["user"])
    for place, user in enumerate(users):
        before = [item for item, owner in zip(items[:place], users, strict=False) if owner == user]
        np.testing.assert_allclose(vectors[place], served(tower, before), rtol=1e-4, atol=1e-5)


def test_what_is_to_be_predicted_and_what_follows_is_not_read(tower: HistoryTower) -> None:
    one = np.asarray(tower(stream([3, 1, 7, 7, 2, 5, 11, 4], [0] * 8))["user"])
    other = np.asarray(tower(stream([3, 1, 7, 7, 9, 8, 6, 0], [0] * 8))["user"])
    np.testing.assert_array_equal(one[:5], other[:5])
    assert not np.allclose(one[5], other[5])


def test_an_event_that_is_left_out_is_as_if_it_had_not_been(tower: HistoryTower) -> None:
    batch = stream([3, 1, 7, 7, 2, 5, 11, 4], [0] * 8)
    # Third from the end: the last event has four others before it, of which this is one.
    batch["is_read"][LONGEST + 5] = False
    last = np.asarray(tower(batch)["user"])[-1]
    assert not np.allclose(last, served(tower, [3, 1, 7, 7, 2, 5, 11]))
    expected = tower._user(*_by_hand(tower, [(11, 0), (2, 2), (7, 3)]))
    np.testing.assert_allclose(last, np.asarray(expected)[0], rtol=1e-4, atol=1e-5)


def _by_hand(tower: HistoryTower, events: list[tuple[int, int]]) -> tuple[Any, Any, Any]:
    """Weighted sum, count and features of events given as (item, how many came after it)."""
    items, recency = np.asarray(tower.items), np.exp(np.asarray(tower.log_recency))
    summed = sum(recency[age] * items[item] for item, age in events)
    features = np.asarray(tower.user_features(USER_IDS) * USER_WEIGHTS[..., None]).sum(axis=1)
    return summed[None], np.array([len(events)]), features


def test_the_newest_click_counts_at_once_and_what_lies_too_far_back_no_more(
    tower: HistoryTower,
) -> None:
    assert not np.allclose(served(tower, [1, 2, 3]), served(tower, [1, 2, 3, 4]))
    latest = [5, 6, 7, 8]
    np.testing.assert_array_equal(served(tower, [1, 2, *latest]), served(tower, [3, *latest]))


def test_a_stranger_is_their_features_and_the_base_bent(tower: HistoryTower) -> None:
    features = 1.0 * np.asarray(tower.user_features.table)[1]
    features = features + 0.5 * np.asarray(tower.user_features.table)[2]
    taste = features[:-1] + np.asarray(tower.base)
    into, at, out = (np.asarray(one) for one in (tower.bend_in, tower.bend_at, tower.bend_out))
    expected = taste + np.maximum(taste @ into + at, 0.0) @ out
    np.testing.assert_allclose(served(tower, []), [*expected, 1.0], rtol=1e-4)


def test_an_item_is_its_id_and_its_features(tower: HistoryTower) -> None:
    ids, table = np.asarray(tower.item_ids.table), np.asarray(tower.item_features.table)
    expected = ids[4] + 0.5 * table[1 + 4 % 3] + 0.5 * table[4 + 4 % 2]
    np.testing.assert_allclose(np.asarray(tower.item_vectors())[4], expected, rtol=1e-5)
    batch = stream([4] * 4, [0] * 4)
    np.testing.assert_allclose(np.asarray(tower(batch)["item"])[0], expected, rtol=1e-5)
    hidden = np.asarray(tower({**batch, "item_id": np.full(8, -1, np.int32)})["item"])[0]
    np.testing.assert_allclose(hidden, expected - ids[4], rtol=1e-4, atol=1e-6)


def test_a_saved_tower_is_loaded_as_it_was(tower: HistoryTower, tmp_path: Path) -> None:
    tower.save(tmp_path / "tower.keras")
    loaded = keras.saving.load_model(tmp_path / "tower.keras")
    np.testing.assert_array_equal(served(loaded, [1, 2]), served(tower, [1, 2]))
    np.testing.assert_array_equal(loaded.item_vectors(), tower.item_vectors())
