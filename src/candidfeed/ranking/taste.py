"""Ratings: how well a user would like an item, as a distribution over the levels."""

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
            # Dimension by dimension the values of all members; the last ones are the row's biases.
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
        user, item = self.user_part(inputs, training=training), self.item_part(inputs)
        return self.utility(user, item, inputs, training=training)

    def user_part(self, inputs: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """What does not depend on the candidate: float32 [batch, .] each."""
        sums, count = self._history_sums(inputs, training)
        return {
            "row": self._rows(self.users, inputs["user"]) + self._user_bag(inputs),
            "sums": sums,
            "count": count,
            # A user without a trained row is still known to rate high or low.
            "tone": self.tone_gain * inputs["user_tone"][:, None],
        }

    def item_part(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What depends on the candidate alone: float32 [batch, candidates, .] each."""
        return {
            "row": self._rows(self.items, inputs["item"]) + self._content(inputs),
            "shown": self._rows(self.shown, inputs["item"]),
            "valued": self._rows(self.valued, inputs["item"]),
        }

    def utility(
        self,
        user: dict[str, Tensor],
        item: dict[str, Tensor],
        inputs: dict[str, Tensor],
        training: bool = False,
    ) -> Tensor:
        """float32 [batch, candidates, members], of the two parts and what is known of each pair."""
        taste = self._taste(user, item, inputs)
        if training:
            self._regularise(inputs, taste)
        left = user["row"][:, None] + taste + self._rows(self.user_times, inputs["time_bin"])
        right = item["row"] + self._rows(self.item_times, inputs["time_bin"])
        *left, left_bias = ops.split(left, self.dim + 1, axis=-1)
        *right, right_bias = ops.split(right, self.dim + 1, axis=-1)
        # One dimension after the other, all members at once: on a processor this takes a fifth of
        # the time of a product that is summed along an axis.
        utility = user["tone"][:, None] + left_bias + right_bias
        for one, other in zip(left, right, strict=True):
            utility = utility + one * other
        return utility

    def _taste(
        self, user: dict[str, Tensor], item: dict[str, Tensor], inputs: dict[str, Tensor]
    ) -> Tensor:
        """What the history says, float32 [batch, candidates, .], without the candidate's event."""
        inside, tone = inputs["in_history"][..., None], inputs["own_tone"][..., None]
        own = inside * (item["shown"] + item["valued"] * tone)
        length = ops.sqrt(ops.maximum(user["count"][:, None] - inside, 1.0))
        return (user["sums"][:, None] - own) / length

    def _history_sums(self, inputs: dict[str, Tensor], training: bool) -> tuple[Tensor, Tensor]:
        """Sum over each history, [batch, width], and its length, [batch, 1]."""
        history, tone = inputs["history"], inputs["history_tone"]
        real = ops.cast(history < self.sizes["n_items"], "float32")
        count = ops.sum(real, axis=1)[:, None]
        if not (training and self.is_small):
            # Products of matrices: a twentieth of the time of sums along an axis.
            shown = ops.matmul(real[:, None], self._rows(self.shown, history))
            valued = ops.matmul(tone[:, None], self._rows(self.valued, history))
            return (shown + valued)[:, 0], count
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

    def _user_bag(self, inputs: dict[str, Tensor]) -> Tensor:
        return self._bag(self.user_features, inputs, "user_feature")

    def _regularise(self, inputs: dict[str, Tensor], taste: Tensor) -> None:
        user = self._rows(self.users, inputs["user"])[:, None]
        item, content = self._rows(self.items, inputs["item"]), self._content(inputs)
        parts = (user, item, taste, self._user_bag(inputs)[:, None], content)
        weight = inputs["weight"] / ops.maximum(ops.sum(inputs["weight"]), 1.0)
        squares = sum(ops.sum(ops.square(part), axis=-1) for part in parts)
        self.add_loss(self.l2 * ops.sum(weight * squares))

    def _rows(self, table: Tensor, rows: Tensor) -> Tensor:
        return ops.take(table, rows, axis=0)

    def _bag(self, table: Tensor, inputs: dict[str, Tensor], name: str) -> Tensor:
        rows = self._rows(table, inputs[name + "_ids"])
        return ops.sum(rows * inputs[name + "_weights"][..., None], axis=-2)

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
        below = ops.mean(ops.sigmoid(cuts[:, None] - utility[..., None, :]), axis=-1)
        edge = ops.ones_like(below[..., :1])
        cumulative = ops.concatenate([0.0 * edge, below, edge], axis=-1)
        return cumulative[..., 1:] - cumulative[..., :-1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shares": self.shares}


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
