"""Draws of a Bayesian factorisation as a part of the ranker: a distribution over rating levels."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.ranking.posterior import Draws, FoldIn

Tensor = Any
# Keras' functions are typed as if they could return None.
ops: Any = keras.ops
# Share of the posterior in the mix with the taste trunk, for a user whose ratings were learned from
# and for another. MSE on a validation part of train, MovieLens-100K: .7940, .7924, .7919 and .7924
# at .5, .6, .7 and .8 (`keras-notebook`); .8988, .8947 and .8988 at .3, .5 and .7 (who is new under
# `temporal`).
KNOWN_SHARE, NEW_SHARE = 0.7, 0.5


@keras.saving.register_keras_serializable("candidfeed")
class PosteriorHead(keras.layers.Layer):
    """Probability of each rating level by the draws of `posterior`, which are its weights.

    The utility of a candidate is taken as normal, with the mean and the variance that it has over
    the draws: one distribution to integrate instead of one for each draw. Nothing here is trained
    by gradients; before `take` the head has no share in the mix.

    Inputs: those of `Ranker`. Output: float32 [batch, candidates, levels].
    """

    def __init__(
        self,
        *,
        n_users: int,
        n_items: int,
        n_user_ids: int,
        n_levels: int,
        n_draws: int,
        dim: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = {"n_users": n_users, "n_items": n_items, "n_user_ids": n_user_ids,
                      "n_levels": n_levels, "n_draws": n_draws, "dim": dim}  # fmt: skip

    def build(self, input_shape: Any = None) -> None:
        n_draws, width = self.sizes["n_draws"], self.sizes["dim"] + 1
        n_users, n_items = self.sizes["n_users"], self.sizes["n_items"]

        def table(name: str, *shape: int) -> Any:
            return self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name)

        # A row holds the draws of its first number, then those of the second: products of two rows
        # are added up draw by draw, side by side. The last numbers are biases.
        self.users = table("users", n_users + 1, width * n_draws)
        self.items = table("items", n_items + 1, width * n_draws)
        self.shown = table("history_shown", n_items + 1, width * n_draws)
        self.user_features = table("user_features", self.sizes["n_user_ids"], width * n_draws)
        self.user_mean = table("user_mean", width * n_draws)
        # What an unknown user's ratings say of them, in place of a row of their own.
        self.valued = table("history_valued", n_items + 1, width * n_draws)
        self.tone_gain = table("tone_gain", n_draws)
        self.is_known = table("is_known", n_users + 1)
        self.user_noise = table("user_noise", n_users + 1, n_draws)
        self.item_noise = table("item_noise", n_items + 1, n_draws)
        self.cuts = table("cuts", self.sizes["n_levels"] - 1)
        self.shares = table("shares", 2)
        self.built = True

    def take(
        self,
        draws: Draws,
        feature_links: NDArray[np.float32],
        unknown: FoldIn,
        learned_from: NDArray[np.bool_],
    ) -> None:
        """Hold these draws.

        Args:
            feature_links: the second of `draws.user_links`, float32 [draws, n_user_ids, dim + 1].
            learned_from: which users' ratings the draws come from, bool [n_users].
        """
        own = draws.users * learned_from[None, :, None]
        self.users.assign(_with_padding(_by_number(own)))
        self.items.assign(_with_padding(_by_number(draws.items)))
        self.shown.assign(_with_padding(_by_number(draws.user_links[0])))
        self.user_features.assign(_by_number(feature_links))
        self.user_mean.assign(_by_number(draws.user_mean[:, None])[0])
        self.valued.assign(_with_padding(_by_number(unknown.tone_links)))
        self.tone_gain.assign(unknown.tone_gain)
        self.is_known.assign(np.append(learned_from, False).astype(np.float32))
        self.user_noise.assign(_with_padding((draws.user_noise * learned_from).T))
        self.item_noise.assign(_with_padding(draws.item_noise.T))
        self.cuts.assign(draws.cuts.mean(axis=0))
        self.shares.assign(np.array([NEW_SHARE, KNOWN_SHARE], np.float32))

    def call(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.levels(self.user_part(inputs), self.item_part(inputs))

    def user_part(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What does not depend on the candidate, float32 [batch, .] each.

        `posterior_share` is the head's own in the mix, [batch, 1]; 0 before there are draws.
        """
        known = ops.take(self.is_known, inputs["user"], axis=0)[:, None]
        return {
            "posterior_vector": self._user_vectors(inputs, known),
            "posterior_noise": ops.take(self.user_noise, inputs["user"], axis=0),
            "posterior_share": self.shares[0] + known * (self.shares[1] - self.shares[0]),
        }

    def item_part(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What depends on the candidate alone, float32 [batch, candidates, .] each."""
        return {
            "posterior_vector": ops.take(self.items, inputs["item"], axis=0),
            "posterior_noise": ops.take(self.item_noise, inputs["item"], axis=0),
        }

    def levels(self, user: dict[str, Tensor], item: dict[str, Tensor]) -> Tensor:
        """float32 [batch, candidates, levels], of the two parts."""
        width = self.sizes["dim"] + 1
        *left, left_bias = ops.split(user["posterior_vector"][:, None], width, axis=-1)
        *right, right_bias = ops.split(item["posterior_vector"], width, axis=-1)
        utility = left_bias + right_bias
        for one, other in zip(left, right, strict=True):
            utility = utility + one * other
        noise = user["posterior_noise"][:, None] + item["posterior_noise"]
        mean = ops.mean(utility, axis=-1, keepdims=True)
        squares = ops.square(utility - mean) + ops.exp(2.0 * noise)
        deviation = ops.sqrt(2.0 * ops.mean(squares, axis=-1, keepdims=True))
        below = 0.5 * (1.0 + ops.erf((self.cuts - mean) / deviation))
        edge = ops.ones_like(below[..., :1])
        cumulative = ops.concatenate([0.0 * edge, below, edge], axis=-1)
        return cumulative[..., 1:] - cumulative[..., :-1]

    def _user_vectors(self, inputs: dict[str, Tensor], known: Tensor) -> Tensor:
        """Vectors and biases of the users, float32 [batch, (dim + 1) * draws]."""
        shown, valued, count = self._history_sums(inputs)
        scale = 1.0 / ops.sqrt(ops.maximum(count, 1.0))
        bag = ops.take(self.user_features, inputs["user_feature_ids"], axis=0)
        bag = ops.sum(bag * inputs["user_feature_weights"][..., None], axis=-2)
        expected = self.user_mean + bag + shown * scale
        own = ops.take(self.users, inputs["user"], axis=0)
        bias = inputs["user_tone"][:, None] * self.tone_gain
        before = ops.zeros_like(expected[:, : -self.sizes["n_draws"]])
        told = valued * scale + ops.concatenate([before, bias], axis=-1)
        return expected + own + (1.0 - known) * told

    def _history_sums(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over each history, [batch, width * draws] twice, and its length, [batch, 1]."""
        history, tone = inputs["history"], inputs["history_tone"]
        real = ops.cast(history < self.sizes["n_items"], "float32")
        # Products of matrices: a twentieth of the time of sums along an axis.
        shown = ops.matmul(real[:, None], ops.take(self.shown, history, axis=0))[:, 0]
        valued = ops.matmul(tone[:, None], ops.take(self.valued, history, axis=0))[:, 0]
        return shown, valued, ops.sum(real, axis=1, keepdims=True)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.sizes}


def _by_number(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """[draws, n, width] to [n, width * draws], the draws of each number side by side."""
    n_draws, n, width = vectors.shape
    return vectors.transpose(1, 2, 0).reshape(n, width * n_draws)


def _with_padding(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """One more row of zeros: an unknown user, or an item that is padding."""
    return np.pad(rows, ((0, 1), (0, 0)))
