"""What every index shares: exact scores of chosen rows, the best of them, sets of rows."""

import threading
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int32]
# One bit a row, the lowest of a byte first; what lies behind the last row is 0.
Bits = NDArray[np.uint8]

# What FAISS' Python part adds to its classes, its types don't know.
untyped_faiss: Any = faiss

# FAISS computes these in groups of rows: the last bits depend on a row's place.
_PLACE_DEPENDENT_DIMS = (2, 4, 8)
# Rows are gathered before they are multiplied: not more of them than stay in the cache.
_ROWS_AT_ONCE = 4_096

NO_ROWS: Rows = np.empty(0, np.int32)
_LAST_MARK = np.iinfo(np.uint8).max
_BIT_OF = (1 << np.arange(8)).astype(np.uint8)


@dataclass(frozen=True)
class Found:
    """The best items of one search, best first, equal scores by lower row.

    Attributes:
        rows: int32 [n], each at most once.
        scores: inner products, float32 [n].
    """

    rows: Rows
    scores: Floats

    def __len__(self) -> int:
        return len(self.rows)


def nothing_found() -> Found:
    return Found(NO_ROWS, np.empty(0, np.float32))


def inner_products(
    vectors: Floats, query: Floats, rows: NDArray[np.integer] | None = None
) -> Floats:
    """Inner product of the query with these rows of C-ordered `vectors`, or all: float32 [n].

    On the thread of the caller, and an item's score has the same bits whatever else is asked for.
    Rows are not checked.
    """
    if rows is None:
        return _products(vectors, query)
    if len(rows) <= _ROWS_AT_ONCE:
        return _products(vectors.take(rows, axis=0), query)
    return np.concatenate(
        [
            _products(vectors.take(rows[start : start + _ROWS_AT_ONCE], axis=0), query)
            for start in range(0, len(rows), _ROWS_AT_ONCE)
        ]
    )


def _products(vectors: Floats, query: Floats) -> Floats:
    if vectors.shape[1] in _PLACE_DEPENDENT_DIMS:
        vectors = np.pad(vectors, ((0, 0), (0, 1)))
        query = np.append(query, np.float32(0))
    scores, at = np.empty(len(vectors), np.float32), untyped_faiss.swig_ptr
    # `fvec_inner_products_by_idx` would start a team of threads, even for one query.
    untyped_faiss.fvec_inner_products_ny(at(scores), at(query), at(vectors), *vectors.shape[::-1])
    return scores


def best_of(rows: NDArray[np.integer], scores: Floats, k: int) -> Found:
    """The k largest scores; equal ones by lower row, in whatever order they came."""
    if k <= 0 or len(rows) == 0:
        return nothing_found()
    if len(rows) > 4 * k:
        # Whatever ties with the k-th stays, so that the rows decide.
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = np.flatnonzero(scores >= least)
        rows, scores = rows[kept], scores[kept]
    order = best_first(scores, rows)[:k]
    return Found(rows[order].astype(np.int32), scores[order])


def best_first(scores: NDArray[np.floating], rows: NDArray[np.integer]) -> NDArray[np.intp]:
    """Places by descending score, finite, and equal ones by lower row; [n]."""
    order = np.argsort(-scores)
    in_order = scores[order]
    are_equal = in_order[1:] == in_order[:-1]
    if are_equal.any():
        # Some few among a thousand float32: the rest needs no sorting by two keys.
        are_tied = np.zeros(len(order), bool)
        are_tied[1:] = are_equal
        are_tied[:-1] |= are_equal
        tied = order[are_tied]
        order[are_tied] = tied[np.lexsort((rows[tied], -scores[tied]))]
    return order


def all_bits(n: int) -> Bits:
    """The set of all rows below n."""
    bits = np.full(-(-n // 8), 0xFF, np.uint8)
    if n % 8:
        bits[-1] = (1 << n % 8) - 1
    return bits


def bits_of(rows: NDArray[np.integer], n: int) -> Bits:
    """The set of these rows, each from 0 to n - 1; duplicates count once."""
    is_in = np.zeros(n, bool)
    is_in[rows] = True
    return np.packbits(is_in, bitorder="little")


def without(bits: Bits, rows: NDArray[np.integer]) -> Bits:
    """A copy of the set without these rows."""
    left = bits.copy()
    np.bitwise_and.at(left, rows >> 3, ~_BIT_OF[rows & 7])
    return left


def are_in(bits: Bits, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which of these rows are in the set, bool [n]."""
    return (bits[rows >> 3] & _BIT_OF[rows & 7]) != 0


def count(bits: Bits) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def rows_in(bits: Bits, n: int) -> NDArray[np.int64]:
    """The rows of a set, ascending."""
    # Of booleans: of bytes NumPy takes ten times as long to find them.
    return np.flatnonzero(np.unpackbits(bits, count=n, bitorder="little").view(np.bool_))


class Marks(threading.local):
    """A byte a row, to find which rows are among others without sorting either.

    Each thread has bytes of its own, and each question marks with a number of its own, so that
    nothing must be wiped after it.
    """

    def __init__(self, n_rows: int) -> None:
        self._mark_of = np.zeros(n_rows, np.uint8)
        self._mark = 0

    def among(self, rows: NDArray[np.integer], others: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which rows are among the others, bool [len(rows)]; each is from 0 to n_rows - 1."""
        if self._mark == _LAST_MARK:
            self._mark_of[:] = 0
            self._mark = 0
        self._mark += 1
        self._mark_of[others] = self._mark
        return self._mark_of[rows] == self._mark
