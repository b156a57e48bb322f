"""What the lists look like, whether or not they hit: coverage, novelty, popularity, diversity.

A list is a user's best items without those the user is known to have touched; equal scores are put
in order of the item's row, so that a list is the same each time. docs/metrics.md defines each
metric.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.evaluation.bootstrap import (
    SumFigure,
    linearised,
    mean_over_users,
    pooled,
    relative_excess,
)
from candidfeed.retrieval.top_k import best_columns

LIST_LENGTH = 10
CHUNK_ENTRIES = 8_000_000


@dataclass(frozen=True)
class TopLists:
    """The first items of each user's ranking, best first.

    Attributes:
        users: rows of the users, distinct and ascending, int32 [n].
        items: rows of the items, int32 [n, k]; -1 after the last where there were fewer than k.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Items on each list, int64 [n]."""
        return np.count_nonzero(self.items >= 0, axis=1)

    def matrix(self, n_items: int) -> sp.csr_matrix:
        """Who is shown what: float64 CSR [n, n_items] of ones, row j for `users[j]`."""
        listed = self.items >= 0
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        ones = np.ones(starts[-1])
        return sp.csr_matrix((ones, self.items[listed], starts), shape=(len(self.users), n_items))


def top_rows(
    scores: NDArray[np.floating], excluded: NDArray[np.integer], k: int
) -> NDArray[np.intp]:
    """The k best of one user's items, best first, equal scores by ascending row.

    Args:
        scores: of all items, [n_items]; -inf marks what must not be listed.
        excluded: rows of further items that must not be listed.

    Returns:
        rows, intp [at most k]: fewer where fewer items are left.
    """
    open_scores = scores.copy()
    open_scores[excluded] = -np.inf
    best = best_columns(open_scores[None], k)[0]
    return best[open_scores[best] > -np.inf]


def evaluate_lists(
    lists: TopLists,
    *,
    train: sp.csr_matrix,
    known: sp.csr_matrix,
    item_vectors: sp.csr_matrix | NDArray[np.floating] | None = None,
) -> dict[str, SumFigure]:
    """Coverage, novelty, popularity lift and diversity of these lists.

    Args:
        train: who touched what in train, CSR [n_users, n_items]; gives each item's popularity.
        known: what each user is known to have touched when asked for, CSR of the same shape.
        item_vectors: what is known of each item, [n_items, d], sparse or dense (one column per
            genre or tag, say). Without it two items are alike as far as the same users touched
            them: the cosine of their columns in train.

    Returns:
        by metric name; no user with a list, or none with what a metric asks for, gives NaN.
    """
    train, known = distinct_pairs(train), distinct_pairs(known)
    n_items, k = train.get_shape()[1], lists.items.shape[1]
    vectors = sp.csr_matrix(train.T if item_vectors is None else item_vectors, dtype=np.float64)
    n_vectors = vectors.get_shape()[0]
    if n_vectors != n_items:
        raise ValueError(f"lists: {n_vectors} item vectors for {n_items} items")
    n_users_of = np.bincount(train.indices, minlength=n_items)
    n_train_users = int(np.count_nonzero(np.diff(train.indptr)))
    return {
        f"coverage@{k}": _coverage(lists, n_items),
        f"novelty@{k}": _novelty(lists, n_users_of, n_train_users),
        f"popularity-lift@{k}": _popularity_lift(lists, n_users_of, known),
        f"diversity@{k}": _diversity(lists, vectors),
    }


def _coverage(lists: TopLists, n_items: int) -> SumFigure:
    """Share of all items that at least one user is shown.

    A resample holds about 63 % of the users and so always covers less than all of them do; plain
    replicates would miss the figure. Hence the interval from what each user alone adds.
    """
    shown_to = np.bincount(lists.items[lists.items >= 0], minlength=n_items)
    only_here = (lists.items >= 0) & (shown_to[lists.items] == 1)
    covered = np.count_nonzero(shown_to) / n_items
    return linearised(lists.users, covered, only_here.sum(axis=1) / n_items)


def _novelty(lists: TopLists, n_users_of: NDArray[np.int64], n_train_users: int) -> SumFigure:
    """Mean self-information of the listed items, in bits, averaged over users with a list.

    One more user, who touched everything, is counted in: an item that nobody touched has a
    probability all the same.
    """
    p_item = (n_users_of + 1.0) / (n_train_users + 1.0)
    has_list = lists.lengths > 0
    bits = (lists.matrix(len(p_item)) @ -np.log2(p_item))[has_list]
    return mean_over_users(lists.users[has_list], bits / lists.lengths[has_list])


def _popularity_lift(
    lists: TopLists, n_users_of: NDArray[np.int64], known: sp.csr_matrix
) -> SumFigure:
    """Popularity of the lists over that of the same users' histories, less 1.

    Popularity is counted in users: dividing by all users of train would cancel out.
    """
    popularity = n_users_of.astype(np.float64)
    history = known[lists.users]
    n_history = np.diff(history.indptr)
    has_both = (n_history > 0) & (lists.lengths > 0)
    of_history = (history @ popularity)[has_both] / n_history[has_both]
    of_list = (lists.matrix(len(popularity)) @ popularity)[has_both] / lists.lengths[has_both]
    return pooled(lists.users[has_both], of_list, of_history, of_totals=relative_excess)


def _diversity(lists: TopLists, vectors: sp.csr_matrix) -> SumFigure:
    """1 - mean cosine over the pairs of a list, averaged over users with two items or more.

    The sum over ordered pairs is the squared length of the sum of the unit vectors, less the sum
    of their squared lengths: no pair is ever formed.
    """
    length = np.sqrt(_squared_lengths(vectors))
    scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    units = sp.csr_matrix(sp.diags_array(scale) @ vectors)
    shown = lists.matrix(len(length))
    squared_sum = np.concatenate([_squared_lengths(part @ units) for part in _parts(shown, units)])
    own = shown @ (length > 0).astype(np.float64)
    n_pairs = lists.lengths * (lists.lengths - 1.0)
    has_pair = n_pairs > 0
    cosine = (squared_sum - own)[has_pair] / n_pairs[has_pair]
    return mean_over_users(lists.users[has_pair], 1.0 - cosine)


def _parts(shown: sp.csr_matrix, units: sp.csr_matrix) -> Iterator[sp.csr_matrix]:
    """Blocks of lists whose items have CHUNK_ENTRIES entries in all, or one list."""
    entries = np.cumsum(shown @ np.diff(units.indptr).astype(np.float64))
    block = (entries // CHUNK_ENTRIES).astype(np.int64)
    edges = np.flatnonzero(np.diff(block, prepend=-1, append=-1))
    for start, stop in pairwise(edges):
        yield shown[start:stop]


def _squared_lengths(rows: sp.csr_matrix) -> NDArray[np.float64]:
    return np.asarray(rows.power(2).sum(axis=1)).ravel()


def distinct_pairs(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The entries that are not 0, each once as a 1.0, indices sorted; `matrix` is left alone."""
    matrix = sp.csr_matrix(matrix, dtype=np.float64, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    matrix.data[:] = 1.0
    return matrix
