"""Which dense features the engagement head may read: decided on lists that it has not learned."""

from collections.abc import Callable
from dataclasses import dataclass

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
# From these a head that reads one score has learned all that it can.
_ENOUGH_LISTS = 2_000
# Heads that learned fewer lists are not yet alike: what one says is of another scale than the next.
_LEAST_SAYING = 100

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


@dataclass(frozen=True)
class FeatureChoice:
    """What was chosen, and what heads that read it say of lists of users they have not learned.

    Attributes:
        name: in READABLE.
        said: logits of the lists that were asked about, float32 [m, c]; None where there are fewer
            than _LEAST_SAYING lists to learn from.
    """

    name: str
    said: Floats | None


def choose_features(
    training: Callable[[EngagedHead], HeadTraining],
    dense: Floats,
    engaged: Floats,
    user: NDArray[np.integer],
    *,
    asked: Floats,
    asked_user: NDArray[np.integer],
    n_epochs: int,
    least_gain_se: float,
    seed: int,
) -> FeatureChoice:
    """The features whose head orders lists that it has not learned best (nDCG@10).

    The lists of each third of the users are ordered by a head that learned the others'.

    Args:
        training: of a new head on all the lists.
        dense: float32 [n, c, f].
        engaged: float32 [n, c]; 1, 0, or -1 where padded.
        user: row of each list's user, int [n].
        asked: further lists that the heads are asked about, float32 [m, c', f].
        asked_user: row of each such list's user, int [m].
        least_gain_se: by how many standard errors of the paired difference a richer set must be
            better: the held-out lists are few.
    """
    users, owner = np.unique(user, return_inverse=True)
    if len(dense) < _MIN_LISTS or len(users) < _N_PARTS:
        return FeatureChoice("retrieval", None)
    part = np.random.default_rng(seed).permutation(len(users)) % _N_PARTS
    # Whoever has no list to learn may be asked of any head.
    asked_part = part[np.minimum(np.searchsorted(users, asked_user), len(users) - 1)]
    # Before the layers are made: they draw their first weights, and what dropout drops, from it.
    keras.utils.set_random_seed(seed)
    trained = training(EngagedHead(width=32, dropout=0.3))

    def held_out(name: str, most: int | None = None) -> tuple[Floats, Floats]:
        logits = np.empty(engaged.shape, np.float32)
        said = np.empty(asked.shape[:2], np.float32)
        for each in range(_N_PARTS):
            held, learned = part[owner] == each, np.flatnonzero(part[owner] != each)[:most]
            trained.fit(
                dense[learned], engaged[learned], reads=reads(name), n_epochs=n_epochs, seed=seed
            )
            logits[held] = trained.logits(dense[held])
            said[asked_part == each] = trained.logits(asked[asked_part == each])
        return logits, said

    chosen, said = "retrieval", None
    reached = list_ndcg(dense[..., DENSE_FEATURES.index("tower_score")], engaged)
    for name in ("stage one", "all"):
        logits, also_said = held_out(name)
        ndcg = list_ndcg(logits, engaged)
        gained = np.bincount(owner, weights=ndcg - reached)
        # Users are drawn, not lists: those of one user hang together.
        if gained.mean() > least_gain_se * gained.std() / np.sqrt(len(users)):
            chosen, reached, said = name, ndcg, also_said
    if len(dense) < _LEAST_SAYING:
        return FeatureChoice(chosen, None)
    return FeatureChoice(chosen, held_out(chosen, _ENOUGH_LISTS)[1] if said is None else said)


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
