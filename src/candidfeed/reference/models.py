"""The five classic models as ordinary `keras.Model`s, compiled as their authors compiled them.

Each takes `{"user": int32 [batch], "item": int32 [batch]}`, rows of the vocabularies, and gives
float32 [batch, 1]: a score (retrieval) or a rating. Row -1, an id that is not known, reads the
last row of an embedding, which no known id has: the authors' tables have one row more than there
are ids as well. The seed fixes the first weights and what dropout drops.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# Keras does not state its types, and what a checker infers from its defaults is wrong.
layers: Any = keras.layers
ops: Any = keras.ops


@keras.saving.register_keras_serializable(package="candidfeed")
class TfrsRetrieval(keras.Model):
    """Two towers that are one embedding each, and their dot product.

    The loss is the sum over the batch of the in-batch softmax: each row's item against the items
    of all rows. As in the tutorial there is no temperature, no correction for popular items, and
    an item that stands in several rows is a negative of its own (`in_batch_softmax`).
    """

    def __init__(
        self, n_users: int, n_items: int, *, seed: int, dim: int = 32, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._config = {"n_users": n_users, "n_items": n_items, "seed": seed, "dim": dim}
        seeds = _seeds(seed)
        self.user_tower = _embedding(n_users, dim, next(seeds), "user_embedding")
        self.item_tower = _embedding(n_items, dim, next(seeds), "item_embedding")

    def build(self, input_shape: dict[str, tuple[int | None, ...]]) -> None:
        self.user_tower.build(input_shape["user"])
        self.item_tower.build(input_shape["item"])
        self.built = True

    def call(self, inputs: dict[str, Any]) -> Any:
        user, item = self.user_tower(inputs["user"]), self.item_tower(inputs["item"])
        return ops.sum(user * item, axis=-1, keepdims=True)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        # At most as many items differ as there are rows or known items and the unknown one.
        n_distinct = min(ops.shape(x["item"])[0], self.item_tower.input_dim)
        distinct, count = ops.unique(
            x["item"], return_counts=True, size=n_distinct, fill_value=x["item"][0]
        )
        return ops.sum(
            in_batch_softmax(
                self.user_tower(x["user"]), self.item_tower(distinct), count, y_pred[:, 0]
            )
        )

    def user_vectors(self) -> Array:
        """float32 [n_users, dim]."""
        return ops.convert_to_numpy(self.user_tower.embeddings)[:-1]

    def item_vectors(self) -> Array:
        """float32 [n_items, dim]."""
        return ops.convert_to_numpy(self.item_tower.embeddings)[:-1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._config}


def in_batch_softmax(user: Any, item: Any, count: Any, positive: Any) -> Any:
    """Cross entropy of each row's positive against the items of all rows of the batch.

    Equal items of a batch have equal scores: their exponentials are summed as one, times how often
    the item stands in the batch. That is the softmax over all rows, term by term, at the price of
    the distinct items: a fifth on ml-100k, where a batch of 8,192 holds at most 1,682 items.

    Args:
        user: float32 [batch, dim].
        item: the distinct items of the batch, float32 [n, dim]; what pads them is counted 0 times.
        count: how many rows of the batch have each item, int [n]; sums to batch.
        positive: score of each row's own item, float32 [batch].

    Returns:
        float32 [batch], in nats; 0 where the batch is 1.
    """
    scores = ops.matmul(user, ops.transpose(item)) + ops.log(ops.cast(count, "float32"))
    return ops.logsumexp(scores, axis=1) - positive


def tfrs_retrieval(n_users: int, n_items: int, *, seed: int) -> TfrsRetrieval:
    model = TfrsRetrieval(n_users, n_items, seed=seed, name="tfrs_retrieval")
    model.build({"user": (None,), "item": (None,)})
    return _compile(model, _keras_2_adagrad(0.5))


def tfrs_ranking(n_users: int, n_items: int, *, seed: int) -> keras.Model:
    seeds = _seeds(seed)
    inputs = _inputs()
    hidden = layers.Concatenate()(list(_embed(inputs, n_users, n_items, 32, seeds)))
    for width in (256, 64):
        hidden = _dense(width, next(seeds), activation="relu")(hidden)
    model = keras.Model(inputs, _dense(1, next(seeds))(hidden), name="tfrs_ranking")
    return _compile(model, _keras_2_adagrad(0.1), loss="mean_squared_error")


def keras_dot(n_users: int, n_items: int, *, seed: int) -> keras.Model:
    inputs = _inputs()
    user, item = _embed(inputs, n_users, n_items, 64, _seeds(seed))
    model = keras.Model(inputs, layers.Dot(axes=1)([user, item]), name="keras_dot")
    return _compile(model, keras.optimizers.Adam(), loss="mean_absolute_error")


def keras_deep(n_users: int, n_items: int, *, seed: int) -> keras.Model:
    """Dropout stands before and after the hidden layer, as in the notebook's solution."""
    seeds = _seeds(seed)
    inputs = _inputs()
    hidden = layers.Concatenate()(list(_embed(inputs, n_users, n_items, 64, seeds)))
    hidden = layers.Dropout(0.5, seed=next(seeds))(hidden)
    hidden = _dense(64, next(seeds), activation="relu")(hidden)
    hidden = layers.Dropout(0.5, seed=next(seeds))(hidden)
    model = keras.Model(inputs, _dense(1, next(seeds))(hidden), name="keras_deep")
    return _compile(model, keras.optimizers.Adam(), loss="mean_absolute_error")


