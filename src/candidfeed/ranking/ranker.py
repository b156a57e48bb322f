"""The multi-task ranker: how likely, and how well liked, is each candidate for a user."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag

Tensor = Any
# Keras' functions are typed as if they could return None.
ops: Any = keras.ops
# Up to here history sums and item features are products of dense matrices: on a processor XLA's
# scatter, the gradient of a gather, costs more than the zeros do.
SMALL_CATALOGUE = 20_000


@keras.saving.register_keras_serializable("candidfeed")
class TasteTrunk(keras.layers.Layer):
    """Utility of an item to a user: a factorisation machine with history sums, `members` times.

    The members have tables of their own, are trained side by side on the same rows and averaged
    by the heads: on little data that is the cheapest gain there is.

    Output: float32 [batch, candidates, members].

    Source: Koren, KDD 2008 (SVD++: implicit and explicit history sums); Rendle, ICDM 2010 (FM);
    Gorishniy et al., ICLR 2025 (TabM: members that share a training run).
    """

    def __init__(
        self,
        *,
        n_users: int,
        n_items: int,
        n_user_ids: int,
        n_item_ids: int,
        n_times: int,
        dim: int,
        members: int,
        l2: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = {"n_users": n_users, "n_items": n_items, "n_user_ids": n_user_ids,
                      "n_item_ids": n_item_ids, "n_times": n_times}  # fmt: skip
        self.dim, self.members, self.l2 = dim, members, l2

    def build(self, input_shape: Any = None) -> None:
        def table(name: str, n_rows: int, spread: float) -> Any:
            # One more than dim: the last column is the row's bias.
            return self.add_weight(
                shape=(n_rows, self.members * (self.dim + 1)), name=name,
                initializer=keras.initializers.RandomNormal(stddev=spread),
            )  # fmt: skip

        sizes = self.sizes
        self.users = table("users", sizes["n_users"] + 1, 0.05)
        self.items = table("items", sizes["n_items"] + 1, 0.05)
        self.shown = table("history_shown", sizes["n_items"] + 1, 0.01)
        self.valued = table("history_valued", sizes["n_items"] + 1, 0.01)
        self.user_features = table("user_features", sizes["n_user_ids"], 0.02)
        self.item_features = table("item_features", sizes["n_item_ids"], 0.02)
        self.user_times = table("user_times", sizes["n_times"] + 1, 0.02)
        self.item_times = table("item_times", sizes["n_times"] + 1, 0.02)
        self.tone_gain = self.add_weight(shape=(), initializer="ones", name="tone_gain")
        n_rows = sizes["n_items"] + 1 if self.is_small else 1
        self.content = self.add_weight(
            shape=(n_rows, sizes["n_item_ids"]),
            initializer="zeros",
            trainable=False,
            name="content",
        )
        self.built = True

    @property
    def is_small(self) -> bool:
        return self.sizes["n_items"] <= SMALL_CATALOGUE

    def set_items(self, bag: Bag) -> None:
        """Take the features of all items; a large catalogue reads them from the inputs instead."""
        if not self.is_small:
            return
        content = np.zeros(self.content.shape, np.float32)
        np.add.at(content, (np.arange(len(bag))[:, None], bag.ids), bag.weights)
        content[:, 0] = 0.0
        self.content.assign(content)

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        item, inside = inputs["item"], inputs["in_history"][..., None]
        sums, count = self._history_sums(inputs)
        # Leave the candidate's own event out: the target must not stand in the history.
        own = self._rows(self.shown, item)
        own = own + self._rows(self.valued, item) * inputs["own_tone"][..., None]
        taste = (sums[:, None] - inside * own) / ops.sqrt(ops.maximum(count - inside, 1.0))
        user = self._rows(self.users, inputs["user"])[:, None]
        user_bag = self._bag(self.user_features, inputs, "user_feature")[:, None]
        left = user + user_bag + taste + self._rows(self.user_times, inputs["time_bin"])
        base, content = self._rows(self.items, item), self._content(inputs)
        right = base + content + self._rows(self.item_times, inputs["time_bin"])
        if training:
            self._regularise(inputs["weight"], user, base, taste, user_bag, content)
        left, right = self._split(left), self._split(right)
        # A user without a trained row is still known to rate high or low.
        tone = self.tone_gain * inputs["user_tone"][:, None, None]
        bias = tone + left[..., -1] + right[..., -1]
        return bias + ops.sum(left[..., :-1] * right[..., :-1], axis=-1)

    def _history_sums(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sum over each history, [batch, width], and its length, [batch, 1, 1]."""
        history, tone = inputs["history"], inputs["history_tone"]
        real = ops.cast(history < self.sizes["n_items"], "float32")
        count = ops.sum(real, axis=1)[:, None, None]
        if not self.is_small:
            shown = self._rows(self.shown, history) * real[..., None]
            return ops.sum(shown + self._rows(self.valued, history) * tone[..., None], 1), count
        shape = (history.shape[0], self.sizes["n_items"] + 1)
        user = ops.broadcast_to(ops.arange(shape[0], dtype="int32")[:, None], history.shape)
        places = ops.stack([ops.reshape(user, (-1,)), ops.reshape(history, (-1,))], axis=-1)
        shown = ops.matmul(ops.scatter(places, ops.reshape(real, (-1,)), shape), self.shown)
        valued = ops.matmul(ops.scatter(places, ops.reshape(tone, (-1,)), shape), self.valued)
        return shown + valued, count

    def _content(self, inputs: dict[str, Tensor]) -> Tensor:
        if not self.is_small:
            return self._bag(self.item_features, inputs, "item_feature")
        return self._rows(ops.matmul(self.content, self.item_features), inputs["item"])

    def _regularise(self, weight: Tensor, *parts: Tensor) -> None:
        weight = weight / ops.maximum(ops.sum(weight), 1.0)
        squares = sum(ops.sum(ops.square(part), axis=-1) for part in parts)
        self.add_loss(self.l2 * ops.sum(weight * squares))

    def _rows(self, table: Tensor, rows: Tensor) -> Tensor:
        return ops.take(table, rows, axis=0)

    def _bag(self, table: Tensor, inputs: dict[str, Tensor], name: str) -> Tensor:
        rows = self._rows(table, inputs[name + "_ids"])
        return ops.sum(rows * inputs[name + "_weights"][..., None], axis=-2)

    def _split(self, joined: Tensor) -> Tensor:
        return ops.reshape(joined, (*joined.shape[:-1], self.members, self.dim + 1))

    def get_config(self) -> dict[str, Any]:
        own = {"dim": self.dim, "members": self.members, "l2": self.l2}
        return {**super().get_config(), **self.sizes, **own}


