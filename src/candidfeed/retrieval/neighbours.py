"""Item-to-item models: what is liked together. Both score a user from their history alone."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import cholesky, get_lapack_funcs, solve_triangular

from candidfeed.data.interactions import Interactions
from candidfeed.errors import DataError
from candidfeed.retrieval.popularity import Popular, popular_for_strangers

EASE_MAX_ITEMS = 20_000
# Of items, or of users where those are few. Beyond some 15,000 OpenBLAS' `potrf` breaks down, and
# the process with it, where it has several threads.
EASE_MAX_INVERTED = 12_000
# Pairs of items counted at once: bounds the memory of the sparse products to about 0.5 GiB.
_BLOCK_PAIRS = 2**24


@dataclass(frozen=True)
class ItemKnn:
    """Item neighbours by cosine, shrunk for pairs that few users share.

    sim(i, j) = |users of i and j| / (sqrt(|users of i| |users of j|) + shrink); an item keeps its
    k most similar others, equal ones by lower row; a user's score of an item is the sum over those
    of its neighbours that they touched. A user of whom nothing is known gets the popular order.

    Attributes:
        similarity: float32 CSR [n_items, n_items]; column j holds the neighbours of item j.
        known: what each user touched, CSR [n_users, n_items].

    Source: Ferrari Dacrema et al., RecSys 2019, section 3.1 (ItemKNN, binary data).
    """

    similarity: sp.csr_matrix
    known: sp.csr_matrix
    popular: Popular
    k: int
    shrink: float

    @classmethod
    def fit(cls, train: Interactions, *, known: Interactions, k: int, shrink: float) -> "ItemKnn":
        """
        Raises:
            ValueError: k < 1 or shrink < 0.
        """
        if k < 1 or shrink < 0:
            raise ValueError(f"item-knn needs k >= 1 and shrink >= 0, not {k} and {shrink}")
        return cls(
            similarity=_nearest(train.matrix, k=k, shrink=shrink),
            known=known.matrix,
            popular=Popular.fit(train),
            k=k,
            shrink=shrink,
        )

    @property
    def settings(self) -> dict[str, float]:
        return {"k": self.k, "shrink": self.shrink}

    def scores(self, users: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32 [len(users), n_items]; items that no neighbour of which was touched get 0."""
        touched = self.known[users]
        return popular_for_strangers((touched @ self.similarity).toarray(), touched, self.popular)


