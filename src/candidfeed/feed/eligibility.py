"""What may not be shown, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candidfeed.feed.item_codes import CurrentCodes
from candidfeed.feed.served import Rows
from candidfeed.feed.slate import Proposed, Removed
from candidfeed.retrieval.index.inner_products import NO_ROWS
from candidfeed.retrieval.merge import is_in

SEEN = "seen"
DENIED = "denied"
DELETED = "deleted"
EXPIRED = "expired"
BLOCKED = "blocked"
MUTED = "muted"


@dataclass(frozen=True)
class Rule:
    """One reason for which items may not be shown.

    Attributes:
        bars: which of the rows int32 [n] it removes, bool [n].
        at_most: how many items it may remove of what a source proposes: so many more are asked for.
        index_knows: whether the index leaves them out by itself.
    """

    reason: str
    bars: Callable[[Rows], NDArray[np.bool_]]
    at_most: int
    index_knows: bool = False


def among(reason: str, rows: Rows) -> Rule:
    """Bars these rows, in any order."""
    barred = np.sort(rows)
    return Rule(reason, lambda asked: is_in(asked, barred), len(barred))


def masked(
    reason: str, mask: NDArray[np.bool_], n_barred: int, *, index_knows: bool = False
) -> Rule:
    """Bars the rows where the mask is true: so many. It says nothing of rows beyond its end."""
    if not n_barred:
        # Of a million items the mask would be fetched from memory for each request.
        return Rule(reason, lambda asked: np.zeros(len(asked), bool), 0, index_knows)

    def bars(asked: Rows) -> NDArray[np.bool_]:
        if len(asked) and asked.max() >= len(mask):
            return mask[np.minimum(asked, len(mask) - 1)] & (asked < len(mask))
        return mask[asked]

    return Rule(reason, bars, n_barred, index_knows)


def muted(values: Sequence[tuple[CurrentCodes, Rows]]) -> Rule:
    """Bars items that have one of these values, given as a column and codes in it."""

    def bars(asked: Rows) -> NDArray[np.bool_]:
        is_barred = np.zeros(len(asked), bool)
        for column, codes in values:
            is_barred |= column.are_any(asked, codes)
        return is_barred

    return Rule(MUTED, bars, sum(column.n_at_most(codes) for column, codes in values))


def eligible(
    proposed: Sequence[Proposed], rules: Sequence[Rule]
) -> tuple[tuple[Proposed, ...], tuple[Removed, ...]]:
    """What may be shown, in the order it came, and what may not, by the first rule that bars it."""
    # All sources at once: a call costs more than the rows that it looks at.
    rows = np.concatenate([NO_ROWS, *(one.rows for one in proposed)])
    is_open, removed = np.ones(len(rows), bool), []
    for rule in rules:
        is_barred = rule.bars(rows) & is_open
        is_open &= ~is_barred
        barred = rows[is_barred]
        removed.append(Removed(rule.reason, np.unique(barred) if len(barred) else NO_ROWS))
    kept, start = [], 0
    for one in proposed:
        kept.append(one.where(is_open[start : start + len(one.rows)]))
        start += len(one.rows)
    return tuple(kept), tuple(removed)
