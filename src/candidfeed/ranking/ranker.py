"""The multi-task ranker: how likely, and how well liked, is each candidate for a user."""

from typing import Any

import keras

from candidfeed.ranking.action_inputs import ActionSpace
from candidfeed.ranking.actions import ActionHeads
from candidfeed.ranking.posterior_head import PosteriorHead
from candidfeed.ranking.taste import OrdinalHead, TasteTrunk

Tensor = Any
# Keras' functions are typed as if they could return None.
ops: Any = keras.ops


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
    float32 [b, c] (0 where `item` is padding), `dense` float32 [b, c, f]; where there are action
    heads also what `ActionHeads` reads.

    Outputs, a dict: `engaged` float32 [b, c], a logit; `rating` float32 [b, c, levels]; `actions`
    float32 [b, c, labels], where there are action heads and their inputs: the log of what each
    expects.

    A candidate's outputs do not depend on the other candidates.

    Args:
        rates: False where the log has no ratings: then there is no taste trunk, whose tables have a
            row for each user and item, and `rating` is `level_shares` for every candidate.
        n_draws: of the posterior head, which is mixed into `rating` except in training; 0 without
            one.
        actions: the configuration of `ActionHeads`; None without any.
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
        n_draws: int = 0,
        draw_dim: int = 10,
        width: int = 32,
        dropout: float = 0.3,
        actions: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._config = {
            "actions": actions,
            "sizes": dict(sizes),
            "level_shares": list(level_shares),
            "rates": rates,
            "dim": dim,
            "members": members,
            "l2": l2,
            "n_draws": n_draws,
            "draw_dim": draw_dim,
            "width": width,
            "dropout": dropout,
        }
        self.trunk = None
        if rates:
            self.trunk = TasteTrunk(**sizes, dim=dim, members=members, l2=l2, name="taste")
        self.rating = OrdinalHead(level_shares, name="rating_head")
        self.posterior = None
        if rates and n_draws:
            own = {name: sizes[name] for name in ("n_users", "n_items", "n_user_ids")}
            self.posterior = PosteriorHead(
                **own, n_levels=len(level_shares), n_draws=n_draws, dim=draw_dim, name="posterior"
            )
        self.engaged = EngagedHead(width=width, dropout=dropout, name="engaged_head")
        self.actions = None if actions is None else ActionHeads(**actions)

    def build(self, input_shape: dict[str, Any]) -> None:
        if self.trunk is not None:
            self.trunk.build()
            self.rating.build()
        if self.posterior is not None:
            self.posterior.build()
        self.engaged.build(input_shape["dense"])
        if self.actions is not None:
            self.actions.build(input_shape)
        self.built = True

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        user, item = self.user_part(inputs, training=training), self.item_part(inputs)
        return self.heads(user, item, inputs, training=training)

    def user_part(self, inputs: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """What does not depend on the candidate, [b, ...] each."""
        recent = {name: inputs[name] for name in ActionSpace.OF_USER if name in inputs}
        if self.trunk is None:
            return recent
        part = {**recent, **self.trunk.user_part(inputs, training=training)}
        if self.posterior is not None and not training:
            part |= self.posterior.user_part(inputs)
        return part

    def item_part(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What depends on the candidate alone, [b, c, ...] each: a release holds it for each item.

        Only what begins with `item` is read of the inputs.
        """
        part = {} if self.trunk is None else self.trunk.item_part(inputs)
        return part if self.posterior is None else {**part, **self.posterior.item_part(inputs)}

    def heads(
        self,
        user: dict[str, Tensor],
        item: dict[str, Tensor],
        inputs: dict[str, Tensor],
        training: bool = False,
    ) -> dict[str, Tensor]:
        """The outputs, of the two parts and of what is known of each pair.

        Of the inputs neither the history is read nor ids and features of the user and the items.
        """
        engaged = self.engaged(inputs["dense"], training=training)
        if self.trunk is None:
            shares = ops.convert_to_tensor(self.rating.shares, dtype="float32")
            found = {"engaged": engaged, "rating": ops.zeros_like(engaged)[..., None] + shares}
        else:
            utility = self.trunk.utility(user, item, inputs, training=training)
            rating = self.rating(utility)
            if self.posterior is not None and not training:
                share = user["posterior_share"][:, None]
                rating = rating + share * (self.posterior.levels(user, item) - rating)
            found = {"engaged": engaged, "rating": rating}
        # The trunk is trained on inputs of its own, which say nothing of what was shown.
        if self.actions is not None and "rates" in inputs:
            found["actions"] = self.action_logs(user, inputs, training=training)
        return found

    def action_logs(
        self, user: dict[str, Tensor], inputs: dict[str, Tensor], training: bool = False
    ) -> Tensor:
        """What the action heads say, as `heads` gives it; of a ranker that has them."""
        assert self.actions is not None
        return self.actions.expected(self.actions({**inputs, **user}, training=training))

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
