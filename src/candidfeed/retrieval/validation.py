"""How well scores rank a validation part of train: what every choice of stage one is judged by."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions

NDCG_K = 50
TOP_K = 100
_MAX_USERS = 2_500
# Above this many scores fewer users are asked for: a choice takes some thirty looks.
_MAX_PAIRS = 40_000_000
_USERS_AT_ONCE = 512

Floats = NDArray[np.float32]
# Scores of users' rows, float32 [len(users), n_items].
Scores = Callable[[NDArray[np.int32]], Floats]


@dataclass(frozen=True)
class Asked:
    """Users who are asked for: what is known of them, and what they did next."""

    known: Interactions
    target: Interactions

    @cached_property
    def users(self) -> NDArray[np.int32]:
        """Those who are asked for; of very many, the first ones."""
        limit = min(_MAX_USERS, max(1, _MAX_PAIRS // self.target.n_items))
        return np.unique(self.target.user)[:limit].astype(np.int32)

    @cached_property
    def parts(self) -> list[tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]]:
        """Users with their targets and their known items, bool [b, n_items] both."""
        parts = []
        for start in range(0, len(self.users), _USERS_AT_ONCE):
            users = self.users[start : start + _USERS_AT_ONCE]
            known = self.known.matrix[users].toarray() > 0
            parts.append((users, (self.target.matrix[users].toarray() > 0) & ~known, known))
        return parts


@dataclass(frozen=True)
class Ranked:
    """How scores rank the targets that are not known already; 0 where there are none.

    Attributes:
        ndcg: nDCG@NDCG_K with known items removed, mean over users.
        top: share of targets among the TOP_K best items, known items removed.
        top_seen: the same with known items left in.
    """

    ndcg: float
    top: float
    top_seen: float

    @property
    def worth(self) -> float:
        """What stage one is chosen by: order, and what is found at all.

        A third of the latter is asked with known items left in: an index that is searched without
        a list of what is known should not fill up with it.
        """
        return self.ndcg + 0.5 * self.top + 0.25 * self.top_seen


def rank(scores: Scores, asked: Asked) -> Ranked:
    """Ties are broken by row."""
    ndcg = top = top_seen = 0.0
    n_users = n_targets = 0
    for part, target, known in asked.parts:
        rated = scores(part)
        k = min(TOP_K, rated.shape[1])
        top_seen += np.take_along_axis(target, _best(rated, k), axis=1).sum()
        best = _best(np.where(known, -np.inf, rated), k)
        hits = np.take_along_axis(target, best, axis=1)
        top += hits.sum()
        counts = target.sum(axis=1)
        ndcg += _ndcg(hits[:, :NDCG_K], counts).sum()
        n_users += np.count_nonzero(counts)
        n_targets += counts.sum()
    at_least_one = max(1, n_targets)
    return Ranked(ndcg / max(1, n_users), top / at_least_one, top_seen / at_least_one)


def _best(scores: Floats, k: int) -> NDArray[np.intp]:
    """The k best columns of each row, best first."""
    if k == scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    best = np.sort(np.argpartition(-scores, k, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def _ndcg(hits: NDArray[np.bool_], counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """One entry a row; 0 for a row without targets."""
    discounts = 1.0 / np.log2(np.arange(2, hits.shape[1] + 2))
    ideal = np.cumsum(discounts)[np.clip(counts, 1, len(discounts)) - 1]
    return (hits * discounts).sum(axis=1) / ideal
