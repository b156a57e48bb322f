"""Columns of the items as integers: what caps count by, and what a user may mute."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.config import suggest
from candidfeed.data.vocabulary import UNKNOWN, Vocabulary
from candidfeed.errors import DataError
from candidfeed.feed.item_table import ItemTable

Rows = NDArray[np.int32]


@dataclass(frozen=True)
class ItemCodes:
    """One column of categories or tags.

    Attributes:
        values: what stands in it; a value's row is its code.
        ends: where each item's codes end, int32 [n_items].
        codes: of all items, one after the other, each at most once an item, int32.
    """

    values: Vocabulary
    ends: NDArray[np.int32]
    codes: Rows

    @staticmethod
    def of(column: pl.Series) -> "ItemCodes":
        """Of String or List(String); an item may have none."""
        known = pl.DataFrame({"row": np.arange(len(column)), "value": column})
        if column.dtype == pl.List:
            known = known.explode("value")
        known = known.drop_nulls()
        values = known["value"].unique().sort()
        codes = known["value"].cast(pl.Enum(values)).to_physical().cast(pl.Int64)
        # Each value once an item: as numbers they are compared ten times as fast.
        pairs = (known["row"] * max(len(values), 1) + codes).unique(maintain_order=True).to_numpy()
        rows, found = np.divmod(pairs, max(len(values), 1))
        ends = np.cumsum(np.bincount(rows, minlength=len(column)))
        return ItemCodes(Vocabulary(values), ends.astype(np.int32), found.astype(np.int32))

    @cached_property
    def n_items(self) -> NDArray[np.int64]:
        """How many items have each value, int64 [n_values]."""
        return np.bincount(self.codes, minlength=len(self.values))

    def of_rows(self, rows: Rows) -> Rows:
        """The codes of each item, int32 [n, m], m as many as one of them has; -1 where fewer.

        A row beyond the last has none.
        """
        is_within, rows = rows < len(self.ends), np.minimum(rows, len(self.ends) - 1)
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        n_each = (self.ends[rows] - starts) * is_within
        width = int(n_each.max(initial=0))
        places = starts[:, None] + np.arange(width)
        is_there = np.arange(width) < n_each[:, None]
        found = self.codes.take(np.where(is_there, places, 0)) if width else places
        return np.where(is_there, found, UNKNOWN).astype(np.int32)


@dataclass(frozen=True)
class CurrentCodes:
    """A column as it is now: the release's, but for rows of which something else was put since.

    Attributes:
        rows: these, newcomers' too, ascending, int32 [n].
        codes: theirs, int32 [n, m]; -1 where an item has fewer than m.
        code_of: of values that the release does not have.
    """

    release: ItemCodes
    rows: Rows = field(default_factory=lambda: np.empty(0, np.int32))
    codes: Rows = field(default_factory=lambda: np.empty((0, 0), np.int32))
    code_of: Mapping[str, int] = field(default_factory=dict)

    def then(self, put: Mapping[int, Sequence[str] | None]) -> "CurrentCodes":
        """After these values were put of some rows; None: what the release has."""
        values = {row: each for row, each in put.items() if each is not None}
        named = list(dict.fromkeys(value for each in values.values() for value in each))
        code_of = dict(self.code_of)
        known = dict(zip(named, self.release.values.rows(named).tolist(), strict=True))
        for value in named:
            if known[value] == UNKNOWN:
                known[value] = code_of.setdefault(value, len(self.release.values) + len(code_of))
        stay = ~np.isin(self.rows, list(put))
        n_stay, width = int(stay.sum()), max([self.codes.shape[1], *map(len, values.values())])
        codes = np.full((n_stay + len(values), width), UNKNOWN, np.int32)
        codes[:n_stay, : self.codes.shape[1]] = self.codes[stay]
        for place, each in enumerate(values.values(), n_stay):
            codes[place, : len(each)] = [known[value] for value in each]
        rows = np.concatenate([self.rows[stay], np.array([*values], np.int32)])
        order = np.argsort(rows)
        return CurrentCodes(self.release, rows[order], codes[order], code_of)

    def of_values(self, values: Sequence[str]) -> Rows:
        """Their codes, int32 [at most as many]; none of what no item has."""
        codes = self.release.values.rows(list(values))
        since = [self.code_of[one] for one in values if one in self.code_of]
        return np.concatenate([codes[codes != UNKNOWN], np.array(since, np.int32)])

    def of_rows(self, rows: Rows) -> Rows:
        """The codes of each item, int32 [n, m], m as many as one of them has; -1 where fewer."""
        built = self.release.of_rows(rows)
        if not len(self.rows):
            return built
        places = np.searchsorted(self.rows, rows) % len(self.rows)
        are_since = self.rows[places] == rows
        if not are_since.any():
            return built
        since = self.codes[places[are_since]]
        codes = np.full((len(rows), max(built.shape[1], since.shape[1])), UNKNOWN, np.int32)
        codes[:, : built.shape[1]] = built
        codes[are_since] = UNKNOWN
        codes[are_since, : since.shape[1]] = since
        return codes

    def are_any(self, rows: Rows, codes: Rows) -> NDArray[np.bool_]:
        """Which of the items have one of these values, none of them UNKNOWN; bool [n]."""
        return np.logical_or.reduce(np.isin(self.of_rows(rows), codes), axis=1)

    def n_at_most(self, codes: Rows) -> int:
        """No more items than this have one of these values."""
        built = codes[codes < len(self.release.values)]
        n_since = int(np.isin(self.codes, codes).any(axis=1).sum())
        return int(self.release.n_items[built].sum()) + n_since


def require_coded(items: ItemTable, names: Iterable[str], place: str) -> None:
    """
    Args:
        place: where the names stand, for the message.

    Raises:
        DataError: the items have no such column of categories or tags.
    """
    known = coded_columns(items)
    for name in names:
        if name not in known:
            raise DataError(
                f"{place}: {name!r} is no column of categories or tags of this release's items"
                f"{suggest(name, known)}"
            )


def coded_columns(items: ItemTable) -> Sequence[str]:
    """Columns of categories and of tags: what can be capped and muted."""
    kinds = (pl.String, pl.List(pl.String))
    names = (name for name, dtype in items.schema.items() if dtype in kinds)
    return [name for name in names if name not in ("item_id", "title")]
