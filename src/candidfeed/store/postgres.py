"""The same store in a PostgreSQL database, which several processes may share.

Tables stand in a schema of their own. One transaction at a time writes, in whichever process, by an
advisory lock: numbers given in commit order are what makes cursors stable.
"""

import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from candidfeed.errors import StoreError
from candidfeed.extras import import_extra
from candidfeed.store.database import Row
from candidfeed.store.tables import (
    BLANK_ROWS,
    SCHEMA_VERSION,
    SECRET_BYTES,
    require_known_version,
    schema_statements,
)

psycopg: Any = import_extra("psycopg", extra="postgres")

_SCHEMA: Final = "candidfeed"
_LOCK: Final = 0x63616E64
_CONNECT_TIMEOUT_S: Final = 5
_STATEMENT_TIMEOUT_S: Final = 30
# Reading connections that are kept when nobody reads.
_IDLE_READERS: Final = 8
# 53: out of disk, memory or connections.
_NO_ROOM: Final = "53"


class PostgresDatabase:
    """The tables of a store in a PostgreSQL database, made where there are none.

    A lost connection is made anew at the next call. What failed meanwhile raised `StoreError`, and
    may be asked again: an event that was kept after all is a duplicate then.

    Args:
        url: `postgresql://USER@HOST/DATABASE`, or anything else that libpq takes as one.
        read_only: open a store that is there.

    Raises:
        StoreError: it can't be reached, does not flush what it commits, or holds a newer store.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._url = url
        self._readers: deque[Any] = deque()
        self._is_closed = False
        self._writer: Any = None
        self.where = _label(url)
        with self._told():
            if not read_only:
                self._writer = self._connect(read_only=False)
            try:
                if not read_only:
                    self._refuse_unsafe(self._writer)
                    self._make_tables()
                self._check_version()
            except BaseException:
                self.close()
                raise

    @contextmanager
    def transaction(self) -> Iterator["_Transaction"]:
        """One transaction, flushed by the server when the block ends."""
        with self._told():
            connection = self._begin()
            try:
                yield _Transaction(connection)
                connection.execute("COMMIT")
            except BaseException:
                _undo(connection)
                raise

    def fetch(self, sql: str, arguments: Sequence[Any] = ()) -> list[Row]:
        """All rows of one query, from a connection that no other thread uses meanwhile."""
        with self._told():
            try:
                reader = self._readers.pop()
            except IndexError:
                reader = self._connect(read_only=True)
            try:
                return self._fetch(reader, sql, arguments)
            except psycopg.OperationalError:
                if not reader.broken:
                    raise
                # The server was started again since this connection was last used.
                reader = self._connect(read_only=True)
                return self._fetch(reader, sql, arguments)

    def scrub(self) -> bool:
        """Nothing: the server keeps old versions of rows until `compact`."""
        return True

    def compact(self) -> None:
        """Write the tables anew; they can't be read meanwhile."""
        with self.transaction() as transaction:
            for statement in BLANK_ROWS:
                transaction.run(statement)
        with self._told():
            self._writer.execute("SET statement_timeout = 0")
            try:
                self._writer.execute("VACUUM FULL people, events, slates, user_fields, api_keys")
            finally:
                self._writer.execute(f"SET statement_timeout = '{_STATEMENT_TIMEOUT_S}s'")

    def close(self) -> None:
        """Close all connections."""
        self._is_closed = True
        while self._readers:
            self._readers.pop().close()
        if self._writer is not None:
            self._writer.close()

    def _connect(self, *, read_only: bool) -> Any:
        connection = psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=_CONNECT_TIMEOUT_S,
            application_name="candidfeed",
        )
        connection.execute(f"SET search_path = {_SCHEMA}")
        connection.execute(f"SET statement_timeout = '{_STATEMENT_TIMEOUT_S}s'")
        # A process that hangs must not hold the lock for ever.
        connection.execute(f"SET idle_in_transaction_session_timeout = '{_STATEMENT_TIMEOUT_S}s'")
        if read_only:
            connection.execute("SET default_transaction_read_only = on")
        return connection

    def _refuse_unsafe(self, connection: Any) -> None:
        for name in ("fsync", "synchronous_commit"):
            if connection.execute(f"SHOW {name}").fetchone()[0] == "off":
                raise StoreError(
                    f"{self.where}: runs with {name} = off and may lose what it commits;"
                    " set it to on"
                )
        encoding = connection.execute("SHOW server_encoding").fetchone()[0]
        if encoding != "UTF8":
            raise StoreError(
                f"{self.where}: its text is {encoding}, which can't hold every id; make a"
                " database with ENCODING 'UTF8'"
            )

    def _make_tables(self) -> None:
        connection = self._begin()
        try:
            # Asked first: to open a store that is there needs no right to make one.
            if connection.execute("SELECT to_regclass('meta')").fetchone()[0] is None:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
                statements = schema_statements(
                    serial="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
                    bytes="BYTEA",
                    int="BIGINT",
                    real="DOUBLE PRECISION",
                )
                for statement in statements:
                    connection.execute(statement)
                insert = "INSERT INTO meta VALUES (%s, %s)"
                connection.execute(insert, ("secret", secrets.token_bytes(SECRET_BYTES)))
                connection.execute(insert, ("schema", str(SCHEMA_VERSION).encode()))
        finally:
            connection.execute("COMMIT")

    def _check_version(self) -> None:
        rows = self.fetch("SELECT value FROM meta WHERE name = 'schema'")
        require_known_version(self.where, int(bytes(rows[0][0])))

    def _begin(self) -> Any:
        """The writing connection, made anew if it is gone, with the only open transaction."""
        if self._writer is None:
            raise StoreError(f"{self.where}: was opened for reading only")
        try:
            return _begin(self._writer)
        except psycopg.OperationalError:
            if not self._writer.closed:
                raise
        self._writer = self._connect(read_only=False)
        return _begin(self._writer)

    def _fetch(self, reader: Any, sql: str, arguments: Sequence[Any]) -> list[Row]:
        try:
            return reader.execute(_marks(sql), arguments).fetchall()
        finally:
            if self._is_closed or reader.closed or len(self._readers) >= _IDLE_READERS:
                reader.close()
            else:
                self._readers.append(reader)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the server or the driver raises, in the words of who must mend it."""
        try:
            yield
        except psycopg.Error as error:
            said = " ".join(str(error).split()) or type(error).__name__
            if (error.sqlstate or "").startswith(_NO_ROOM):
                said = f"the server has no room ({said}); writing goes on once it has"
            elif isinstance(error, psycopg.OperationalError):
                said = f"the server can't be reached or failed ({said}); look whether it runs"
            raise StoreError(f"{self.where}: {said}") from error


class _Transaction:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, sql: str, arguments: Sequence[Any] = ()) -> list[Row]:
        cursor = self._connection.execute(_marks(sql), arguments)
        return cursor.fetchall() if cursor.description else []

    def run_each(self, sql: str, rows: Sequence[Row]) -> list[Row | None]:
        # Sent as a pipeline: no waiting for the answer to one row before the next.
        returns = "RETURNING" in sql
        with self._connection.cursor() as cursor:
            cursor.executemany(_marks(sql), rows, returning=returns)
            returned: list[Row | None] = []
            while returns and len(returned) < len(rows):
                returned.append(cursor.fetchone())
                cursor.nextset()
        return returned if returns else [None] * len(rows)


def _begin(connection: Any) -> Any:
    connection.execute("BEGIN")
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    return connection


def _undo(connection: Any) -> None:
    try:
        connection.execute("ROLLBACK")
    except psycopg.Error:
        # Gone, or in a state of its own: the next transaction makes a new one.
        connection.close()


@cache
def _marks(sql: str) -> str:
    return sql.replace("?", "%s")


def _label(url: str) -> str:
    """Where it is, without a password."""
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise StoreError(f"the store's URL can't be read ({error}); use postgresql://…") from error
    return f"postgresql://{parts.get('host', '')}/{parts.get('dbname', '')}"
