"""A tower with a sparse table is exported as any Keras model is."""

import keras
import numpy as np

from candidfeed.release.export import export_function
from candidfeed.retrieval.sparse.tables import SparseEmbedding


def test_a_sparse_tower_is_exported_with_its_table_and_without_what_trains_it() -> None:
    history = keras.Input((3,), dtype="int32", name="history")
    rows = SparseEmbedding(7, 2, seed=1)(history)
    tower = keras.Model({"history": history}, keras.layers.GlobalAveragePooling1D()(rows))
    inputs = {"history": np.array([[0, 6, -1], [2, 2, 7]], np.int32)}
    exported = export_function(tower, tower, inputs)
    (table,) = exported.weights.values()
    padded = np.vstack([table, np.zeros((1, 2), np.float32)])
    expected = padded[[[0, 6, 7], [2, 2, 7]]].mean(axis=1)
    np.testing.assert_allclose(exported(inputs), expected, atol=1e-6)
