"""Requests sent by a schedule that was made beforehand, or so many at a time."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from candidfeed.serving.load.answers import WrongAnswerError
from candidfeed.serving.load.client import Answer, Client
from candidfeed.serving.load.tally import Tally, Times
from candidfeed.serving.load.traffic import PATHS, Ask, Traffic

T = TypeVar("T")

# Of one run.
MOST_REQUESTS: Final = 2_000_000
# Requests that are due and not answered; further ones fail as "not sent".
MOST_WAITING: Final = 10_000
_PAUSE_AFTER_FAILURE_S: Final = 0.05


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end on an event loop that wakes to the microsecond.

    The selector that asyncio takes on Linux rounds every wait up to a whole millisecond, and each
    request would be sent as much too late.
    """

    def loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


def poisson_arrivals(
    rate_per_s: float, seconds: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """When requests are due, in seconds from the start, ascending: a Poisson process.

    Their number is the expected one, so that two runs at one rate ask equally many.
    """
    return np.sort(rng.uniform(0, seconds, round(rate_per_s * seconds)))


class Driver:
    """Sends what `traffic` makes and tells the tally what came.

    Args:
        timeout_s: an answer that takes longer has failed; its connection is closed.
        progress: called each time that a request has ended.
    """

    def __init__(
        self,
        client: Client,
        traffic: Traffic,
        *,
        timeout_s: float,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._client, self._traffic = client, traffic
        self._timeout_s, self._progress = timeout_s, progress
        self._n_waiting = 0

    async def open_loop(self, due_s: NDArray[np.float64], *, warm_up_s: float = 0.0) -> Tally:
        """Each request is sent when it is due, whether or not those before it are answered.

        Args:
            due_s: ascending, in seconds from now; those before `warm_up_s` are not counted.
        """
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        tally = Tally(start_s=start_s + warm_up_s)
        async with asyncio.TaskGroup() as group:
            for due in (start_s + due_s).tolist():
                await asyncio.sleep(max(due - loop.time(), 0))
                if self._n_waiting < MOST_WAITING:
                    self._n_waiting += 1
                    group.create_task(self._one(due, tally))
                else:
                    self._end(self._traffic.next(), "not sent", due, tally)
        return tally

    async def closed_loop(
        self, *, n_in_flight: int, seconds: float, warm_up_s: float = 0.0
    ) -> Tally:
        """So many people who each wait for their answer before they ask again."""
        loop = asyncio.get_running_loop()
        tally = Tally(start_s=loop.time() + warm_up_s)

        async def person() -> None:
            while loop.time() < tally.start_s + seconds and tally.n < MOST_REQUESTS:
                n_failed = tally.n_failed
                self._n_waiting += 1
                await self._one(loop.time(), tally)
                if tally.n_failed > n_failed:
                    await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(n_in_flight):
                group.create_task(person())
        return tally

    async def send_left(self, *, batch: int) -> Tally:
        """Send the clicks that were not reported yet, batch by batch."""
        loop = asyncio.get_running_loop()
        tally = Tally(start_s=loop.time())
        for ask in self._traffic.left(batch=batch):
            await self._send(ask, loop.time(), tally)
        return tally

    async def _send(self, ask: Ask, due_s: float, tally: Tally) -> None:
        """Send one request now."""
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._client.post(PATHS[ask.kind], ask.body)
        except TimeoutError:
            self._end(ask, "timeout", due_s, tally)
        except OSError:
            self._end(ask, "no answer", due_s, tally)
        else:
            self._take(ask, answer, due_s, tally)

    async def _one(self, due_s: float, tally: Tally) -> None:
        try:
            await self._send(self._traffic.next(), due_s, tally)
        finally:
            self._n_waiting -= 1

    def _take(self, ask: Ask, answer: Answer, due_s: float, tally: Tally) -> None:
        name, read = str(answer.status), None
        if answer.status == 200:
            try:
                read = self._traffic.read(ask, answer.body)
            except WrongAnswerError as error:
                name = f"wrong: {error}"
        tally.add(ask.kind, name, Times(due_s, answer.sent_s, answer.ended_s), read)
        self._progress()

    def _end(self, ask: Ask, name: str, due_s: float, tally: Tally) -> None:
        """Without an answer."""
        now_s = asyncio.get_running_loop().time()
        tally.add(ask.kind, name, Times(due_s, now_s, now_s))
        self._progress()
