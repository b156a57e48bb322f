"""Ranking metrics, exact over all items: where each test positive ranks among its competitors.

Ties count as average rank: a target's rank is 1 + the items scored higher + half of the other items
scored the same. So a model that gives every item one score gains nothing by it. docs/metrics.md
defines each metric.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import log2
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.errors import DataError
from candidfeed.evaluation.bootstrap import SumFigure, mean_over_users, pooled
from candidfeed.evaluation.list_metrics import (
    LIST_LENGTH,
    TopLists,
    distinct_pairs,
    top_rows,
)

TOP_KS = (1, 5, 10, 50, 100)
KS = (5, 10, 20, 50, 100)
CHUNK_BYTES = 256 * 2**20
# Above this many items users are ranked side by side: NumPy lets go of the lock on long rows.
_LONG_ROW = 50_000


class Scorer(Protocol):
    """A model that can be ranked by: how well does each item suit each of these users?"""

    def scores(self, users: NDArray[np.int32]) -> NDArray[np.float32]:
        """Scores of all items, float32 [len(users), n_items]; higher is better.

        The array is read, never written. NaN and infinite scores rank last and are counted as
        faults: a model that ranks some candidates only gives the other items lower finite ones.
        """
        ...


@dataclass(frozen=True)
class Targets:
    """Pairs to be predicted, one entry each, in order of user.

    Attributes:
        users: rows of the users who are asked for, ascending, int32 [n_users].
        owner: each pair's place in `users`, int64 [n_pairs].
        item: row of each pair's item, int32 [n_pairs].
        rank: average rank of the pair's item among its competitors, float64 [n_pairs].
    """

    users: NDArray[np.int32]
    owner: NDArray[np.int64]
    item: NDArray[np.int32]
    rank: NDArray[np.float64]

    def where(self, keep: NDArray[np.bool_]) -> "Targets":
        """Only these pairs, and only the users that still have one."""
        places, owner = np.unique(self.owner[keep], return_inverse=True)
        return Targets(self.users[places], owner, self.item[keep], self.rank[keep])

    def ranked(self, rank: NDArray[np.float64]) -> "Targets":
        """The same pairs in another order; a rank may be infinite: never listed."""
        return replace(self, rank=rank)

    def sum_by_user(self, values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
        """Sum over each user's pairs, float64 [n_users]."""
        sums = np.bincount(self.owner, weights=values, minlength=len(self.users))
        return sums.astype(np.float64, copy=False)


@dataclass(frozen=True)
class RankingFigures:
    """How one model ranks, per user, so that intervals and paired differences can be had later.

    Attributes:
        figures: by metric name. `top@k` is pooled over targets, the others are means over users.
        lists: each user's best items, what the user is known to have touched left out.
        targets: the pairs that can be recommended, with their ranks.
        n_users: users with at least one target.
        n_targets: distinct (user, item) pairs to be predicted.
        n_known_targets: those of them that the user is known to have touched. They can't be
            recommended, so only `top@k/seen` asks for them.
        n_non_finite: scores that were NaN or infinite.
    """

    figures: dict[str, SumFigure]
    lists: TopLists
    targets: Targets
    n_users: int
    n_targets: int
    n_known_targets: int
    n_non_finite: int

    def mean(self, metric: str) -> float:
        return self.figures[metric].value()


