"""Candidates of several sources as one list, each with its quota; each item keeps its source."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# In the order in which they bring their candidates.
TOWER, NEIGHBOURS, TRENDING = SOURCES = ("tower", "neighbours", "trending")

Rows = NDArray[np.int32]


@dataclass(frozen=True)
class Merged:
    """Items, each once, those of the first source first.

    Attributes:
        rows: int32 [c].
        source: place of the source that an item counts for, int8 [c].
        place: where it stands in what that source proposed, int64 [c].
    """

    rows: Rows
    source: NDArray[np.int8]
    place: NDArray[np.int64]


def merge_by_quota(proposed: Sequence[Rows], quotas: Sequence[int]) -> Merged:
    """The best `quotas[i]` items of source i that no source before it has brought.

    Where a source has too few, those that come first in the other sources and are not there yet
    take the places that are left, the first source's first.

    Args:
        proposed: of each source its rows, best first, each once; int32.

    Raises:
        ValueError: there are not as many quotas as sources, or one is negative.
    """
    if len(proposed) != len(quotas) or min(quotas, default=0) < 0:
        raise ValueError(f"merge: {len(proposed)} sources came with the quotas {list(quotas)}")
    taken: list[Rows] = []
    places: list[NDArray[np.int64]] = []
    source: list[NDArray[np.int8]] = []
    left = sum(quotas)
    # Twice round: once up to each quota, then whatever is left.
    for limits in (quotas, [left] * len(quotas)):
        for number, (rows, limit) in enumerate(zip(proposed, limits, strict=True)):
            new = _first_not_in(rows, taken, min(limit, left))
            taken.append(rows[new])
            places.append(new)
            source.append(np.full(len(new), number, np.int8))
            left -= len(new)
        if left == 0:
            break
    merged = Merged(np.concatenate(taken), np.concatenate(source), np.concatenate(places))
    if len(taken) == len(proposed):
        return merged
    order = np.argsort(merged.source, kind="stable")
    return Merged(merged.rows[order], merged.source[order], merged.place[order])


def _first_not_in(rows: Rows, taken: Sequence[Rows], n: int) -> NDArray[np.int64]:
    """Places of the first n rows that were not taken; fewer where there are fewer."""
    if not any(len(part) for part in taken):
        return np.arange(min(n, len(rows)))
    others = np.sort(np.concatenate(taken))
    # Rarely are many of the first ones taken, so that the others need not be looked at.
    depth = 2 * n
    while True:
        new = np.flatnonzero(~is_in(rows[:depth], others))
        if len(new) >= n or depth >= len(rows):
            return new[:n]
        depth *= 4


def is_in(rows: Rows, ascending: Rows) -> NDArray[np.bool_]:
    """Which of the rows are among those that are sorted; by bisection, for a few of each."""
    if not len(ascending):
        return np.zeros(len(rows), bool)
    places = np.searchsorted(ascending, rows)
    return ascending[np.minimum(places, len(ascending) - 1)] == rows
