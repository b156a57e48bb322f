"""Threads that make feeds, several side by side, and how many requests may wait for them."""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, inf
from types import TracebackType
from typing import Final, Generic, TypeVar

_Asked = TypeVar("_Asked")
_Made = TypeVar("_Made")
# How much the latest one counts in the time that each takes.
_RECENT: Final = 0.02


@dataclass(eq=False)
class _Waiting(Generic[_Asked, _Made]):
    """
    Attributes:
        loop: that waits for it.
        made: what came of it on a thread.
        woken: that there is something to look at: `made`, or that it is late.
    """

    asked: _Asked
    loop: asyncio.AbstractEventLoop
    made: "asyncio.Future[_Made | None]"
    woken: asyncio.Future[None]

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


class _Batch(Generic[_Asked, _Made]):
    """What one thread makes at a time; as a context it keeps what is raised in it.

    Attributes:
        made: of each, in order, once it is made.
        error: why it is not.
    """

    def __init__(self, waiting: Sequence[_Waiting[_Asked, _Made]]) -> None:
        self.waiting = waiting
        self.made: Sequence[_Made | None] = ()
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self.error = error
        return True


class Workers(Generic[_Asked, _Made]):
    """A bounded pool; asked from one event loop.

    A thread takes what waits, up to a number, and makes it at once: side by side it takes less
    time (`feed/steps.py`). Where there are several threads, each takes its part. It goes on until
    nothing waits: only then a thread is to be woken for what comes next.

    Args:
        make: on a thread; what it gives of each, in order. None: it could not be made in time.
        n_waiting: how many may wait.
        most: that a thread makes at once.
        patience_s: as many as are made within it; where each takes long no more than these may be
            in flight, nor fewer than the threads make at once.

    Attributes:
        n_in_flight: what waits or is made.
    """

    def __init__(
        self,
        make: Callable[[Sequence[_Asked]], Sequence[_Made | None]],
        *,
        n_workers: int,
        n_waiting: int,
        most: int,
        patience_s: float = inf,
    ) -> None:
        self._make, self._n_workers, self._most = make, n_workers, most
        self._most_in_flight = n_workers + n_waiting
        self._patience_s, self._each_s = patience_s, 0.0
        self._pool = ThreadPoolExecutor(n_workers, thread_name_prefix="feed")
        self._waiting: deque[_Waiting[_Asked, _Made]] = deque()
        # Threads that are at it; each ends under the lock, and only where nothing waits.
        self._n_at_it = 0
        self._lock = threading.Lock()
        self.n_in_flight = 0

    @property
    def is_full(self) -> bool:
        if self.n_in_flight >= self._most_in_flight:
            return True
        wait_s = self.n_in_flight * self._each_s / self._n_workers
        return wait_s > self._patience_s and self.n_in_flight >= self._n_workers * self._most

    async def first(
        self, asked: _Asked, late: Callable[[], _Made | None], *, after_s: float
    ) -> _Made | None:
        """What is made of it on a thread, or after so long what `late` gives on this one.

        Where `late` gives None, the thread came first after all. It counts until the thread has
        ended with it, also where nobody waits for it any longer.
        """
        loop = asyncio.get_running_loop()
        one = _Waiting(asked, loop, loop.create_future(), loop.create_future())
        self.n_in_flight += 1
        with self._lock:
            self._waiting.append(one)
            is_one_free = self._n_at_it < self._n_workers
            if is_one_free:
                self._n_at_it += 1
        if is_one_free:
            self._pool.submit(self._run)
        timer = loop.call_later(after_s, one.wake)
        # What `asyncio.wait` and an executor's future do beside this takes as long as all of it.
        await one.woken
        timer.cancel()
        made = one.made.result() if one.made.done() else None
        if made is None and (made := late()) is None:
            return await one.made
        one.made.cancel()
        return made

    def close(self) -> None:
        """What waits is still made; nothing more is taken."""
        self._pool.shutdown(wait=True)

    def _run(self) -> None:
        while batch := self._taken():
            self._make_all(_Batch(batch))

    def _taken(self) -> list[_Waiting[_Asked, _Made]]:
        """What this thread makes next; nothing where it ends."""
        with self._lock:
            n = min(self._most, ceil(len(self._waiting) / self._n_workers))
            if not n:
                self._n_at_it -= 1
            return [self._waiting.popleft() for _ in range(n)]

    def _make_all(self, batch: _Batch[_Asked, _Made]) -> None:
        began, n = time.perf_counter(), len(batch.waiting)
        with batch:
            batch.made = self._make([one.asked for one in batch.waiting])
        # Several threads may do so: it is but an estimate.
        self._each_s += _RECENT * n * ((time.perf_counter() - began) / n - self._each_s)
        if batch.error is not None and n > 1:
            # Each by itself, so that only the one that can't be made fails.
            for one in batch.waiting:
                self._make_all(_Batch([one]))
            return
        # A loop that has ended waits for nothing.
        with contextlib.suppress(RuntimeError):
            batch.waiting[0].loop.call_soon_threadsafe(self._ended, batch)

    def _ended(self, batch: _Batch[_Asked, _Made]) -> None:
        for place, one in enumerate(batch.waiting):
            self.n_in_flight -= 1
            if not one.made.done():
                if batch.error is not None:
                    one.made.set_exception(batch.error)
                else:
                    one.made.set_result(batch.made[place])
            one.wake()