def keras_hybrid(user_metadata: Array, item_metadata: Array, *, seed: int) -> keras.Model:
    """What is known of users and items stands in the model, as embeddings that are not trained.

    Args:
        user_metadata: float32 [n_users, n]; n may be 0.
        item_metadata: float32 [n_items, n]; n may be 0.
    """
    seeds = _seeds(seed)
    inputs = _inputs()
    ids = _embed(inputs, len(user_metadata), len(item_metadata), 64, seeds)
    known = [layers.Dropout(0.3, seed=next(seeds))(vector) for vector in ids]
    for side, table in (("user", user_metadata), ("item", item_metadata)):
        if table.shape[1]:
            known.append(_frozen(table, f"{side}_metadata")(inputs[side]))
    hidden = layers.Concatenate()(known)
    for _ in range(2):
        hidden = _dense(64, next(seeds), activation="relu")(hidden)
        hidden = layers.Dropout(0.3, seed=next(seeds))(hidden)
    model = keras.Model(inputs, _dense(1, next(seeds))(hidden), name="keras_hybrid")
    return _compile(model, keras.optimizers.Adam(), loss="mean_absolute_error")


def _compile(model: Any, optimizer: keras.optimizers.Optimizer, *, loss: str | None = None) -> Any:
    model.compile(optimizer=optimizer, loss=loss)
    # Else a model that is saved before it is fitted can't be loaded without a warning.
    optimizer.build(model.trainable_variables)
    return model


def _inputs() -> dict[str, Any]:
    return {side: keras.Input(shape=(), dtype="int32", name=side) for side in ("user", "item")}


def _embed(
    inputs: dict[str, Any], n_users: int, n_items: int, dim: int, seeds: Iterator[int]
) -> tuple[Any, Any]:
    user = _embedding(n_users, dim, next(seeds), "user_embedding")
    item = _embedding(n_items, dim, next(seeds), "item_embedding")
    return user(inputs["user"]), item(inputs["item"])


def _embedding(n: int, dim: int, seed: int, name: str) -> Any:
    uniform = keras.initializers.RandomUniform(-0.05, 0.05, seed=seed)
    return layers.Embedding(n + 1, dim, embeddings_initializer=uniform, name=name)


def _frozen(table: Array, name: str) -> Any:
    unknown = np.zeros((1, table.shape[1]), dtype=np.float32)
    weights = np.concatenate([table.astype(np.float32), unknown])
    return layers.Embedding(*weights.shape, weights=[weights], trainable=False, name=name)


def _dense(width: int, seed: int, activation: str | None = None) -> Any:
    glorot = keras.initializers.GlorotUniform(seed=seed)
    return layers.Dense(width, activation=activation, kernel_initializer=glorot)


def _keras_2_adagrad(learning_rate: float) -> keras.optimizers.Adagrad:
    """With the start value and epsilon that Keras 2, which TFRS runs on, has."""
    return keras.optimizers.Adagrad(learning_rate, initial_accumulator_value=0.1, epsilon=1e-7)


def _seeds(seed: int) -> Iterator[int]:
    """Independent seeds, one for each thing that draws."""
    return iter(np.random.SeedSequence(seed).generate_state(16).astype(np.int64).tolist())
