"""Any two Keras models as user and item tower, trained for one dot product."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.retrieval.sparse.event_batches import TowerInputs, TowerRows
from candidfeed.retrieval.sparse.model import SparseModel
from candidfeed.retrieval.sparse.sampled_softmax import (
    Products,
    quick_products,
    sampled_softmax,
)

Tensor = Any
ops: Any = keras.ops


@keras.saving.register_keras_serializable("candidfeed")
class Retrieval(SparseModel):
    """A user tower and an item tower that learn to point the same way where a user took an item.

    A tower is any `keras.Model` from what `TowerRows` gives it to float32 [batch, dim]; the two
    must agree on `dim`. `SparseEmbedding` layers in them are trained row by row, all other weights
    by the optimizer of `compile`. Train it with `fit(EventBatches(...))`; the loss is the sampled
    softmax, so `compile` takes none.

    Args:
        user_tower, item_tower: the models; they may share layers.
        temperature: divides the scores in the loss; vectors of length 1 want about 0.05.
        products: how exact the loss' largest products are (`sampled_softmax`); None is
            `quick_products`.
    """

    def __init__(
        self,
        user_tower: keras.Model,
        item_tower: keras.Model,
        *,
        temperature: float = 1.0,
        products: Products | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not temperature > 0:
            raise ValueError(f"the temperature must be above 0, not {temperature}")
        self.user_tower, self.item_tower = user_tower, item_tower
        self.temperature = temperature
        self.products: Products | None = products

    def call(self, inputs: dict[str, Tensor], training: bool | None = None) -> dict[str, Tensor]:
        """Both towers' vectors for a batch of `EventBatches`."""
        return {
            "user": self.user_tower(inputs["user"], training=training),
            "item": self.item_tower(inputs["item"], training=training),
        }

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Mean loss of a batch, in nats, with the towers' own regularisation losses."""
        users, items = (ops.cast(y_pred[name], "float32") for name in ("user", "item"))
        if users.shape[1] != items.shape[1]:
            raise ValueError(
                f"the user tower gives {users.shape[1]} numbers and the item tower "
                f"{items.shape[1]}; a dot product needs as many of each"
            )
        n, n_uniform, n_in_batch = (
            users.shape[0], x["uniform_logq"].shape[0], x["in_batch_logq"].shape[0]
        )  # fmt: skip
        weight = ops.ones(n) if sample_weight is None else ops.cast(sample_weight, "float32")

        def shared(of: Tensor) -> Tensor:
            return ops.concatenate([of[n : n + n_uniform], of[:n_in_batch]])

        loss = sampled_softmax(
            users,
            items[:n],
            shared(items),
            positive_row=x["item_row"][:n],
            negative_row=shared(x["item_row"]),
            negative_logq=ops.concatenate([x["uniform_logq"], x["in_batch_logq"]]),
            weight=weight / ops.maximum(ops.sum(weight), 1e-9),
            temperature=self.temperature,
            products=self.products or quick_products(n * (n_uniform + n_in_batch)),
            **_each_ones_own(items[n + n_uniform :], x["item_row"][n + n_uniform :], n),
        )
        return loss + sum(self.losses)

    def user_vectors(self, users: TowerRows, **options: Any) -> NDArray[np.float32]:
        """The vectors of all users, float32 [n_rows, dim]; options as of `tower_vectors`."""
        return tower_vectors(self.user_tower, users, **options)

    def item_vectors(self, items: TowerRows, **options: Any) -> NDArray[np.float32]:
        """The vectors of all items, float32 [n_rows, dim]; options as of `tower_vectors`."""
        return tower_vectors(self.item_tower, items, **options)

    def get_config(self) -> dict[str, Any]:
        towers = {"user_tower": self.user_tower, "item_tower": self.item_tower}
        parts = {name: keras.saving.serialize_keras_object(one) for name, one in towers.items()}
        own = {"temperature": self.temperature, "products": self.products}
        return {**super().get_config(), **parts, **own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Retrieval":
        towers = ("user_tower", "item_tower")
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in towers
        }
        return cls(**{**config, **parts})


def _each_ones_own(hard: Tensor, hard_row: Tensor, n: int) -> dict[str, Tensor]:
    """The hard negatives of n examples as `sampled_softmax` takes them; empty where there are none.

    Args:
        hard: float32 [n * n_hard, dim], those of one example after those of the other.
        hard_row: int32 [n * n_hard].
    """
    if not hard.shape[0]:
        return {}
    return {
        "hard": ops.reshape(hard, (n, -1, hard.shape[1])),
        "hard_row": ops.reshape(hard_row, (n, -1)),
    }


def tower_vectors(
    tower: keras.Model,
    rows: TowerRows,
    *,
    batch_size: int = 16_384,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """A tower's vector of each row, float32 [n_rows, dim], made in batches.

    Args:
        out: where they are written, a memory-mapped array, say; a new array otherwise.
    """
    batch_size = min(batch_size, rows.n_rows)
    for start in range(0, rows.n_rows, batch_size):
        # The last batch reaches back, so that all have one shape and one compiled function.
        first = min(start, rows.n_rows - batch_size)
        wanted = np.arange(first, first + batch_size, dtype=np.int32)
        vectors = _predicted(tower, rows.inputs(wanted))
        if out is None:
            out = np.empty((rows.n_rows, vectors.shape[1]), np.float32)
        out[first : first + batch_size] = vectors
    return np.empty((0, 0), np.float32) if out is None else out


def _predicted(tower: keras.Model, inputs: TowerInputs) -> NDArray[np.float32]:
    return np.asarray(tower.predict_on_batch(inputs), np.float32)