def evaluate_ranking(
    scorer: Scorer,
    *,
    known: sp.csr_matrix,
    test: sp.csr_matrix,
    ks: tuple[int, ...] = KS,
    top_ks: tuple[int, ...] = TOP_KS,
    list_length: int = LIST_LENGTH,
    chunk_bytes: int = CHUNK_BYTES,
) -> RankingFigures:
    """Rank every test positive among all items, for each user who has one.

    Args:
        known: what each user is known to have touched when asked for, CSR [n_users, n_items]. Every
            stored entry that is not 0 counts, once.
        test: what is to be predicted, CSR of the same shape, read likewise.
        ks: cut-offs of the metrics that are averaged over users.
        top_ks: cut-offs of `top@k` and `top@k/seen`.
        chunk_bytes: how large a block of scores may get. A few such blocks are held at once,
            the scorer's own included; the figures do not depend on it.

    Raises:
        DataError: nothing is to be predicted.
        ValueError: the shapes of known and test or of the scores do not fit, or a cut-off is < 1.
    """
    _check((*ks, *top_ks, list_length), known, test)
    known, test = distinct_pairs(known), distinct_pairs(test)
    if test.nnz == 0:
        raise DataError("evaluate: the test part holds nothing to predict; choose another protocol")
    users = np.flatnonzero(np.diff(test.indptr)).astype(np.int32)
    ranked = _rank(scorer, users, known, test, list_length=list_length, chunk_bytes=chunk_bytes)
    owner = np.repeat(np.arange(len(users)), np.diff(test.indptr)[users])
    is_known = _stored_in(known, test)
    item = test.indices.astype(np.int32)
    unseen = Targets(users, owner, item, ranked.rank_unseen).where(~is_known)
    seen = Targets(users, owner, item, ranked.rank_seen)
    return RankingFigures(
        figures=_top_figures(unseen, top_ks, "")
        | _top_figures(seen, top_ks, "/seen")
        | figures_of_users(unseen, ks),
        lists=TopLists(users, ranked.lists),
        targets=unseen,
        n_users=len(users),
        n_targets=test.nnz,
        n_known_targets=int(is_known.sum()),
        n_non_finite=ranked.n_non_finite,
    )


def _check(cut_offs: tuple[int, ...], known: sp.csr_matrix, test: sp.csr_matrix) -> None:
    if min(cut_offs) < 1:
        raise ValueError(f"ranking: cut-offs must be at least 1, not {min(cut_offs)}")
    if known.shape != test.shape:
        raise ValueError(f"ranking: known is {known.shape}, test is {test.shape}; both must agree")


@dataclass(frozen=True)
class _Ranked:
    """Ranks aligned with the stored entries of test, and one list per user asked for.

    `rank_seen` is among all items; `rank_unseen` among those that the user has not touched, and
    without meaning for a target that the user has. Both float64 [n_pairs].
    """

    rank_seen: NDArray[np.float64]
    rank_unseen: NDArray[np.float64]
    lists: NDArray[np.int32]
    n_non_finite: int


def _rank(
    scorer: Scorer,
    users: NDArray[np.int32],
    known: sp.csr_matrix,
    test: sp.csr_matrix,
    *,
    list_length: int,
    chunk_bytes: int,
) -> _Ranked:
    rank_seen, rank_unseen = np.empty(test.nnz), np.empty(test.nnz)
    lists = np.full((len(users), list_length), -1, dtype=np.int32)
    n_non_finite = 0
    n_items = test.get_shape()[1]

    def rank_user(place: int, user: int, row: NDArray[np.floating]) -> None:
        pairs = slice(test.indptr[user], test.indptr[user + 1])
        touched = known.indices[known.indptr[user] : known.indptr[user + 1]]
        targets = row[test.indices[pairs]]
        # The target itself stands among the items at or above it, hence + 1 and not + 2.
        twice = 1 + _twice_above(row, targets)
        rank_seen[pairs] = twice / 2
        rank_unseen[pairs] = (twice - _twice_above(row[touched], targets)) / 2
        listed = top_rows(row, touched, list_length)
        lists[place, : len(listed)] = listed

    place = 0
    with ThreadPoolExecutor() as pool:
        # A short row is ranked in less time than handing it to a thread takes.
        run = map if n_items < _LONG_ROW else pool.map
        for chunk, scores, n_bad in _score_chunks(scorer, users, n_items, chunk_bytes):
            n_non_finite += n_bad
            places = range(place, place + len(chunk))
            for _ in run(rank_user, places, chunk, scores):
                place += 1
    return _Ranked(rank_seen, rank_unseen, lists, n_non_finite)


