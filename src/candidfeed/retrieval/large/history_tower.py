"""A user tower that sums the vectors of a history, and an item tower of an id and its features."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.retrieval.sparse.model import SparseModel
from candidfeed.retrieval.sparse.sampled_softmax import quick_products, sampled_softmax
from candidfeed.retrieval.sparse.tables import SparseEmbedding

Tensor = Any
ops: Any = keras.ops
_ITEMS_AT_ONCE = 65_536


@keras.saving.register_keras_serializable("candidfeed")
class HistoryTower(SparseModel):
    """Two towers that share one table of items; there is no table of users.

    An item's vector is the row of its id plus the weighted rows of its features. A user's is

        taste + relu(taste @ a + b) @ c, where taste =
            (scale[n] * sum over k < n of recency[k] * item(k)) @ turn
            + the weighted rows of the user's features + base

    and item(k) is that of the event with k later ones, and n is at most `max_history`. So a click
    moves it at once, and a user needs no row. The last coordinate of a user's vector is 1, so that
    of an item's is its bias.

    `call` reads what `StreamBatches` deals: one long stream of events, each to be predicted from
    those of the same user before it. `user_vectors` reads padded histories, and the items' vectors
    as `set_items` fixed them: all that serving needs.

    Args:
        n_items: rows of the item vocabulary; also the padding of a history.
        n_user_ids, n_item_ids: feature ids of users and items, padding included.
        dim: length of a vector, the bias included.
        max_history: how many of the latest events are read.
        n_hidden: columns of a.
        id_rate, feature_rate: learning rates of the tables of item ids and of features.
        id_pull: weight of the squared rows of ids in the loss.
    """

    def __init__(
        self,
        *,
        n_items: int,
        n_user_ids: int,
        n_item_ids: int,
        dim: int,
        max_history: int,
        n_hidden: int,
        id_rate: float = 0.1,
        feature_rate: float = 0.1,
        id_pull: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.n_items, self.n_user_ids, self.n_item_ids = n_items, n_user_ids, n_item_ids
        self.dim, self.max_history, self.n_hidden = dim, max_history, n_hidden
        self.id_rate, self.feature_rate, self.id_pull = id_rate, feature_rate, id_pull

        def table(name: str, n_rows: int, rate: float) -> SparseEmbedding:
            return SparseEmbedding(n_rows, dim, name=name, learning_rate=rate, stddev=0.0)

        self.item_ids = table("item_ids", n_items, id_rate)
        self.item_features = table("item_features", n_item_ids, feature_rate)
        self.user_features = table("user_features", n_user_ids, feature_rate)

    def build(self, input_shape: Any = None) -> None:
        longest, dim = self.max_history, self.dim
        self.turn = self.add_weight(shape=(dim, dim - 1), initializer="zeros", name="turn")
        self.base = self.add_weight(shape=(dim - 1,), initializer="zeros", name="base")
        by_count = {"shape": (longest,), "initializer": "zeros"}
        self.log_recency = self.add_weight(name="log_recency", **by_count)
        self.log_scale = self.add_weight(name="log_scale", **by_count)
        wide = (dim - 1, self.n_hidden)
        self.bend_in = self.add_weight(shape=wide, initializer="he_normal", name="bend_in")
        self.bend_at = self.add_weight(shape=wide[1:], initializer="zeros", name="bend_at")
        # Zeros: before the first step the user is the closed form.
        self.bend_out = self.add_weight(shape=wide[::-1], initializer="zeros", name="bend_out")
        self.items = self.add_weight(
            shape=(self.n_items, dim), initializer="zeros", trainable=False, name="items"
        )
        self.built = True

    def user_vectors(self, inputs: dict[str, Tensor]) -> Tensor:
        """float32 [batch, dim], from the items' vectors as they were set.

        Args:
            inputs: `history` int32 [batch, width], oldest first, padded by `n_items` at the end;
                `feature_ids` int32 and `feature_weights` float32 [batch, ids] of the user. With
                `history_vectors` float32 [batch, width, dim], which are the items' own, the table
                of all items is not read; what stands at padding does not count.
        """
        history = inputs["history"]
        is_event = ops.cast(history < self.n_items, "int32")
        # How many events lie between an event and the end of its history.
        age = ops.sum(is_event, axis=1, keepdims=True) - ops.cumsum(is_event, axis=1)
        is_read = (is_event > 0) & (age < self.max_history)
        rows = inputs.get("history_vectors")
        if rows is None:
            rows = ops.take(self.items, ops.where(is_read, history, 0), axis=0)
        weights = self._recency(age, is_read)
        summed = ops.sum(weights[..., None] * rows, axis=1)
        features = _weighted(self.user_features, inputs["feature_ids"], inputs["feature_weights"])
        return self._user(summed, ops.sum(ops.cast(is_read, "int32"), axis=1), features)

    def item_vectors(self) -> Tensor:
        """float32 [n_items, dim], as they were set."""
        return self.items.value

    def set_items(self, bag: Bag) -> None:
        """Fix the vectors of all items: the tables of ids and features as they are now."""
        vectors = np.array(self.item_ids.table.value)
        table = np.asarray(self.item_features.table.value)
        for start in range(0, len(vectors), _ITEMS_AT_ONCE):
            part = slice(start, start + _ITEMS_AT_ONCE)
            for ids, weights in zip(bag.ids[part].T, bag.weights[part].T, strict=True):
                vectors[part] += weights[:, None] * table[ids]
        self.items.assign(vectors)

    def assign_start(self, items: NDArray[np.float32], turn: NDArray[np.float32]) -> None:
        """Begin from these rows of ids, float32 [n_items, dim], and this [dim, dim - 1] `turn`."""
        self.item_ids.table.assign(items)
        self.turn.assign(turn)

    def call(self, inputs: dict[str, Tensor], training: bool | None = None) -> dict[str, Tensor]:
        """The user of each event just before it, and the items.

        Returns:
            `user` float32 [n, dim]; `item` float32 [n + n_negatives, dim], the events' first; `ids`
            of the same shape, the ids' part of that.
        """
        ids = self.item_ids(inputs["item_id"])
        items = ids + _weighted(self.item_features, inputs["item_ids"], inputs["item_weights"])
        n_read, n_before = inputs["user"].shape[0], self.max_history
        summed, n = self._before(items[:n_read], inputs["user"], inputs["is_read"])
        features = _weighted(self.user_features, inputs["user_ids"], inputs["user_weights"])
        user = self._user(summed, n, features)
        return {"user": user, "item": items[n_before:], "ids": ids[n_before:]}

    def _before(self, rows: Tensor, user: Tensor, is_read: Tensor) -> tuple[Tensor, Tensor]:
        """For each event but the first `max_history`: the weighted sum of its user's before it.

        The stream is cut into blocks of `max_history`, so that what an event reads stands in its
        own block and the one before.

        Args:
            rows: float32 [max_history + n, dim]; n is a multiple of `max_history`.
            user: int32 [max_history + n], the owner of each event.
            is_read: bool [max_history + n]; the other events are left out.

        Returns:
            float32 [n, dim], and of how many events, int32 [n].
        """
        size = self.max_history

        def with_block_before(column: Tensor) -> Tensor:
            blocks = ops.reshape(column, (-1, size, *column.shape[1:]))
            return ops.concatenate([blocks[:-1], blocks[1:]], axis=1)

        owner = ops.reshape(user[size:], (-1, size))
        age = np.arange(size)[:, None] + size - np.arange(2 * size) - 1
        is_own = owner[:, :, None] == with_block_before(user)[:, None]
        is_before = is_own & ((age >= 0) & (age < size)) & with_block_before(is_read)[:, None]
        weights = self._recency(age, is_before)
        summed = ops.matmul(weights, with_block_before(rows))
        n = ops.sum(ops.cast(is_before, "int32"), axis=2)
        return ops.reshape(summed, (-1, self.dim)), ops.reshape(n, (-1,))

    def _recency(self, age: Tensor, is_read: Tensor) -> Tensor:
        """Weights of events with so many after them; 0 for those that are not read."""
        places = ops.clip(age, 0, self.max_history - 1)
        return ops.where(is_read, ops.exp(ops.take(self.log_recency, places)), 0.0)

    def _user(self, summed: Tensor, n: Tensor, features: Tensor) -> Tensor:
        at_least_one = ops.maximum(n, 1)
        scale = ops.exp(ops.take(self.log_scale, at_least_one - 1))
        scale = scale / ops.sqrt(ops.cast(at_least_one, "float32"))
        taste = ops.matmul(summed * scale[:, None], self.turn) + features[:, :-1] + self.base
        bent = ops.relu(ops.matmul(taste, self.bend_in) + self.bend_at)
        taste = taste + ops.matmul(bent, self.bend_out)
        return ops.concatenate([taste, ops.ones_like(taste[:, :1])], axis=1)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Sampled softmax, mean by the events' weights, and the pull on rows of ids."""
        weight, n = x["weight"], x["weight"].shape[0]
        item_row = x["item_row"][self.max_history :]
        loss = sampled_softmax(
            y_pred["user"],
            y_pred["item"][:n],
            y_pred["item"][n:],
            positive_row=item_row[:n],
            negative_row=item_row[n:],
            negative_logq=x["negative_logq"],
            weight=weight / ops.maximum(ops.sum(weight), 1e-9),
            products=quick_products(n * (len(item_row) - n)),
        )
        # Not on the last coordinate: how popular an item is is no fault of it.
        return loss + self.id_pull / n * ops.sum(ops.square(y_pred["ids"][:, :-1]))

    def get_config(self) -> dict[str, Any]:
        names = ("n_items", "n_user_ids", "n_item_ids", "dim", "max_history",
                 "n_hidden", "id_rate", "feature_rate", "id_pull")  # fmt: skip
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _weighted(table: SparseEmbedding, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows, float32 [n, dim], by ids and weights [n, ids]."""
    return ops.sum(table(ids) * weights[..., None], axis=-2)