@keras.saving.register_keras_serializable("candidfeed")
class OrdinalHead(keras.layers.Layer):
    """Utility to a probability for each rating level, by ordered thresholds on a logistic scale.

    Input: float32 [..., members]; output: float32 [..., levels], the mean over the members.

    Source: McCullagh, JRSS B 1980 (proportional odds).
    """

    def __init__(self, shares: list[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shares = [float(share) for share in shares]

    def build(self, input_shape: Any = None) -> None:
        below = np.clip(np.cumsum(self.shares)[:-1], 1e-3, 1 - 1e-3)
        cuts = np.log(below / (1 - below))
        gaps = np.log(np.expm1(np.maximum(np.diff(cuts), 1e-3)))
        first = keras.initializers.Constant(cuts[0])
        self.first = self.add_weight(shape=(), initializer=first, name="first")
        self.gaps = self.add_weight(shape=gaps.shape, initializer="zeros", name="gaps")
        self.gaps.assign(gaps)
        self.built = True

    def call(self, utility: Tensor) -> Tensor:
        steps = ops.cumsum(ops.softplus(self.gaps))
        cuts = self.first + ops.concatenate([ops.zeros(1), steps])
        below = ops.sigmoid(cuts - utility[..., None])
        edge = ops.ones_like(below[..., :1])
        cumulative = ops.concatenate([0.0 * edge, below, edge], axis=-1)
        return ops.mean(cumulative[..., 1:] - cumulative[..., :-1], axis=-2)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shares": self.shares}


@keras.saving.register_keras_serializable("candidfeed")
class EngagedHead(keras.layers.Layer):
    """Logit that the user will act on the candidate, from the dense features that it may read.

    Input: float32 [batch, candidates, n_features]; output: float32 [batch, candidates].
    """

    def __init__(self, *, width: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.dropout = width, dropout
        self.scale = keras.layers.Normalization(name="scale")
        self.deep = [keras.layers.Dense(width, "gelu", name=f"deep_{k}") for k in range(2)]
        self.drop = keras.layers.Dropout(dropout)
        # From zero, and from a low probability: a random start loses against stage one's own order
        # (nDCG@10 .428 against .455 on ML-100K), for the lists are few.
        rare: Any = keras.initializers.Constant(-3.0)
        self.wide = keras.layers.Dense(
            1, kernel_initializer="zeros", bias_initializer=rare, name="wide"
        )
        self.out = keras.layers.Dense(1, kernel_initializer="zeros", name="out")

    def build(self, input_shape: Any) -> None:
        n_features = input_shape[-1]
        self.reads = self.add_weight(
            shape=(n_features,), initializer="ones", trainable=False, name="reads"
        )
        self.scale.build((None, None, n_features))
        self.wide.build((None, None, n_features))
        self.deep[0].build((None, None, n_features))
        self.deep[1].build((None, None, self.width))
        self.out.build((None, None, self.width))
        self.built = True

    def call(self, features: Tensor, training: bool = False) -> Tensor:
        scaled = self.scale(features)
        # Squashed, not clipped: the best candidates lie many deviations out and must keep order.
        x0 = self.reads * scaled / (1.0 + ops.abs(scaled) / 10.0)
        x = x0
        for layer in self.deep:
            x = self.drop(layer(x), training=training)
        return (self.wide(x0) + self.out(x))[..., 0]

    def raise_logits(self, by: float) -> None:
        """Add a constant to all logits: the odds are as much higher, the order stays."""
        bias: Any = self.wide.bias
        bias.assign(bias + by)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "dropout": self.dropout}


@keras.saving.register_keras_serializable("candidfeed")
class Ranker(keras.Model):
    """P(engaged) and a distribution over rating levels for each candidate of each user.

    Inputs of `call`, a dict of arrays (b users, c candidates, h history, f dense features):
    `user` int32 [b] (`n_users` is an unknown user), `user_feature_ids`/`_weights` [b, w],
    `history` int32 [b, h] (`n_items` is padding), `history_tone` float32 [b, h] (rating minus the
    user's mean; 0 without one), `user_tone` float32 [b] (the user's mean minus all users'), `item`
    int32 [b, c], `item_feature_ids`/`_weights` [b, c, w], `time_bin` int32 [b, c], `in_history` and
    `own_tone` float32 [b, c] (the candidate's own event, where it is part of the history), `weight`
    float32 [b, c] (0 where `item` is padding), `dense` float32 [b, c, f].

    Outputs, a dict: `engaged` float32 [b, c], a logit; `rating` float32 [b, c, levels].

    A candidate's outputs do not depend on the other candidates.

    Args:
        rates: False where the log has no ratings: then there is no taste trunk, whose tables have a
            row for each user and item, and `rating` is `level_shares` for every candidate.
    """

    def __init__(
        self,
        *,
        sizes: dict[str, int],
        level_shares: list[float],
        rates: bool = True,
        dim: int = 12,
        members: int = 8,
        l2: float = 0.001,
        width: int = 32,
        dropout: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._config = {
            "sizes": dict(sizes),
            "level_shares": list(level_shares),
            "rates": rates,
            "dim": dim,
            "members": members,
            "l2": l2,
            "width": width,
            "dropout": dropout,
        }
        self.trunk = None
        if rates:
            self.trunk = TasteTrunk(**sizes, dim=dim, members=members, l2=l2, name="taste")
        self.rating = OrdinalHead(level_shares, name="rating_head")
        self.engaged = EngagedHead(width=width, dropout=dropout, name="engaged_head")

    def build(self, input_shape: dict[str, Any]) -> None:
        if self.trunk is not None:
            self.trunk.build()
            self.rating.build()
        self.engaged.build(input_shape["dense"])
        self.built = True

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        engaged = self.engaged(inputs["dense"], training=training)
        if self.trunk is None:
            shares = ops.convert_to_tensor(self.rating.shares, dtype="float32")
            return {"engaged": engaged, "rating": ops.zeros_like(engaged)[..., None] + shares}
        return {"engaged": engaged, "rating": self.rating(self.trunk(inputs, training=training))}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._config}


@keras.saving.register_keras_serializable("candidfeed")
class EngagedLoss(keras.losses.Loss):
    """Binary cross-entropy of each candidate plus the list's softmax: probability and order.

    `y_true` float32 [batch, candidates]: 1 engaged, 0 not, -1 padding or no label.
    """

    def __init__(self, list_weight: float = 0.25, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.list_weight = list_weight

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        logit, real = y_pred, ops.cast(y_true >= 0, "float32")
        label = ops.maximum(y_true, 0.0)
        bce = ops.maximum(logit, 0) - logit * label + ops.log1p(ops.exp(-ops.abs(logit)))
        listed = ops.where(y_true >= 0, logit, -1e9)
        log_p = listed - ops.logsumexp(listed, axis=-1, keepdims=True)
        n_real = ops.maximum(ops.sum(real, axis=-1), 1.0)
        n_hits = ops.maximum(ops.sum(label, axis=-1), 1.0)
        has_list = ops.cast(ops.sum(real, axis=-1) > 0, "float32")
        ordered = -ops.sum(label * ops.where(y_true >= 0, log_p, 0.0), axis=-1) / n_hits
        return ops.sum(real * bce, axis=-1) / n_real + self.list_weight * has_list * ordered

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "list_weight": self.list_weight}


@keras.saving.register_keras_serializable("candidfeed")
class RatingLoss(keras.losses.Loss):
    """Negative log-likelihood of the observed level.

    `y_true` int32 [batch, candidates], -1 where no rating is known. The loss is the mean over the
    batch's ratings, in nats.
    """

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        known = ops.cast(y_true >= 0, "float32")
        level = ops.maximum(y_true, 0)
        p_seen = ops.take_along_axis(y_pred, ops.cast(level, "int32")[..., None], axis=-1)[..., 0]
        total = ops.maximum(ops.sum(known), 1.0)
        per_list = -ops.sum(known * ops.log(ops.maximum(p_seen, 1e-7)), axis=-1)
        return per_list * ops.cast(ops.shape(y_true)[0], "float32") / total


def expected_rating(
    p_level: NDArray[np.floating], levels: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Mean of each distribution, float32 [...]: the prediction with the least squared error."""
    return (p_level @ levels).astype(np.float32)


def median_rating(
    p_level: NDArray[np.floating], levels: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Median level of each distribution, float32 [...]: the one with the least absolute error."""
    return levels[(np.cumsum(p_level, axis=-1) < 0.5).sum(axis=-1)].astype(np.float32)