def _score_chunks(
    scorer: Scorer, users: NDArray[np.int32], n_items: int, chunk_bytes: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.floating], int]]:
    """Users, their scores with -inf for what is not finite, and how many those were."""
    step = max(1, chunk_bytes // (4 * n_items))
    for start in range(0, len(users), step):
        chunk = users[start : start + step]
        scores = np.asarray(scorer.scores(chunk))
        if scores.shape != (len(chunk), n_items):
            wanted = (len(chunk), n_items)
            raise ValueError(f"scores: the model returned shape {scores.shape}, not {wanted}")
        if not np.issubdtype(scores.dtype, np.floating):
            scores = scores.astype(np.float64)
        finite = np.isfinite(scores)
        n_bad = finite.size - int(np.count_nonzero(finite))
        yield chunk, np.where(finite, scores, -np.inf) if n_bad else scores, n_bad


def _twice_above(
    values: NDArray[np.floating], thresholds: NDArray[np.floating]
) -> NDArray[np.int64]:
    """For each threshold: values above it + values at or above it, int64 [len(thresholds)].

    Counts for a few thresholds take one pass each, for many it pays to sort first. The weights
    were measured on 1,682 to 1,000,000 values; a histogram by thresholds lost to both.
    """
    n, t = len(values), len(thresholds)
    if t * (n + 8_000) < 5 * n * log2(n + 1):
        counts = [np.count_nonzero(values > x) + np.count_nonzero(values >= x) for x in thresholds]
        return np.array(counts, dtype=np.int64)
    ascending = np.sort(values)
    not_above = np.searchsorted(ascending, thresholds, side="right")
    below = np.searchsorted(ascending, thresholds, side="left")
    return 2 * n - not_above - below


def _top_figures(targets: Targets, ks: tuple[int, ...], suffix: str) -> dict[str, SumFigure]:
    """Share of all targets that rank in the top k, each asked for by itself."""
    n_targets = targets.sum_by_user(np.ones(len(targets.owner)))
    return {
        f"top@{k}{suffix}": pooled(targets.users, targets.sum_by_user(targets.rank <= k), n_targets)
        for k in ks
    }


def figures_of_users(targets: Targets, ks: tuple[int, ...]) -> dict[str, SumFigure]:
    """Metrics of each user's whole list, averaged over users."""
    by_rank = np.lexsort((targets.rank, targets.owner))
    rank = targets.rank[by_rank]
    n_targets = targets.sum_by_user(np.ones(len(rank)))
    first = np.cumsum(n_targets).astype(np.int64) - n_targets.astype(np.int64)
    # The n-th best of a user's targets; sorting within users leaves `owner` as it is.
    nth = np.arange(len(rank)) - first[targets.owner] + 1
    values = {"mrr": 1.0 / rank[first]}
    for k in ks:
        values |= _values_at(k, rank, nth, n_targets, targets.sum_by_user)
    return {name: mean_over_users(targets.users, value) for name, value in values.items()}


def _values_at(
    k: int,
    rank: NDArray[np.float64],
    nth: NDArray[np.int64],
    n_targets: NDArray[np.float64],
    sum_by_user: Callable[[NDArray[np.float64] | NDArray[np.bool_]], NDArray[np.float64]],
) -> dict[str, NDArray[np.float64]]:
    """Each metric at k, float64 [n_users].

    Where more than k targets tie, all may have an average rank of k or less, yet a list of k
    holds k of them: without `nth <= k`, precision and ndcg could pass 1.
    """
    listed = (rank <= k) & (nth <= k)
    hits = sum_by_user(listed)
    gains = sum_by_user(np.where(listed, 1.0 / np.log2(1.0 + rank), 0.0))
    ideal = np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))
    precisions = sum_by_user(np.where(listed, nth / rank, 0.0))
    return {
        f"recall@{k}": hits / n_targets,
        f"precision@{k}": hits / k,
        f"ndcg@{k}": gains / ideal[np.minimum(n_targets.astype(np.int64), k) - 1],
        f"map@{k}": precisions / n_targets,
        f"hit@{k}": (hits > 0).astype(np.float64),
    }


def _stored_in(known: sp.csr_matrix, test: sp.csr_matrix) -> NDArray[np.bool_]:
    """Which of test's entries are also in known, bool [test.nnz]."""
    return np.isin(_pair_keys(test), _pair_keys(known), assume_unique=True)


def _pair_keys(matrix: sp.csr_matrix) -> NDArray[np.int64]:
    n_users, n_items = matrix.get_shape()
    return np.repeat(np.arange(n_users), np.diff(matrix.indptr)) * n_items + matrix.indices
