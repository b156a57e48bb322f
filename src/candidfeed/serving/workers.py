"""Threads that make feeds, several side by side, and how many requests may wait for them."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import ceil
from typing import Generic, TypeAlias, TypeVar

_Asked = TypeVar("_Asked")
_Made = TypeVar("_Made")
_Making: TypeAlias = Future[Sequence[_Made | None]]


@dataclass(eq=False)
class _Waiting(Generic[_Asked, _Made]):
    """
    Attributes:
        made: what came of it on a thread.
        woken: that there is something to look at: `made`, or that it is late.
    """

    asked: _Asked
    made: "asyncio.Future[_Made | None]"
    woken: asyncio.Future[None]

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


@dataclass
class _Batch(Generic[_Asked, _Made]):
    """What one thread makes at a time; empty until it has one to spare.

    Attributes:
        loop: that is told of its end.
    """

    loop: asyncio.AbstractEventLoop
    waiting: list[_Waiting[_Asked, _Made]] = field(default_factory=list)


class Workers(Generic[_Asked, _Made]):
    """A bounded pool; asked from one event loop.

    A thread takes what waits, up to a number, and makes it at once: side by side it takes less
    time (`feed/steps.py`). Where there are several threads, each takes its part.

    Args:
        make: on a thread; what it gives of each, in order. None: it could not be made in time.
        most: that a thread makes at once.

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
    ) -> None:
        self._make, self._n_workers, self._most = make, n_workers, most
        self._most_in_flight = n_workers + n_waiting
        self._pool = ThreadPoolExecutor(n_workers, thread_name_prefix="feed")
        self._waiting: deque[_Waiting[_Asked, _Made]] = deque()
        self.n_in_flight = 0

    @property
    def is_full(self) -> bool:
        return self.n_in_flight >= self._most_in_flight

    async def first(
        self, asked: _Asked, late: Callable[[], _Made | None], *, after_s: float
    ) -> _Made | None:
        """What is made of it on a thread, or after so long what `late` gives on this one.

        Where `late` gives None, the thread came first after all. It counts until the thread has
        ended with it, also where nobody waits for it any longer.
        """
        loop = asyncio.get_running_loop()
        one = _Waiting[_Asked, _Made](asked, loop.create_future(), loop.create_future())
        self._waiting.append(one)
        self.n_in_flight += 1
        self._submit(_Batch(loop))
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
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, batch: _Batch[_Asked, _Made]) -> None:
        """One call for each that waits: those that find nothing left have nothing to do."""
        making = self._pool.submit(self._make_some, batch)
        making.add_done_callback(lambda done: self._tell(batch, done))

    def _make_some(self, batch: _Batch[_Asked, _Made]) -> Sequence[_Made | None]:
        if not batch.waiting:
            self._take(batch.waiting)
        return self._make([one.asked for one in batch.waiting]) if batch.waiting else ()

    def _take(self, taken: list[_Waiting[_Asked, _Made]]) -> None:
        n = min(self._most, ceil(len(self._waiting) / self._n_workers))
        # Another thread may have taken the last one meanwhile.
        with contextlib.suppress(IndexError):
            while len(taken) < n:
                taken.append(self._waiting.popleft())

    def _tell(self, batch: _Batch[_Asked, _Made], making: _Making[_Made]) -> None:
        # A loop that has ended waits for nothing.
        with contextlib.suppress(RuntimeError):
            if batch.waiting:
                batch.loop.call_soon_threadsafe(self._ended, batch, making)

    def _ended(self, batch: _Batch[_Asked, _Made], making: _Making[_Made]) -> None:
        error = making.exception()
        if error is not None and len(batch.waiting) > 1:
            # Each by itself, so that only the one that can't be made fails.
            for one in batch.waiting:
                self._submit(_Batch(batch.loop, [one]))
            return
        for place, one in enumerate(batch.waiting):
            self.n_in_flight -= 1
            if not one.made.done():
                if error is not None:
                    one.made.set_exception(error)
                else:
                    one.made.set_result(making.result()[place])
            one.wake()
