"""What the service tells of itself: one JSON object a line, without ids in clear."""

import hashlib
import logging
import secrets
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from pydantic_core import to_json


class Journal:
    """Lines on a stream; for any thread.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, stream: TextIO = sys.stderr, *, clock: Callable[[], float]) -> None:
        self._stream, self._clock = stream, clock
        self._lock = threading.Lock()
        # Made anew at each start: a line can't be tied to a person later.
        self._secret = secrets.token_bytes(16)

    def write(self, event: str, **about: Any) -> None:
        """One line; what is written must not name a user."""
        time = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        line = to_json({"time": time, "event": event, **about}, inf_nan_mode="null").decode()
        with self._lock:
            print(line, file=self._stream, flush=True)

    def veiled(self, user_id: str | None) -> str | None:
        """A name under which lines of one user can be found together, in one run of the service."""
        if user_id is None:
            return None
        return hashlib.blake2b(user_id.encode(), key=self._secret, digest_size=6).hexdigest()

    def write_error(self, event: str, error: BaseException, **about: Any) -> None:
        """One line for an error that should not be; its message might name somebody."""
        where = traceback.format_tb(error.__traceback__)
        self.write(event, **about, error=type(error).__name__, where="".join(where))


class Surviving:
    """A block whose errors are told, and end nothing else: `with Surviving(journal, "keeper"):`."""

    def __init__(self, journal: Journal, what: str) -> None:
        self._journal, self._what = journal, what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._journal.write_error("unexpected error", error, of=self._what)
        return True


class _Lines(logging.Handler):
    """What libraries log, as lines of a journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        about = {"logger": record.name, "level": record.levelname.lower()}
        if record.exc_info is not None and record.exc_info[1] is not None:
            self._journal.write_error("log", record.exc_info[1], **about)
        else:
            self._journal.write("log", **about, message=record.getMessage())


@contextmanager
def all_in(journal: Journal) -> Iterator[None]:
    """Warnings, what libraries log, and errors that end a thread are lines of it too."""
    lines, before = _Lines(journal), threading.excepthook

    def ended(about: threading.ExceptHookArgs) -> None:
        name = None if about.thread is None else about.thread.name
        if about.exc_value is not None:
            journal.write_error("thread ended", about.exc_value, thread=name)

    logging.captureWarnings(True)
    logging.getLogger().addHandler(lines)
    threading.excepthook = ended
    try:
        yield
    finally:
        threading.excepthook = before
        logging.getLogger().removeHandler(lines)
        logging.captureWarnings(False)
