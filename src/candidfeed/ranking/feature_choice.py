"""Which dense features the engagement head may read: decided on lists that it has not learned."""

from collections.abc import Callable

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.ranking.engagement import HeadTraining
from candidfeed.ranking.inputs import DENSE_FEATURES
from candidfeed.ranking.ranker import EngagedHead

Floats = NDArray[np.float32]
_CHOSEN_BY_K = 10
_MIN_LISTS = 30
_N_PARTS = 3

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
    training: Callable[[EngagedHead], HeadTraining],
    dense: Floats,
    engaged: Floats,
    user: NDArray[np.integer],
    *,
    n_epochs: int,
    least_gain_se: float,
    seed: int,
) -> str:
    """The name in READABLE whose head orders lists that it has not learned best (nDCG@10).

    The lists of each third of the users are ordered by a head that learned the others'.

    Args:
        training: of a new head on all the lists.
        dense: float32 [n, c, f].
        engaged: float32 [n, c]; 1, 0, or -1 where padded.
        user: row of each list's user, int [n].
        least_gain_se: by how many standard errors of the paired difference a richer set must be
            better: the held-out lists are few.
    """
    if len(dense) < _MIN_LISTS:
        return "retrieval"
    tower = dense[..., DENSE_FEATURES.index("tower_score")]
    chosen, reached = "retrieval", list_ndcg(tower, engaged)
    # Before the layers are made: they draw their first weights, and what dropout drops, from it.
    keras.utils.set_random_seed(seed)
    trained = training(EngagedHead(width=32, dropout=0.3))
    users, owner = np.unique(user, return_inverse=True)
    third = np.random.default_rng(seed).permutation(len(users))[owner] % _N_PARTS
    for name in ("stage one", "all"):
        ndcg = np.empty(len(dense))
        for each in range(_N_PARTS):
            held, learned = third == each, third != each
            trained.fit(
                dense[learned], engaged[learned], reads=reads(name), n_epochs=n_epochs, seed=seed
            )
            ndcg[held] = list_ndcg(trained.logits(dense[held]), engaged[held])
        gained = np.bincount(owner, weights=ndcg - reached)
        # Users are drawn, not lists: those of one user hang together.
        if gained.mean() > least_gain_se * gained.std() / np.sqrt(len(users)):
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