@dataclass(frozen=True)
class Ease:
    """The linear autoencoder with zero diagonal that has a closed form.

    A user of whom nothing is known gets the popular order.

    Attributes:
        weights: float32 [n_items, n_items]; a user's scores are their 0/1 row times these.
        known: what each user touched, CSR [n_users, n_items].
        l2: lambda of the paper.

    Source: Steck, WWW 2019, eq. 8.
    """

    weights: NDArray[np.float32]
    known: sp.csr_matrix
    popular: Popular
    l2: float

    @classmethod
    def fit(cls, train: Interactions, *, known: Interactions, l2: float) -> "Ease":
        """
        Raises:
            DataError: the log is too large, see `why_no_ease`.
            ValueError: l2 <= 0.
        """
        if l2 <= 0:
            raise ValueError(f"ease needs l2 > 0, not {l2}")
        refusal = why_no_ease(train)
        if refusal:
            raise DataError(refusal)
        return cls(_ease_weights(train.matrix, l2=l2), known.matrix, Popular.fit(train), l2)

    @property
    def settings(self) -> dict[str, float]:
        return {"l2": self.l2}

    def scores(self, users: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32 [len(users), n_items]."""
        touched = self.known[users]
        return popular_for_strangers(touched @ self.weights, touched, self.popular)


def why_no_ease(train: Interactions) -> str:
    """Why a log is too large for EASE; empty where it is not."""
    n_items, n_users = train.n_items, len(np.unique(train.user))
    size, what = (n_users, "users") if _has_few_users(n_users, n_items) else (n_items, "items")
    if n_items <= EASE_MAX_ITEMS and size <= EASE_MAX_INVERTED:
        return ""
    # The float64 matrix that is inverted in place, and float32 weights.
    need_gib = (size**2 * 8 + n_items**2 * 4) / 2**30
    return (
        f"ease on {n_items:,} items would invert a matrix of {size:,} {what} and need "
        f"{need_gib:.1f} GiB; it is limited to {EASE_MAX_INVERTED:,} of them and "
        f"{EASE_MAX_ITEMS:,} items"
    )


def _has_few_users(n_users: int, n_items: int) -> bool:
    return 2 * n_users < n_items


def _ease_weights(matrix: sp.csr_matrix, *, l2: float) -> NDArray[np.float32]:
    by_user = matrix[np.diff(matrix.indptr) > 0]
    n_users, n_items = (len(each.indptr) - 1 for each in (by_user, by_user.tocsc()))
    if _has_few_users(n_users, n_items):
        return _ease_weights_by_users(by_user, l2=l2)
    # float64 until the inverse is there: it loses half of its digits at small l2.
    gram = _dense_gram(matrix)
    gram[np.diag_indices_from(gram)] += l2
    factorise, invert = get_lapack_funcs(("potrf", "potri"), dtype=np.float64)
    gram, failed = factorise(gram, clean=1, overwrite_a=1)
    if not failed:
        gram, failed = invert(gram, overwrite_c=1)
    if failed:
        raise DataError(
            f"ease: the co-occurrence counts plus l2 = {l2} can't be inverted; raise l2"
        )
    diagonal = np.diag(gram).astype(np.float32)
    weights = gram.astype(np.float32)  # potri fills the upper half only
    del gram
    weights += np.triu(weights, 1).T
    weights /= -diagonal
    np.fill_diagonal(weights, 0)
    return np.ascontiguousarray(weights)


def _ease_weights_by_users(by_user: sp.csr_matrix, *, l2: float) -> NDArray[np.float32]:
    """The same from the inverse of a matrix of users, not of items (Woodbury's identity)."""
    dense = by_user.toarray().astype(np.float64)
    shared = dense @ dense.T
    shared[np.diag_indices_from(shared)] += l2
    half = solve_triangular(cholesky(shared, lower=True), dense, lower=True)
    of_others = (1.0 - np.square(half).sum(axis=0)).astype(np.float32)
    half = half.astype(np.float32)
    weights = (half.T @ half) / of_others
    np.fill_diagonal(weights, 0)
    return weights


def _dense_gram(matrix: sp.csr_matrix) -> NDArray[np.float64]:
    """How many users touched both items, float64 [n_items, n_items] in column order."""
    users_of = matrix.T.tocsr()
    n_items = len(users_of.indptr) - 1
    gram = np.empty((n_items, n_items), order="F")
    for start, stop in _blocks(users_of @ np.diff(matrix.indptr) + n_items):
        gram[:, start:stop] = (users_of[start:stop] @ matrix).toarray().T
    return gram


def _nearest(matrix: sp.csr_matrix, *, k: int, shrink: float) -> sp.csr_matrix:
    """The k nearest items of each item, as its column; float32 CSR [n_items, n_items]."""
    users_of = matrix.T.tocsr()
    n_users_of = np.diff(users_of.indptr)
    blocks = []
    for start, stop in _blocks(users_of @ np.diff(matrix.indptr)):
        shared = (users_of[start:stop] @ matrix).tocsr()
        item = np.repeat(np.arange(start, stop), np.diff(shared.indptr))
        norm = np.sqrt(n_users_of[item] * n_users_of[shared.indices].astype(np.float64))
        shared.data = (shared.data / (norm + shrink)).astype(np.float32)
        shared.data[item == shared.indices] = 0
        blocks.append(_largest_of_each_row(shared, k))
    return sp.vstack(blocks).T.tocsr()


def _blocks(pairs: NDArray[np.integer]) -> list[tuple[int, int]]:
    """Ranges of items of at most _BLOCK_PAIRS pairs each, or of one item."""
    ends = np.cumsum(pairs)
    ranges, start = [], 0
    while start < len(pairs):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK_PAIRS, side="right")))
        ranges.append((start, stop))
        start = stop
    return ranges


def _largest_of_each_row(matrix: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """Keeps the k largest positive entries of each row; of equal ones those further left."""
    matrix.sort_indices()
    keep = matrix.data > 0
    for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        if stop - start <= k:
            continue
        values = matrix.data[start:stop]
        least = np.partition(values, -k)[-k]
        above = values > least
        above[np.flatnonzero(values == least)[: k - above.sum()]] = True
        keep[start:stop] &= above
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    parts = (matrix.data[keep], matrix.indices[keep], kept_before[matrix.indptr])
    return sp.csr_matrix(parts, shape=matrix.shape)
