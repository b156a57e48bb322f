"""Several feeds made side by side: a stage of all of them, then the next stage of all.

Since a stage last ran, its code, the items' features and the model's weights have left the
processor's caches; of several feeds side by side the first one fetches for all what they share.
Each feed is computed as if it were alone, to the last bit.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, MutableMapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeAlias, TypeVar

_Made = TypeVar("_Made")

# Yields the name of each stage before it begins: another feed may have its turn there.
Steps: TypeAlias = Generator[str, None, _Made]


def alone(steps: Steps[_Made]) -> _Made:
    """All steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


class Helper:
    """A second thread, for stages that hold Python's lock for a small part of their time.

    Two threads that make whole feeds would wait for that lock most of the time (docs/log.md).

    Attributes:
        stages: by name.
    """

    def __init__(self, stages: Set[str]) -> None:
        self.stages = stages
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="helper")

    def share(self, work: Callable[[int], None], places: Iterable[int]) -> None:
        """Each place once, by this thread or the other, whichever is free; until all is done.

        What is raised on either is raised here, once neither is at it.
        """
        left = deque(places)

        def some() -> None:
            while True:
                try:
                    place = left.popleft()
                except IndexError:
                    return
                work(place)

        other = self._pool.submit(some)
        try:
            some()
        finally:
            # Where it has not begun, nothing is left for it.
            has_begun = not other.cancel()
            if has_begun:
                wait([other])
        if has_begun:
            other.result()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()


def side_by_side(many: Sequence[Steps[_Made]], helper: Helper | None = None) -> list[_Made]:
    """A step of each in turn, until all have ended; in the order in which they came.

    What one of them raises, this raises; the others are not made then.

    Args:
        helper: takes its part of the stages that are its own, where all are at one of them.
    """
    made: dict[int, _Made] = {}
    stages = [""] * len(many)

    def step(place: int) -> None:
        try:
            stages[place] = next(many[place])
        except StopIteration as end:
            made[place] = end.value

    while left := [place for place in range(len(many)) if place not in made]:
        if helper and len(left) > 1 and {stages[place] for place in left} <= helper.stages:
            helper.share(step, left)
        else:
            for place in left:
                step(place)
    return [made[place] for place in range(len(many))]


def clocked(
    steps: Steps[_Made], seconds: MutableMapping[str, float], clock: Callable[[], float]
) -> Steps[_Made]:
    """The same steps.

    Args:
        seconds: by stage, to which the time that it takes is added; not that of other feeds
            in between.
    """
    stage = next(steps)
    while True:
        yield stage
        began = clock()
        try:
            following = next(steps)
        except StopIteration as end:
            return end.value
        finally:
            seconds[stage] = seconds.get(stage, 0.0) + clock() - began
        stage = following
