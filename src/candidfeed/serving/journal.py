"""What the service tells of itself: one JSON object a line, without ids in clear."""

import hashlib
import secrets
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
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
