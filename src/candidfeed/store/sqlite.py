"""A store in one SQLite file: one writing connection, any number of reading ones.

SQLite before 3.51.3 can damage a database in WAL mode that two connections write to, so a lock file
beside it lets one process write, and every other connection is opened for reading only (the last
one to close would write too).
"""

import fcntl
import os
import secrets
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from candidfeed.errors import StoreError
from candidfeed.store.database import Row
from candidfeed.store.tables import (
    BLANK_ROWS,
    SCHEMA_VERSION,
    SECRET_BYTES,
    require_known_version,
    schema_statements,
)

# Marks a file as ours among other people's SQLite files ("cand").
APPLICATION_ID: Final = 0x63616E64
# RETURNING came with it.
_OLDEST_SQLITE: Final = (3, 35, 0)
_WAIT_S: Final = 5.0
_SCRUB_WAIT_MS: Final = 200
# Files up to this size are looked through at every start: a tenth of a second.
_CHECKED_BYTES: Final = 64 << 20
_CACHE_KIB: Final = 32 << 10
# The write-ahead log is moved into the file at this size: 32 MiB.
_LOG_PAGES: Final = 8_192
_RESTORE: Final = "restore a backup, or move the file away to begin with an empty store"


class SqliteDatabase:
    """The tables of a store in one file, made where there is none.

    Args:
        path: of the file; `PATH-wal`, `PATH-shm` and `PATH-lock` stand beside it.
        read_only: open a store that is there, beside the process that writes it.

    Raises:
        StoreError: another process writes it, or it is no store of ours, newer than this program
            knows, or damaged. The file is left as it is.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._readers: deque[sqlite3.Connection] = deque()
        self._is_closed = False
        self.writer: sqlite3.Connection | None = None
        self._lock: int | None = None
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 is needed")
        try:
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = _lock(path)
                # Readable by its owner only, and so are the files that SQLite puts beside it.
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            _refuse_foreign(path)
            with _told(path):
                if not read_only:
                    self.writer = _open_writer(path)
                self._give_back(_open_reader(path))
        except OSError as error:
            self.close()
            raise StoreError(f"{path}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator["_Transaction"]:
        """One transaction: on disk (fsync) when the block ends."""
        if self.writer is None:
            raise StoreError(f"{self.path}: was opened for reading only")
        with _told(self.path):
            self.writer.execute("BEGIN IMMEDIATE")
            try:
                yield _Transaction(self.writer)
                self.writer.execute("COMMIT")
            except BaseException:
                # A full disk may have undone it already.
                if self.writer.in_transaction:
                    self.writer.execute("ROLLBACK")
                raise

    def fetch(self, sql: str, arguments: Sequence[Any] = ()) -> list[Row]:
        """All rows of one query, from a connection that no other thread uses meanwhile."""
        with _told(self.path):
            try:
                reader = self._readers.pop()
            except IndexError:
                reader = _open_reader(self.path)
            try:
                return reader.execute(sql, arguments).fetchall()
            finally:
                self._give_back(reader)

    def scrub(self) -> bool:
        """Move the log into the file and empty it: both held what was erased."""
        if self.writer is None:
            raise StoreError(f"{self.path}: was opened for reading only")
        with _told(self.path):
            # Whoever reads for longer must not keep others from writing.
            self.writer.execute(f"PRAGMA busy_timeout = {_SCRUB_WAIT_MS}").fetchall()
            busy = self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0]
            self.writer.execute(f"PRAGMA busy_timeout = {int(_WAIT_S * 1_000)}").fetchall()
        return not busy

    def compact(self) -> None:
        """Write the file anew; it takes as much room again while that lasts."""
        with self.transaction() as transaction:
            for statement in BLANK_ROWS:
                transaction.run(statement)
        assert self.writer is not None
        with _told(self.path):
            self.writer.execute("VACUUM")

    def close(self) -> None:
        """Close all connections and let another process write."""
        self._is_closed = True
        while self._readers:
            self._readers.pop().close()
        if self.writer is not None:
            self.writer.close()
            self.writer = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _give_back(self, reader: sqlite3.Connection) -> None:
        if self._is_closed:
            reader.close()
        else:
            self._readers.append(reader)


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def run(self, sql: str, arguments: Sequence[Any] = ()) -> list[Row]:
        return self._execute(sql, arguments).fetchall()

    def run_each(self, sql: str, rows: Sequence[Row]) -> list[Row | None]:
        # Row by row is no slower than rows in one statement, and other threads go on meanwhile.
        return [next(iter(self._execute(sql, row).fetchall()), None) for row in rows]


def _lock(path: Path) -> int:
    """Hold the lock file until the descriptor is closed, or the process ends in any way."""
    beside = path.with_name(f"{path.name}-lock")
    descriptor = os.open(beside, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        raise StoreError(
            f"{path}: process {holder or 'unknown'} writes to this store already; end it first,"
            " open the store for reading only, or share a PostgreSQL store"
        ) from None
    os.ftruncate(descriptor, 0)
    try:
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError:
        # A full disk: the lock is what counts, the number is only told.
        os.ftruncate(descriptor, 0)
    return descriptor


def _refuse_foreign(path: Path) -> None:
    """Refuse what SQLite would take for an empty database, or for no database at all."""
    with path.open("rb") as file:
        head = file.read(16)
    if head and head != b"SQLite format 3\0":
        raise StoreError(f"{path}: is not a SQLite database; name another file for the store")


def _open_writer(path: Path) -> sqlite3.Connection:
    writer = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        is_new = not writer.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        if not is_new:
            _check(path, writer)
        mode = writer.execute("PRAGMA journal_mode = WAL").fetchall()[0][0]
        if mode != "wal":
            raise StoreError(
                f"{path}: this file system can't carry a write-ahead log; use a local disk"
            )
        writer.execute("PRAGMA synchronous = FULL")
        writer.execute("PRAGMA secure_delete = ON").fetchall()
        # Events touch pages at random: what is written once for many commits is written less.
        writer.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        writer.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}").fetchall()
        writer.execute(f"PRAGMA journal_size_limit = {2 * _LOG_PAGES * 4096}").fetchall()
        if is_new:
            _make_tables(writer)
        else:
            _empty_log(writer)
    except BaseException:
        writer.close()
        raise
    return writer


def _empty_log(writer: sqlite3.Connection) -> None:
    """What a kill left in the log goes into the file: it may hold someone who was erased."""
    try:
        # Before it has read once, a connection that changed the journal's mode (of a backup) takes
        # itself for a reader that is in the way.
        writer.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError as error:
        # A full disk must not keep a store from being opened, for it can be read.
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise


def _open_reader(path: Path) -> sqlite3.Connection:
    reader = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=_WAIT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        _check_marks(path, reader)
    except BaseException:
        reader.close()
        raise
    return reader


def _make_tables(writer: sqlite3.Connection) -> None:
    writer.execute("BEGIN IMMEDIATE")
    try:
        statements = schema_statements(
            serial="INTEGER PRIMARY KEY AUTOINCREMENT", bytes="BLOB", int="INTEGER", real="REAL"
        )
        for statement in statements:
            writer.execute(statement)
        secret = secrets.token_bytes(SECRET_BYTES)
        writer.execute("INSERT INTO meta VALUES ('secret', ?)", (secret,))
        writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        writer.execute("COMMIT")
    except BaseException:
        if writer.in_transaction:
            writer.execute("ROLLBACK")
        raise


def _check(path: Path, connection: sqlite3.Connection) -> None:
    _check_marks(path, connection)
    if path.stat().st_size > _CHECKED_BYTES:
        return
    found = connection.execute("PRAGMA quick_check(1)").fetchall()[0][0]
    if found != "ok":
        raise StoreError(f"{path}: is damaged ({' '.join(found.split())}); {_RESTORE}")


def _check_marks(path: Path, connection: sqlite3.Connection) -> None:
    mark = connection.execute("PRAGMA application_id").fetchall()[0][0]
    if mark != APPLICATION_ID:
        raise StoreError(f"{path}: is a database of another program; name another file")
    version = connection.execute("PRAGMA user_version").fetchall()[0][0]
    require_known_version(path, version)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What SQLite raises, in the words of who must mend it."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {_cause(error)}") from error


def _cause(error: sqlite3.Error) -> str:
    # The low byte tells the kind; errors of Python's own module have no code.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    match code:
        case sqlite3.SQLITE_FULL:
            return f"no room ({error}); free space on this disk, and writing goes on by itself"
        case sqlite3.SQLITE_IOERR:
            return f"the disk fails or is full ({error}); writing goes on once it works again"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return f"is damaged ({error}); {_RESTORE}"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return f"can't be written or opened ({error}); look at the rights of file and folder"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"another program holds it ({error}); close what else has it open"
        case _:
            return f"{type(error).__name__}: {error}"
