"""The two-tower model: a user's history and features on one side, items on the other."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.retrieval.closed_forms import ClosedForms

Tensor = Any
# Keras' functions are typed as if they could return None.
ops: Any = keras.ops
OUT_OF_SOFTMAX = -1.0
_FAR_BELOW = -1e9
# Up to here the whole table of a history's items is made first: few rows, each used many times.
_MAX_TABLE_ITEMS = 8_000


@keras.saving.register_keras_serializable("candidfeed")
class BagEmbedding(keras.layers.Layer):
    """Weighted sum of the embeddings of a bag of feature ids; id 0 is padding.

    Input: ids int32 [..., width] and weights float32 [..., width]; output float32 [..., dim].
    """

    def __init__(self, n_ids: int, dim: int, *, initializer: Any = "zeros", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_ids, self.dim = n_ids, dim
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: Any = None) -> None:
        self.table = self.add_weight(
            shape=(self.n_ids, self.dim), initializer=self.initializer, name="table"
        )
        self.built = True

    def call(self, ids: Tensor, weights: Tensor) -> Tensor:
        return ops.sum(ops.take(self.table, ids, axis=0) * weights[..., None], axis=-2)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "n_ids": self.n_ids, "dim": self.dim,
                "initializer": keras.initializers.serialize(self.initializer)}  # fmt: skip


@keras.saving.register_keras_serializable("candidfeed")
class FoldIn(keras.layers.Layer):
    """The user vector that fits a history best, given fixed item vectors, in closed form.

    One ridge regression of `dim` unknowns a user and member: a new click or a new user needs no
    training. The product with the item vectors is the mean over the members.

    Input: item rows int32 [batch, length], `n_items` is padding. Output: float32
    [batch, n_members * dim]; zeros for an empty history.

    Source: Rendle et al., RecSys 2022 (iALS++, the user's half-step).
    """

    def __init__(
        self,
        n_items: int,
        dim: int,
        *,
        n_members: int,
        unseen_weight: float,
        reg: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.n_items, self.dim, self.n_members = n_items, dim, n_members
        self.unseen_weight, self.reg = unseen_weight, reg

    def build(self, input_shape: Any = None) -> None:
        fixed = {"initializer": "zeros", "trainable": False}
        members, dim = self.n_members, self.dim
        self.items = self.add_weight(shape=(members, self.n_items + 1, dim), name="items", **fixed)
        self.spectrum = self.add_weight(shape=(members, dim), name="spectrum", **fixed)
        self.built = True

    def assign(self, items: NDArray[np.float32]) -> None:
        """Take these item vectors, float32 [n_members, n_items, dim], turned.

        In the basis of their Gram matrix' eigenvectors that matrix is diagonal, and no inner
        product of two vectors changes.
        """
        grams = self.unseen_weight * (items.transpose(0, 2, 1).astype(np.float64) @ items)
        eigenvalues, bases = np.linalg.eigh(grams)
        self.items.assign(np.pad(items @ bases.astype(np.float32), ((0, 0), (0, 1), (0, 0))))
        self.spectrum.assign(np.maximum(eigenvalues, 0.0))

    def item_vectors(self) -> Tensor:
        """float32 [n_items, n_members * dim]."""
        items = ops.transpose(self.items[:, : self.n_items], (1, 0, 2))
        return ops.reshape(items, (self.n_items, self.n_members * self.dim))

    def call(self, history: Tensor) -> Tensor:
        own = ops.take(self.items, history, axis=1)
        is_event = ops.cast(history < self.n_items, "float32")
        ridge = self.reg * (ops.sum(is_event, axis=1) + self.unseen_weight * self.n_items)
        penalty = self.spectrum[:, None] + ridge[:, None]
        # As in `factorise`: as many unknowns as events or as dimensions, whichever is fewer.
        if history.shape[1] < self.dim:
            scaled = own / penalty[:, :, None]
            left = ops.matmul(scaled, ops.transpose(own, (0, 1, 3, 2))) + ops.eye(own.shape[2])
            weights = _solved(left, ops.broadcast_to(is_event, left.shape[:3]))
            vectors = ops.sum(scaled * weights[..., None], axis=2)
        else:
            left = ops.matmul(ops.transpose(own, (0, 1, 3, 2)), own)
            left = left + penalty[..., None] * ops.eye(self.dim)
            vectors = _solved(left, ops.sum(own, axis=2))
        vectors = ops.transpose(vectors, (1, 0, 2)) / self.n_members
        return ops.reshape(vectors, (-1, self.n_members * self.dim))

    def get_config(self) -> dict[str, Any]:
        names = ("n_items", "dim", "n_members", "unseen_weight", "reg")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _solved(left: Tensor, right: Tensor) -> Tensor:
    """Solutions of symmetric positive systems, [..., n, n] and [..., n]."""
    lower = ops.cholesky(left)
    half = ops.solve_triangular(lower, right[..., None], lower=True)
    return ops.solve_triangular(ops.swapaxes(lower, -1, -2), half)[..., 0]


@keras.saving.register_keras_serializable("candidfeed")
class TwoTower(keras.Model):
    """Scores of all items for a batch of users, as one dot product of two vectors.

    Both vectors have four parts. Two are closed forms that are fitted before training and fixed in
    it: the fold-in of the history (iALS), and the sum of the history's neighbour vectors (EASE cut
    to a low rank). One is learned by gradient: the sum of the history's embeddings over the root of
    their count, and the user's features, against an item embedding and the item's features. The
    last is the item's bias against 1.

    Inputs of `call`, a dict: `history` int32 [batch, length] (`n_items` is padding),
    `feature_ids` int32 and `feature_weights` float32 [batch, width] of the user.
    Output: float32 [batch, n_items].

    Args:
        n_items: rows of the item vocabulary.
        n_user_ids, n_item_ids: feature ids of users and items, padding included.
        item_bag_width: feature ids an item.
        fold_in: the fold-in part: what `FoldIn` takes beside the number of items.
        n_neighbour_dims: length of the neighbour part; 0 leaves it out.
        dim: length of the learned part.
    """

    def __init__(
        self,
        *,
        n_items: int,
        n_user_ids: int,
        n_item_ids: int,
        item_bag_width: int,
        fold_in: dict[str, Any],
        n_neighbour_dims: int,
        dim: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.n_neighbour_dims = n_neighbour_dims
        self.n_items, self.n_user_ids, self.n_item_ids = n_items, n_user_ids, n_item_ids
        self.item_bag_width, self.dim = item_bag_width, dim
        self.fold_in_settings = dict(fold_in)
        self.fold_in = FoldIn(n_items, **fold_in, name="fold_in")
        self.user_features = BagEmbedding(n_user_ids, dim, name="user_features")
        self.history_features = BagEmbedding(n_item_ids, dim, name="history_features")
        small = keras.initializers.RandomNormal(stddev=0.05, seed=keras.random.SeedGenerator(0))
        self.item_features = BagEmbedding(n_item_ids, dim, initializer=small, name="item_features")

    def build(self, input_shape: Any = None) -> None:
        self.fold_in.build()
        for layer in (self.user_features, self.history_features, self.item_features):
            layer.build()
        normal = keras.initializers.RandomNormal(stddev=0.05)
        table = (self.n_items, self.dim)
        # Zero on the history side: before the first step the model is the closed form.
        self.history_table = self.add_weight(shape=table, initializer="zeros", name="history_table")
        self.item_table = self.add_weight(shape=table, initializer=normal, name="item_table")
        self.item_bias = self.add_weight(shape=(self.n_items,), initializer="zeros", name="bias")
        self.log_scale = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(np.log(8.0)), name="log_scale"
        )
        fixed = {"shape": (self.n_items, self.n_neighbour_dims), "trainable": False}
        self.neighbour_in = self.add_weight(initializer="zeros", name="neighbour_in", **fixed)
        self.neighbour_out = self.add_weight(initializer="zeros", name="neighbour_out", **fixed)
        bag = {"shape": (self.n_items, self.item_bag_width), "trainable": False}
        self.bag_ids = self.add_weight(dtype="int32", initializer="zeros", name="bag_ids", **bag)
        self.bag_weights = self.add_weight(initializer="zeros", name="bag_weights", **bag)
        self.built = True

    def set_items(self, closed: ClosedForms, bag: Bag) -> None:
        """Take the closed forms and the features of all items."""
        self.fold_in.assign(closed.items)
        self.neighbour_in.assign(closed.neighbour_in)
        self.neighbour_out.assign(closed.neighbour_out)
        self.bag_ids.assign(bag.ids)
        self.bag_weights.assign(bag.weights)

    def user_vectors(self, inputs: dict[str, Tensor]) -> Tensor:
        """float32 [batch, fold_in + n_neighbour_dims + dim + 1]."""
        history = inputs["history"]
        count = ops.sum(ops.cast(history < self.n_items, "float32"), axis=1, keepdims=True)
        neighbours, own = self._sums(history)
        own = own / ops.sqrt(ops.maximum(count, 1.0))
        own = own + self.user_features(inputs["feature_ids"], inputs["feature_weights"])
        closed = ops.concatenate([self.fold_in(history), neighbours], axis=1)
        closed = ops.exp(self.log_scale) * closed
        return ops.concatenate([closed, own, ops.ones_like(count)], axis=1)

    def _sums(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """Summed over the history: the neighbour part and the learned part, [batch, .] both."""
        if self.n_items <= _MAX_TABLE_ITEMS:
            learned = self.history_table + self.history_features(self.bag_ids, self.bag_weights)
            table = ops.concatenate([self.neighbour_in, learned], axis=1)
            table = ops.concatenate([table, ops.zeros((1, table.shape[1]))], axis=0)
            sums = ops.sum(ops.take(table, history, axis=0), axis=1)
            return sums[:, : self.n_neighbour_dims], sums[:, self.n_neighbour_dims :]
        rows = ops.minimum(history, self.n_items - 1)
        is_event = ops.cast(history < self.n_items, "float32")[..., None]
        bag = ops.take(self.bag_ids, rows, axis=0), ops.take(self.bag_weights, rows, axis=0)
        learned = ops.take(self.history_table, rows, axis=0) + self.history_features(*bag)
        neighbours = ops.take(self.neighbour_in, rows, axis=0)
        return ops.sum(neighbours * is_event, axis=1), ops.sum(learned * is_event, axis=1)

    def item_vectors(self) -> Tensor:
        """float32 [n_items, fold_in + n_neighbour_dims + dim + 1]."""
        learned = self.item_table + self.item_features(self.bag_ids, self.bag_weights)
        parts = [self.fold_in.item_vectors(), self.neighbour_out, learned, self.item_bias[:, None]]
        return ops.concatenate(parts, axis=1)

    def call(self, inputs: dict[str, Tensor]) -> Tensor:
        return ops.matmul(self.user_vectors(inputs), ops.transpose(self.item_vectors()))

    def get_config(self) -> dict[str, Any]:
        names = ("n_items", "n_user_ids", "n_item_ids", "item_bag_width", "n_neighbour_dims", "dim")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own, "fold_in": self.fold_in_settings}


@keras.saving.register_keras_serializable("candidfeed")
class HiddenItemsSoftmax(keras.losses.Loss):
    """Full softmax of the hidden part of a history, with the shown part left out.

    `y_true` float32 [batch, n_items]: 1 for an item to be predicted, 0 for one that competes,
    `OUT_OF_SOFTMAX` for one that was in the input. The loss is the mean over the batch's items to
    be predicted, in nats; 0 where there are none.
    """

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        scores = ops.where(y_true < 0, _FAR_BELOW, y_pred)
        log_p = scores - ops.logsumexp(scores, axis=-1, keepdims=True)
        hidden = ops.cast(y_true > 0, "float32")
        # The batch's mean count, not each user's own: a long history holds more evidence.
        per_user = ops.sum(hidden) / ops.maximum(ops.cast(ops.shape(y_true)[0], "float32"), 1.0)
        return -ops.sum(hidden * log_p, axis=-1) / ops.maximum(per_user, 1.0)


@keras.saving.register_keras_serializable("candidfeed")
class HiddenNdcg(keras.metrics.Metric):
    """nDCG@k of the items to be predicted among those that compete, mean over users who have any.

    Labels as in `HiddenItemsSoftmax`.
    """

    def __init__(self, k: int = 10, name: str = "ndcg", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.k = k
        self.mean = keras.metrics.Mean()

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        scores = ops.where(y_true < 0, _FAR_BELOW, y_pred)
        k = min(self.k, int(y_true.shape[-1]))
        _, best = ops.top_k(scores, k)
        gains = ops.take_along_axis(ops.cast(y_true > 0, "float32"), best, axis=-1)
        discounts = 1.0 / ops.log2(ops.arange(2, k + 2, dtype="float32"))
        n_hidden = ops.sum(ops.cast(y_true > 0, "int32"), axis=-1)
        ideal = ops.take(ops.cumsum(discounts), ops.clip(n_hidden, 1, k) - 1)
        has_any = ops.cast(n_hidden > 0, "float32")
        self.mean.update_state(ops.sum(gains * discounts, axis=-1) / ideal, has_any)

    def result(self) -> Tensor:
        return self.mean.result()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}
