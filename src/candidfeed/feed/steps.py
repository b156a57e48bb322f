"""Several feeds made side by side: a stage of all of them, then the next stage of all.

Since a stage last ran, its code, the items' features and the model's weights have left the
processor's caches; of several feeds side by side the first one fetches for all what they share.
Each feed is computed as if it were alone, to the last bit.
"""

from collections.abc import Callable, Generator, MutableMapping, Sequence
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


def side_by_side(many: Sequence[Steps[_Made]]) -> list[_Made]:
    """A step of each in turn, until all have ended; in the order in which they came.

    What one of them raises, this raises; the others are not made then.
    """
    made: dict[int, _Made] = {}
    while len(made) < len(many):
        for place, steps in enumerate(many):
            if place not in made:
                try:
                    next(steps)
                except StopIteration as end:
                    made[place] = end.value
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
