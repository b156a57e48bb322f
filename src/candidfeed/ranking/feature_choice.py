"""Which dense features the engagement head may read: decided on lists that it has not learned."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.ranking.inputs import DENSE_FEATURES
from candidfeed.ranking.ranker import EngagedHead, EngagedLoss

Floats = NDArray[np.float32]
_CHOSEN_BY_K = 10
_MIN_LISTS = 30
_LEAST_GAIN_SE = 2.0
_N_PARTS = 3
# Keras takes a number here too, but is typed for text alone.
_QUIET: dict[str, Any] = {"verbose": 0}

READABLE = {
    "all": frozenset(DENSE_FEATURES),
    "stage one": frozenset({"tower_score", "neighbour_score"}),
    "retrieval": frozenset({"tower_score"}),
}
"""The sets to choose from, richest first. With few lists of a drifting log the richest ranks worse
than retrieval alone (ML-100K, temporal: nDCG@10 .250 against .274), with many it ranks best."""


def reads(name: str) -> Floats:
    """1 for each dense feature that the set has, 0 for the others, float32 [f]."""
    return np.array([feature in READABLE[name] for feature in DENSE_FEATURES], np.float32)


def choose_features(
    dense: Floats,
    engaged: Floats,
    *,
    n_epochs: int,
    lists_per_batch: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
) -> str:
    """The name in READABLE whose head orders lists that it has not learned best (nDCG@10).

    Each third of the lists is ordered by a head that learned the other two.

    A richer set must be better by two standard errors of the paired difference: the held-out
    lists are few, and the poorer set drifts less.

    Args:
        dense: float32 [n, c, f].
        engaged: float32 [n, c]; 1, 0, or -1 where padded.
    """
    if len(dense) < _MIN_LISTS:
        return "retrieval"
    tower = dense[..., DENSE_FEATURES.index("tower_score")]
    chosen, reached = "retrieval", list_ndcg(tower, engaged)
    # Before the layers are made: they draw their first weights, and what dropout drops, from it.
    keras.utils.set_random_seed(seed)
    head = EngagedHead(width=32, dropout=0.3)
    model = keras.Sequential([keras.Input(dense.shape[1:]), head])
    head.scale.adapt(dense[engaged >= 0][None])
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, loss=EngagedLoss())
    changing = [*model.variables, *optimizer.variables]
    start = [keras.ops.convert_to_numpy(variable) for variable in changing]
    order = np.random.default_rng(seed).permutation(len(dense))
    for name in ("stage one", "all"):
        ndcg = np.empty(len(dense))
        for third in range(_N_PARTS):
            for variable, first in zip(changing, start, strict=True):
                variable.assign(first)
            head.reads.assign(reads(name))
            keras.utils.set_random_seed(seed)
            held = order[third::_N_PARTS]
            learned = np.setdiff1d(order, held)
            # Whole batches only: what is compiled once serves all.
            learned = learned[: max(1, len(learned) // lists_per_batch) * lists_per_batch]
            model.fit(
                dense[learned], engaged[learned],
                batch_size=lists_per_batch, epochs=n_epochs, **_QUIET,
            )  # fmt: skip
            ndcg[held] = list_ndcg(
                model.predict(dense[held], batch_size=64, **_QUIET), engaged[held]
            )
        gain = ndcg - reached
        if gain.mean() > _LEAST_GAIN_SE * gain.std() / np.sqrt(len(gain)):
            chosen, reached = name, ndcg
    return chosen


def list_ndcg(scores: Floats, engaged: Floats) -> NDArray[np.float64]:
    """nDCG@10 of each list by these scores, float64 [n]; padding (-1) ranks last.

    Args:
        scores: float32 [n, c].
        engaged: as in `choose_features`.
    """
    k = min(_CHOSEN_BY_K, scores.shape[1])
    best = np.argsort(-np.where(engaged < 0, -np.inf, scores), axis=1, kind="stable")[:, :k]
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    gains = (np.take_along_axis(engaged, best, axis=1) > 0) * discounts
    n_hits = np.clip((engaged > 0).sum(axis=1), 1, k)
    return gains.sum(axis=1) / np.cumsum(discounts)[n_hits - 1]
