"""Threads that make feeds, and how many requests may wait for them."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
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

    async def first(
        self,
        make: Callable[[], _Made | None],
        late: Callable[[], _Made | None],
        *,
        after_s: float,
    ) -> _Made | None:
        """What `make` gives on a thread, or after so long `late` on this one.

        Where `late` gives None, `make` came first after all. It counts until it has ended, also
        where nobody waits for it any longer.
        """
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        making = self._pool.submit(make)
        self.n_in_flight += 1
        making.add_done_callback(lambda _: self._tell(loop, woken))
        timer = loop.call_later(after_s, _wake, woken)
        # What `asyncio.wait` and an executor's future do beside this takes as long as all of it.
        await woken
        timer.cancel()
        made = None if making.done() else late()
        return await _result(making) if made is None else made

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _tell(self, loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None]) -> None:
        # A loop that has ended waits for nothing.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._ended, woken)

    def _ended(self, woken: asyncio.Future[None]) -> None:
        self.n_in_flight -= 1
        _wake(woken)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


async def _result(making: Future[_Made]) -> _Made:
    return making.result() if making.done() else await asyncio.wrap_future(making)
