"""Vectors of new items, against a regression that is worked out in another way."""

import numpy as np
import pytest

from candidfeed.data.features import Bag
from candidfeed.retrieval import content as module
from candidfeed.retrieval.content import Content

N_ITEMS = 12
rng = np.random.default_rng(4)
BAG = Bag(
    np.stack([rng.integers(1, 4, N_ITEMS), np.full(N_ITEMS, 0)], axis=1).astype(np.int32),
    np.stack([rng.random(N_ITEMS) + 0.5, np.zeros(N_ITEMS)], axis=1).astype(np.float32),
)
# Items 10 and 11 are new.
ITEM = np.repeat(np.arange(10), rng.integers(1, 9, 10))
VECTORS = np.vstack([rng.standard_normal((10, 3)), np.zeros((2, 3))]).astype(np.float32)


def test_new_items_get_the_weighted_ridge_regression_and_the_others_keep_theirs() -> None:
    completed = Content.of(BAG, ITEM).completed(VECTORS, l2=2.0)
    np.testing.assert_array_equal(completed[:10], VECTORS[:10])
    design = np.zeros((N_ITEMS, 4))
    design[np.arange(N_ITEMS), BAG.ids[:, 0] - 1] = BAG.weights[:, 0]
    design[:, 3] = 1
    weight = np.sqrt(np.bincount(ITEM, minlength=N_ITEMS)[:10])
    weight /= weight.mean()
    # Ridge as least squares with three more rows, one that pulls each feature but the constant.
    pull = np.sqrt(2.0) * np.eye(4)[:3]
    rows = np.vstack([np.sqrt(weight)[:, None] * design[:10], pull])
    wanted = np.vstack([np.sqrt(weight)[:, None] * VECTORS[:10], np.zeros((3, 3))])
    effects = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(completed[10:], design[10:] @ effects, atol=1e-5)


def test_without_features_a_new_item_keeps_what_it_had() -> None:
    nothing = Bag(np.zeros((N_ITEMS, 1), np.int32), np.zeros((N_ITEMS, 1), np.float32))
    content = Content.of(nothing, ITEM)
    assert not content.is_needed
    assert content.completed(VECTORS) is VECTORS


def test_a_new_items_vector_is_multiplied_by_its_weight() -> None:
    content = Content.of(BAG, ITEM)
    assert content.is_needed
    once, half = content.completed(VECTORS), content.completed(VECTORS, weight=0.5)
    np.testing.assert_allclose(half[10:], 0.5 * once[10:], atol=1e-6)
    np.testing.assert_array_equal(half[:10], VECTORS[:10])


@pytest.mark.parametrize("item", [np.arange(N_ITEMS), np.empty(0, np.int64)])
def test_where_all_or_none_were_touched_nothing_changes(item: np.ndarray) -> None:
    assert Content.of(BAG, item).completed(VECTORS) is VECTORS


def test_of_too_many_feature_ids_the_most_frequent_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_IDS", 2)
    content = Content.of(BAG, ITEM)
    counts = np.bincount(BAG.ids[:, 0], minlength=4)
    frequent = np.sort(np.argsort(-counts, kind="stable")[:2])
    assert content.features.shape == (N_ITEMS, 3)
    present = np.isin(BAG.ids[:, 0], frequent)
    np.testing.assert_array_equal(content.features[:, :2].toarray().any(axis=1), present)
