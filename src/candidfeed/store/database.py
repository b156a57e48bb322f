"""What a database must be able to do to carry a store: all that SQLite and PostgreSQL differ in.

SQL is the same for both (`tables.py`), with `?` where an argument goes.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

Row: TypeAlias = tuple[Any, ...]


class Transaction(Protocol):
    """The open transaction of the writing connection."""

    def run(self, sql: str, arguments: Sequence[Any] = ()) -> list[Row]:
        """Run one statement; the rows that it returns."""
        ...

    def run_each(self, sql: str, rows: Sequence[Row]) -> list[Row | None]:
        """Run one statement for each row, in order; the first row that each returns, or None."""
        ...


class Database(Protocol):
    """An open database with the store's tables in it.

    Every method raises `StoreError`, which says what is wrong and what to do, where the database
    fails; it may be asked again, and heals by itself where the cause goes away.
    """

    def transaction(self) -> AbstractContextManager[Transaction]:
        """One transaction: on disk when the block ends, undone where anything raises in it.

        One thread at a time. Of two transactions, in this process or any other, one ends before
        the other begins: numbers that grow are seen in the order in which they were given.
        """
        ...

    def fetch(self, sql: str, arguments: Sequence[Any] = ()) -> list[Row]:
        """All rows of one query, as of one moment; from any thread, beside the writer."""
        ...

    def scrub(self) -> bool:
        """Take out of the files what was deleted; False where others still read it."""
        ...

    def compact(self) -> None:
        """Write the files anew without what was deleted."""
        ...

    def close(self) -> None:
        """Give everything back; nothing may be asked after it."""
        ...
