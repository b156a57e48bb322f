"""What has become of a release's items since it was built: which are gone, which expire."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidfeed.errors import DataError
from candidfeed.feed.served import Rows
from candidfeed.store.records import check_number

# Of an item's fields: from when on it may no longer be shown, in seconds since 1970 UTC.
EXPIRES = "expires_s"


@dataclass(frozen=True)
class Changes:
    """What the store says of the items of a release, up to a cursor.

    Attributes:
        is_gone: items that were deleted, bool [n_items].
        expires_s: from when on an item may not be shown, float64 [n_items]; infinite where never.
        ends_s: those that are finite, ascending.
        n_gone: how many items were deleted.
    """

    is_gone: NDArray[np.bool_]
    expires_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]
    n_gone: int

    @staticmethod
    def none(n_items: int) -> "Changes":
        never = np.broadcast_to(np.inf, n_items)
        return Changes(np.zeros(n_items, bool), never, np.empty(0), 0)

    def then(self, fields_of: Mapping[int, Mapping[str, Any] | None], n_items: int) -> "Changes":
        """After what became of some rows: what was put of them, None where they were deleted.

        Args:
            n_items: as many as before, or more.
        """
        rows = np.array([*fields_of], np.intp)
        gone = np.array([fields is None for fields in fields_of.values()], bool)
        ends_s = np.array([_expiry(fields) for fields in fields_of.values()], np.float64)
        is_gone = _with(self.is_gone, n_items, False, rows, gone)
        expires_s = _with(self.expires_s, n_items, np.inf, rows, ends_s)
        finite = (
            self.ends_s
            if expires_s is self.expires_s
            else np.sort(expires_s[np.isfinite(expires_s)])
        )
        return Changes(is_gone, expires_s, finite, int(np.count_nonzero(is_gone)))

    def newly_gone(self, before: "Changes") -> Rows:
        """Rows that were deleted since, int32 [n]."""
        if self.is_gone is before.is_gone:
            return np.empty(0, np.int32)
        since = self.is_gone.copy()
        since[: len(before.is_gone)] &= ~before.is_gone
        return np.flatnonzero(since).astype(np.int32)

    def is_over(self, rows: Rows, now_s: float) -> NDArray[np.bool_]:
        """Which of these have expired, bool [n]; nothing is said of rows beyond the end."""
        known = np.minimum(rows, len(self.expires_s) - 1)
        return (self.expires_s[known] <= now_s) & (rows < len(self.expires_s))


def _with(
    column: NDArray[Any], n: int, fill: object, rows: NDArray[np.intp], values: NDArray[Any]
) -> NDArray[Any]:
    """A column of n items with these values; the same one where they are as they were.

    Args:
        fill: of items beyond the end of the column. A column that holds nothing else takes no
            memory.
    """
    old = np.full(len(rows), fill, column.dtype)
    known = rows < len(column)
    old[known] = column[rows[known]]
    if np.array_equal(old, values):
        if n == len(column):
            return column
        if column.strides == (0,):
            return np.broadcast_to(column[0], n)
    grown = np.full(n, fill, column.dtype)
    grown[: len(column)] = column
    grown[rows] = values
    return grown


def _expiry(fields: Mapping[str, Any] | None) -> float:
    expires_s: Any = (fields or {}).get(EXPIRES)
    try:
        check_number(EXPIRES, expires_s)
    except DataError:
        # The service takes no other, but whoever writes into its store may.
        return np.inf
    return float(expires_s)
