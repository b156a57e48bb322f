"""Heads that predict what is done about an impression, each declared label by one of them."""

from typing import Any

import keras
import keras_rs
import numpy as np

Tensor = Any
# Keras' functions are typed as if they could return None.
ops: Any = keras.ops
# A place's factor has few steps to be found in: it learns so much faster than the weights.
_PLACE_RATE = 10.0
# Expectations further from what can be, 0 or 1, are rounding.
_LEAST_LOG, _MOST_LOG = -16.0, -1e-6


@keras.saving.register_keras_serializable("candidfeed")
class TargetAttention(keras.layers.Layer):
    """How much of the recent history is like a candidate, by several ways of looking at it.

    Each way weighs the events by their cosine with the candidate and by what is known of them
    (tone, age, order), and sums cosines and facts with these weights. It reads directions of stage
    one only through cosines, so it stays true when stage one is fitted anew.

    Input, a dict: `taste` float32 [b, c, d], `recent_taste` [b, n, d], `recent_facts` [b, n, 4].
    Output: float32 [b, c, 2 * ways].

    Source: Zhou et al., KDD 2018 (deep interest network), with softmax weights.
    """

    def __init__(self, ways: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ways = ways

    def build(self, input_shape: Any = None) -> None:
        # From a mean over all events to nearly the one that is most like the candidate.
        sharpness = np.linspace(0.0, 4.0, self.ways) ** 2
        self.sharpness = self.add_weight(shape=(self.ways,), initializer="zeros", name="sharpness")
        self.sharpness.assign(sharpness)
        self.weighs = self.add_weight(shape=(4, self.ways), initializer="zeros", name="weighs")
        self.tells = self.add_weight(shape=(4, self.ways), initializer="zeros", name="tells")
        self.built = True

    def call(self, inputs: dict[str, Tensor]) -> Tensor:
        facts = inputs["recent_facts"]
        # [b, ways, c, n]: sums over the events, which lie side by side, take a tenth of the time.
        cosine = ops.matmul(inputs["taste"], _turned(inputs["recent_taste"]))[:, None]
        padding = -1e9 * (1.0 - facts[..., 0])[:, None, None]
        weighs = _turned(ops.matmul(facts, self.weighs))[:, :, None]
        weight = ops.softmax(cosine * self.sharpness[:, None, None] + weighs + padding, axis=-1)
        tells = _turned(ops.matmul(facts, self.tells))
        # A history of padding alone has cosines of 0.
        sums = ops.matmul(weight * cosine, ops.stack([ops.ones_like(tells), tells], axis=-1))
        shape = ops.shape(sums)
        return ops.reshape(ops.transpose(sums, (0, 2, 3, 1)), (shape[0], shape[2], 2 * self.ways))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ways": self.ways}


def _turned(rows: Tensor) -> Tensor:
    """The last two axes changed for each other."""
    return ops.transpose(rows, (0, 2, 1))


@keras.saving.register_keras_serializable("candidfeed")
class ActionHeads(keras.layers.Layer):
    """Log of what is expected of each label: of P(it follows), or of how many events follow.

    An impression is looked at or not, by its place alone, and then acted on or not, by user and
    item alone; what is expected is the product. At the first place all is looked at, so what is
    asked for there is free of places.

    Cross layers and a small network on the same features, `members` of it that share all but their
    scales; each learns by itself, and what they expect is averaged.

    Input, a dict (b users, c candidates): `dense` float32 [b, c, f], `rates` [b, c, r], `position`
    int32 [b, c] (from 1; 0 is not known), and what `TargetAttention` reads.
    Output: float32 [b, c, members, labels].

    Source: Wang et al., WWW 2021 (DCN-V2); Gorishniy et al., ICLR 2025 (TabM); Guo et al., RecSys
    2019 (PAL: position as a factor of its own); Ma et al., KDD 2018 (heads on one trunk).

    Args:
        counted: of each label, whether its events are counted; else P(any).
        starts: log of what is expected of an impression at the first place, by label.
        seen: where the factor of each place begins, (0, 1), a row a place, the unknown one first,
            and a column a label; places further down count as the last.
    """

    def __init__(
        self,
        *,
        counted: list[bool],
        starts: list[float],
        seen: list[list[float]],
        members: int = 2,
        width: int = 64,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._config = {"counted": list(counted), "starts": list(starts),
                        "seen": seen, "members": members, "width": width,
                        "dropout": dropout}  # fmt: skip
        self.counted, self.members, self.width = list(counted), members, width
        self.scale = keras.layers.Normalization(name="scale")
        self.attention = TargetAttention(name="attention")
        self.cross = [keras_rs.layers.FeatureCross(name=f"cross_{k}") for k in range(2)]
        self.deep = [keras.layers.Dense(width, name=f"deep_{k}") for k in range(2)]
        self.drop = keras.layers.Dropout(dropout)

    def build(self, input_shape: dict[str, Any]) -> None:
        n_scaled = input_shape["dense"][-1] + input_shape["rates"][-1]
        n_features = n_scaled + 2 * self.attention.ways
        self.scale.build((None, None, n_scaled))
        self.attention.build()
        for layer in self.cross:
            layer.build((None, None, n_features))
            layer.dense.build((None, None, n_features))
        self.deep[0].build((None, None, None, n_features))
        self.deep[1].build((None, None, None, self.width))
        signs = keras.initializers.RandomUniform(0.5, 1.5)
        self.scales = [
            self.add_weight(shape=(self.members, n), initializer=signs, name=f"scales_{k}")
            for k, n in enumerate((n_features, self.width, self.width))
        ]
        n_labels = len(self.counted)
        self.wide = self.add_weight(shape=(n_features, n_labels), initializer="zeros", name="wide")
        self.out = self.add_weight(
            shape=(self.members, self.width, n_labels), initializer="zeros", name="out"
        )
        self.bias = self.add_weight(shape=(n_labels,), initializer="zeros", name="bias")
        starts = np.array(self._config["starts"])
        log_odds = starts - np.log1p(-np.exp(np.minimum(starts, -1e-3)))
        self.bias.assign(np.where(self.counted, starts, log_odds))
        seen = np.clip(np.array(self._config["seen"]), 0.02, 0.98)
        self.unseen = self.add_weight(shape=seen.shape, initializer="zeros", name="unseen")
        self.unseen.assign(np.log(np.expm1(-np.log(seen))) / _PLACE_RATE)
        self.built = True

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        own = self.scale(ops.concatenate([inputs["dense"], inputs["rates"]], axis=-1))
        # Squashed, not clipped: what lies many deviations out must keep its order.
        own = own / (1.0 + ops.abs(own) / 10.0)
        x0 = ops.concatenate([own, self.attention(inputs)], axis=-1)
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        wide = ops.matmul(x, self.wide)[..., None, :]
        x = x[..., None, :] * self.scales[0]
        for layer, scales in zip(self.deep, self.scales[1:], strict=True):
            x = self.drop(ops.gelu(layer(x)) * scales, training=training)
        deep = ops.einsum("bcmw,mwl->bcml", x, self.out)
        taken = wide + deep + self.bias
        is_counted = ops.convert_to_tensor(np.array(self.counted))
        acted = ops.where(is_counted, taken, ops.log_sigmoid(taken))
        return acted + self.log_seen(inputs["position"])[..., None, :]

    def log_seen(self, position: Tensor) -> Tensor:
        """Log of how often a place is looked at against the first; float32 [..., labels]."""
        last = len(self._config["seen"]) - 1
        unseen = ops.take(self.unseen, ops.minimum(position, last), axis=0)
        behind = -ops.softplus(_PLACE_RATE * unseen)
        return ops.where((position == 1)[..., None], 0.0, behind)

    def expected(self, members: Tensor) -> Tensor:
        """The log of the members' mean: float32 [b, c, labels] of what `call` gives."""
        return ops.logsumexp(members, axis=-2) - float(np.log(self.members))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._config}


@keras.saving.register_keras_serializable("candidfeed")
class ActionLoss(keras.losses.Loss):
    """Cross-entropy of labels that come or not, Poisson loss of those that are counted; in nats.

    `y_true` float32 [b, c, labels], -1 where the impression is padding; `y_pred` float32
    [b, c, members, labels]. Summed over labels, each member's mean over impressions.
    """

    def __init__(self, counted: list[bool], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.counted = list(counted)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        real = ops.cast(y_true >= 0, "float32")[..., None, :]
        came = ops.maximum(y_true, 0.0)[..., None, :]
        log_p = ops.clip(y_pred, _LEAST_LOG, _MOST_LOG)
        either = -came * log_p - (1.0 - came) * ops.log1p(-ops.exp(log_p))
        number = ops.exp(y_pred) - came * y_pred
        lost = real * ops.where(ops.convert_to_tensor(np.array(self.counted)), number, either)
        n_real = ops.maximum(ops.sum(real[..., 0]), 1.0)
        n_lists = ops.cast(ops.shape(y_true)[0], "float32")
        return ops.sum(ops.mean(lost, axis=-2), axis=(-2, -1)) * n_lists / n_real

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "counted": self.counted}
