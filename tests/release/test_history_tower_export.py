"""The user tower of large catalogues is served without Keras."""

import numpy as np

from candidfeed.data.features import Bag
from candidfeed.release.export import export_function
from candidfeed.retrieval.large.history_tower import HistoryTower


def test_the_exported_tower_takes_the_vectors_of_a_history_and_holds_no_table_of_items() -> None:
    tower = HistoryTower(n_items=6, n_user_ids=3, n_item_ids=2, dim=4, max_history=2, n_hidden=3)
    tower.build()
    rng = np.random.default_rng(0)
    for one in tower.weights:
        one.assign(rng.normal(size=one.shape))
    tower.set_items(Bag(np.ones((6, 1), np.int32), np.ones((6, 1), np.float32)))
    inputs = {
        "history": np.array([[4, 1, 5, 6]], np.int32),
        "feature_ids": np.array([[1, 2]], np.int32),
        "feature_weights": np.array([[1.0, 0.5]], np.float32),
    }
    expected = tower.user_vectors(inputs)
    padded = np.concatenate([tower.item_vectors(), np.full((1, 4), 9.0, np.float32)])
    inputs["history_vectors"] = padded[inputs["history"]]
    exported = export_function(tower, tower.user_vectors, inputs)
    assert not [name for name in exported.weights if name.startswith("item")]
    np.testing.assert_allclose(exported(inputs), expected, rtol=1e-5)
