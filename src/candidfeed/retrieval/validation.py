"""How well scores rank a validation part of train: what every choice of stage one is judged by."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.factorise import side_by_side

NDCG_K = 50
TOP_K = 100
_MAX_USERS = 2_500
# Above this many scores fewer users are asked for: a choice takes some thirty looks.
_MAX_PAIRS = 40_000_000
_USERS_AT_ONCE = 256
# Of products with many items: 16 MiB of scores at once.
_ITEMS_AT_ONCE, _USERS_OF_BLOCK = 65_536, 64
_ROUNDING = np.float32(1e-6)

Floats = NDArray[np.float32]
Rows = NDArray[np.integer]
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
        ndcg: nDCG, at NDCG_K unless said otherwise, with known items removed, mean over users.
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


def rank(scores: Scores, asked: Asked, *, ndcg_k: int | None = None) -> Ranked:
    """Ties are broken by row.

    Args:
        ndcg_k: how long a list `Ranked.ndcg` is of; NDCG_K where None.
    """
    ndcg_k = NDCG_K if ndcg_k is None else ndcg_k
    ndcg = top = top_seen = 0.0
    n_users = n_targets = 0
    for part, target, known in asked.parts:
        counts = target.sum(axis=1)
        user, place, place_seen = _places(scores(part), target, known)
        top += np.count_nonzero(place < TOP_K)
        top_seen += np.count_nonzero(place_seen < TOP_K)
        ndcg += (_gains(user, place, len(part), ndcg_k) / _ideal_gains(counts, ndcg_k)).sum()
        n_users += np.count_nonzero(counts)
        n_targets += counts.sum()
    at_least_one = max(1, n_targets)
    return Ranked(ndcg / max(1, n_users), top / at_least_one, top_seen / at_least_one)


def ndcg_of_vectors(
    users: Floats, items: Floats, *, known: sp.csr_matrix, target: sp.csr_matrix
) -> float:
    """nDCG@NDCG_K of inner products, as `rank` gives it, however many items there are.

    No row of scores is ever held: the items above each target are counted a block at a time.

    Args:
        users: float32 [b, dim].
        items: float32 [n_items, dim].
        known, target: of these users, CSR [b, n_items].
    """
    wanted = sp.coo_matrix(target - target.multiply(known))
    wanted.eliminate_zeros()
    order = np.lexsort((wanted.col, wanted.row))
    user, item = wanted.row[order], wanted.col[order]
    if not len(user):
        return 0.0
    own, wanted_items = users[user], items[item]
    score = np.einsum("nd,nd->n", own, wanted_items)
    # A product of matrices rounds in another way: a target must not stand below itself.
    lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(wanted_items, axis=1)
    score += _ROUNDING * lengths
    starts = np.searchsorted(user, np.arange(len(users) + 1))
    place = _n_above(users, items, score, starts) - _n_known_above(
        users, items, known, score, starts
    )
    is_asked = np.diff(starts) > 0
    counts = np.diff(starts)[is_asked]
    gained = _gains(user, place, len(users), NDCG_K)[is_asked] / _ideal_gains(counts, NDCG_K)
    return float(gained.mean())


def _n_above(users: Floats, items: Floats, score: Floats, starts: Rows) -> NDArray[np.int64]:
    """How many items score higher for its user than each target; user u has starts[u:u + 2]."""

    def count(first: int) -> NDArray[np.int64]:
        block = items[first : first + _ITEMS_AT_ONCE].T
        found = np.zeros(len(score), np.int64)
        for start in range(0, len(users), _USERS_OF_BLOCK):
            scores = users[start : start + _USERS_OF_BLOCK] @ block
            for user, row in enumerate(scores, start):
                for one in range(starts[user], starts[user + 1]):
                    found[one] = np.count_nonzero(row > score[one])
        return found

    with side_by_side() as pool:
        counts = list(pool.map(count, range(0, len(items), _ITEMS_AT_ONCE)))
    return np.sum(counts, axis=0)


def _n_known_above(
    users: Floats, items: Floats, known: sp.csr_matrix, score: Floats, starts: Rows
) -> NDArray[np.int64]:
    """The same among the items that the user is known to have touched."""
    found = np.zeros(len(score), np.int64)
    for user in np.flatnonzero(np.diff(starts)):
        touched = items[known.indices[known.indptr[user] : known.indptr[user + 1]]] @ users[user]
        own = slice(starts[user], starts[user + 1])
        found[own] = np.count_nonzero(touched > score[own, None], axis=1)
    return found


def _places(
    scores: Floats, target: NDArray[np.bool_], known: NDArray[np.bool_]
) -> tuple[Rows, Rows, Rows]:
    """Of each target that may be among its row's TOP_K best: row, place, place with known items.

    The best place is 0. A target that is not among the TOP_K best may get a place too low, but
    none below TOP_K.
    """
    n_items = scores.shape[1]
    # Known items can push a target no further down than there are of them.
    k = min(TOP_K + int(known.sum(axis=1).max(initial=0)), n_items)
    # Values are parted several times faster than their places.
    best = np.partition(scores, n_items - k, axis=1)[:, n_items - k :]
    least = best.min(axis=1, keepdims=True)
    user, item = np.nonzero(target & (scores >= least))
    score = scores[user, item][:, None]
    place_seen = np.count_nonzero(best[user] > score, axis=1)
    of_known = _padded(scores, known)[user]
    place = place_seen - np.count_nonzero(of_known > score, axis=1)
    is_tied = np.count_nonzero(best[user] == score, axis=1) > 1
    for one in np.flatnonzero(is_tied | (score == least[user])[:, 0]):
        # Equal ones stand by row.
        before = scores[user[one], : item[one]] == score[one]
        place_seen[one] += np.count_nonzero(before)
        place[one] += np.count_nonzero(before & ~known[user[one], : item[one]])
    return user, place, place_seen


def _padded(scores: Floats, known: NDArray[np.bool_]) -> Floats:
    """The scores of each row's known items, padded with -inf at the end."""
    counts = known.sum(axis=1)
    padded = np.full((len(scores), counts.max(initial=0)), -np.inf, np.float32)
    padded[np.arange(padded.shape[1]) < counts[:, None]] = scores[known]
    return padded


def _gains(user: Rows, place: Rows, n_users: int, k: int) -> NDArray[np.float64]:
    """Discounted gain of each user's hits among the k best, [n_users]."""
    is_in = place < k
    gains = 1.0 / np.log2(place[is_in] + 2)
    return np.bincount(user[is_in], weights=gains, minlength=n_users).astype(np.float64)


def _ideal_gains(counts: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """What the best order of as many targets gains; that of one where there are none."""
    gains = np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))
    return gains[np.clip(counts, 1, k) - 1]
