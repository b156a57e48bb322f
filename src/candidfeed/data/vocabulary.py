"""The customer's own ids on one side, our dense int32 rows on the other."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.errors import DataError

UNKNOWN = -1
# Up to so many ids, or such a share of the vocabulary, are looked for by bisection; more are joined
# with all of it, on all threads.
_FEW = 256
_SHARE = 1 / 128
# Up to so many texts are looked for one by one: Polars hands even one id to another thread.
_ONE_BY_ONE = 64
# An integer id has 64 bits.
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_DIGITS = len(str(_SMALLEST))


@dataclass(frozen=True)
class Vocabulary:
    """Distinct ids in a fixed order; an id's place in it is its row.

    `ids` is an Int64 or String series without nulls.
    """

    ids: pl.Series

    def __post_init__(self) -> None:
        if self.ids.n_unique() != len(self.ids):
            raise DataError(f"vocabulary: {len(self.ids) - self.ids.n_unique()} ids occur twice")
        if self.ids.null_count():
            raise DataError("vocabulary: an id is null; leave out rows without an id")

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: pl.Series | Sequence[object]) -> NDArray[np.int32]:
        """Row of each id, int32 [n], in the order given; UNKNOWN (-1) where the id is not known.

        An id is found by its plain form, text or number: 42, "42" and 42.0 are one integer id,
        "042" and 42.5 are none.
        """
        if len(ids) > max(_FEW, _SHARE * len(self)):
            return self._rows_of_many(self._as_ids(ids))
        plain = [self._plain(one) for one in ids]
        return self._rows_of_texts(plain) if self._is_text else self._rows_of_numbers(plain)

    def row(self, one: object) -> int:
        """Row of one id, as `rows` finds it."""
        plain = self._plain(one)
        if plain is None:
            return UNKNOWN
        return self._row_of_text(plain) if self._is_text else self._row_of_number(plain)

    def _row_of_text(self, one: Any) -> int:
        ids, rows = self._ascending
        at = bisect_left(ids, one)
        return int(rows[at]) if at < len(ids) and ids[at] == one else UNKNOWN

    def _row_of_number(self, one: Any) -> int:
        numbers = self._ascending_numbers
        at = int(numbers.searchsorted(one))
        is_there = at < len(numbers) and numbers[at] == one
        return int(self._ascending[1][at]) if is_there else UNKNOWN

    def _rows_of_texts(self, asked: Sequence[Any]) -> NDArray[np.int32]:
        ids, rows = self._ascending
        found = np.full(len(asked), UNKNOWN, np.int32)
        if len(asked) > _ONE_BY_ONE and len(ids):
            wanted = pl.Series(asked, dtype=pl.String)
            at = np.minimum(ids.search_sorted(wanted).to_numpy(), len(ids) - 1)
            is_there = ids.gather(at).eq_missing(wanted).to_numpy()
            found[is_there] = rows[at[is_there]]
            return found
        for place, one in enumerate(asked):
            if one is not None:
                found[place] = self._row_of_text(one)
        return found

    def _rows_of_numbers(self, asked: Sequence[Any]) -> NDArray[np.int32]:
        numbers, rows = self._ascending_numbers, self._ascending[1]
        found = np.full(len(asked), UNKNOWN, np.int32)
        places = [place for place, one in enumerate(asked) if one is not None]
        if places and len(numbers):
            wanted = np.array([asked[place] for place in places])
            at = np.minimum(np.searchsorted(numbers, wanted), len(numbers) - 1)
            found[places] = np.where(numbers[at] == wanted, rows[at], UNKNOWN)
        return found

    def _plain(self, one: object) -> object:
        """The id as the vocabulary holds it; None where it can't."""
        if isinstance(one, str) and self._is_text:
            return one
        if isinstance(one, int) and not isinstance(one, bool):
            if self._is_text:
                return str(one)
            return one if _SMALLEST <= one <= _LARGEST else None
        if isinstance(one, str) and len(one) <= _DIGITS:
            number = as_number(one)
            return None if number is None else self._plain(number)
        return self._as_ids([one])[0]

    @cached_property
    def _is_text(self) -> bool:
        return self.ids.dtype == pl.String

    @cached_property
    def _ascending(self) -> tuple[pl.Series, NDArray[np.int32]]:
        """The ids in ascending order, and their rows."""
        if self.ids.is_sorted():
            return self.ids, np.arange(len(self.ids), dtype=np.int32)
        order = self.ids.arg_sort()
        return self.ids.gather(order).set_sorted(), order.to_numpy().astype(np.int32)

    @cached_property
    def _ascending_numbers(self) -> NDArray[np.int64]:
        """The same where they are numbers: a series in several parts would be copied each time."""
        return self._ascending[0].to_numpy()

    def _rows_of_many(self, asked: pl.Series) -> NDArray[np.int32]:
        known = pl.DataFrame({"id": self.ids, "row": np.arange(len(self.ids), dtype=np.int32)})
        places = pl.DataFrame({"id": asked, "place": np.arange(len(asked))})
        # An inner join is 20 times faster than a left one where few ids meet a long vocabulary.
        found = places.join(known, on="id", how="inner")
        rows = np.full(len(asked), UNKNOWN, dtype=np.int32)
        rows[found["place"].to_numpy()] = found["row"].to_numpy()
        return rows

    def id_of(self, row: int) -> int | str:
        """
        Raises:
            IndexError: no id has this row; UNKNOWN is none.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"vocabulary: no row {row} among {len(self)}")
        return self.ids[int(row)]

    def _as_ids(self, ids: pl.Series | Sequence[object]) -> pl.Series:
        """With the type of `self.ids`; null where that would change the id."""
        given = ids if isinstance(ids, pl.Series) else pl.Series(ids, strict=False)
        if given.dtype == self.ids.dtype:
            return given
        cast = given.cast(self.ids.dtype, strict=False)
        return cast.set(cast.cast(given.dtype, strict=False) != given, None)


def as_number(one: str) -> int | None:
    """The id as a number where it is written as one; 007 and +7 are other ids than 7."""
    if not one.removeprefix("-").isdecimal() or len(one) > _DIGITS:
        return None
    number = int(one)
    return number if str(number) == one else None
