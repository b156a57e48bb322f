"""The k best columns of rows of scores: what every list and every set of candidates begins with."""

import numpy as np
from numpy.typing import NDArray

# In rows longer than this, whole blocks are left out before anything is sorted.
_LONG = 32_768
_BLOCK = 256


def best_columns(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """The min(k, n) largest of each row of [b, n], best first; equal ones by lower column.

    Returns:
        int64 [b, min(k, n)].

    Raises:
        ValueError: a score is NaN, which has no place in an order.
    """
    n_rows, n = scores.shape
    k = min(k, n)
    best = np.empty((n_rows, k), np.int64)
    for row, of_row in zip(scores, best, strict=True):
        of_row[:] = _best(row, k)
    return best


def best_sets(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """What `best_columns` finds, by ascending column: rows of no more than thousands at once."""
    n_rows, n = scores.shape
    if k >= n or n >= _LONG:
        return np.sort(best_columns(scores, k), axis=1)
    if np.isnan(scores).any():
        raise ValueError("top k: a score is NaN")
    least = np.partition(scores, n - k, axis=1)[:, n - k, None]
    above, tied = scores > least, scores == least
    n_missing = k - np.count_nonzero(above, axis=1)[:, None]
    is_kept = above | (tied & (np.cumsum(tied, axis=1, dtype=np.int32) <= n_missing))
    return np.nonzero(is_kept)[1].reshape(n_rows, k)


def _best(row: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    places = _those_that_may_be(row, k)
    found = row if places is None else row[places]
    if np.isnan(found).any():
        raise ValueError("top k: a score is NaN")
    if k < len(found):
        least = np.partition(found, len(found) - k)[len(found) - k]
        above, tied = np.flatnonzero(found > least), np.flatnonzero(found == least)
        kept = np.concatenate([above, tied[: k - len(above)]])
    else:
        kept = np.arange(len(found))
    order = kept[np.argsort(-found[kept], kind="stable")]
    return order if places is None else places[order]


def _those_that_may_be(row: NDArray[np.floating], k: int) -> NDArray[np.int64] | None:
    """Ascending places among which the k best are; None where all are.

    k blocks have a score as large as the k-th largest of the blocks' greatest scores, so none of
    the k best is smaller.
    """
    n_blocks = len(row) // _BLOCK
    if len(row) < _LONG or k >= n_blocks:
        return None
    greatest = row[: n_blocks * _BLOCK].reshape(n_blocks, _BLOCK).max(axis=1)
    least = np.partition(greatest, n_blocks - k)[n_blocks - k]
    # Not `>=`: NaN must come along, to be told.
    return np.flatnonzero(~(row < least))
