"""Threads that make feeds, and how many requests may wait for them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Made = TypeVar("_Made")


class Workers:
    """A bounded pool; asked from one event loop.

    Attributes:
        n_in_flight: what waits or is made.
    """

    def __init__(self, n_workers: int, n_waiting: int) -> None:
        self._most = n_workers + n_waiting
        self._pool = ThreadPoolExecutor(n_workers, thread_name_prefix="feed")
        self.n_in_flight = 0

    @property
    def is_full(self) -> bool:
        return self.n_in_flight >= self._most

    def start(self, make: Callable[[], _Made]) -> asyncio.Future[_Made]:
        """Counts until it has ended, also where nobody waits for it any longer."""
        self.n_in_flight += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, make)
        future.add_done_callback(self._ended)
        return future

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _ended(self, future: asyncio.Future) -> None:
        self.n_in_flight -= 1
        if not future.cancelled():
            # Looked at, or asyncio complains of what nobody waits for any longer.
            future.exception()
