"""What is shown of each item: ids and titles in memory, other columns when they are asked for."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

# What every feed reads.
_HELD = ("item_id", "title")
# Of a million items a column is read as fast as so many single rows of it.
_FEW_ROWS = 8


class ItemTable:
    """One row an item, in columns by name: `item_id`, `title`, and what else is known of it.

    Caps and what users mute read other columns, once each: in every process that makes feeds they
    would take more than ids and titles do.

    Args:
        held: the columns in memory.
        parquet: of the whole table, uint8; None where all of it is held. Mapped from a file it can
            be read after the file was deleted.
    """

    def __init__(self, held: pl.DataFrame, parquet: NDArray[np.uint8] | None = None) -> None:
        self._held, self._parquet = held, parquet

    @staticmethod
    def of_file(path: Path) -> "ItemTable":
        """
        Raises:
            OSError, ValueError, PolarsError: it can't be read, or is not such a file.
        """
        content = np.memmap(path, np.uint8, mode="r")
        held = pl.read_parquet(content.tobytes(), columns=list(_HELD))
        # In one part ids are NumPy's without a copy.
        return ItemTable(held.rechunk(), content)

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, name: str) -> pl.Series:
        """A column, read anew each time where it is not held.

        Raises:
            PolarsError: there is none of this name.
        """
        if self._parquet is None or name in _HELD:
            return self._held[name]
        return pl.read_parquet(self._parquet.tobytes(), columns=[name])[name]

    def take(self, names: Sequence[str], rows: Sequence[int]) -> pl.DataFrame:
        """These columns of these rows, in their order.

        Raises:
            PolarsError: there is no such column or row.
        """
        if self._parquet is None or set(names) <= {*_HELD}:
            return self._held.select(names)[list(rows)]
        content = self._parquet.tobytes()
        if len(rows) > _FEW_ROWS or not len(rows):
            return pl.read_parquet(content, columns=list(names)).select(names)[list(rows)]
        lazily = pl.scan_parquet(content).select(names)
        return pl.concat([lazily.slice(row, 1).collect() for row in rows])

    @cached_property
    def schema(self) -> Mapping[str, pl.DataType]:
        """Every column's type, by its name."""
        if self._parquet is None:
            return self._held.schema
        return pl.read_parquet_schema(self._parquet.tobytes())

    @property
    def frame(self) -> pl.DataFrame:
        """All columns."""
        return self._held if self._parquet is None else pl.read_parquet(self._parquet.tobytes())
