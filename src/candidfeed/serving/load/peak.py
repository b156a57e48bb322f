"""The highest rate that a service still answers in time."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from candidfeed.serving.load.tally import Tally

LIMIT_S: Final = 0.050
SHARE_IN_TIME: Final = 0.99
# After the doubling: the peak is known to within 1/16 of the rate that held last.
N_BISECTIONS: Final = 4
HIGHEST_PER_S: Final = 20_000.0


@dataclass(frozen=True, slots=True)
class Step:
    """One rate that was tried."""

    rate_per_s: float
    tally: Tally

    @property
    def holds(self) -> bool:
        return self.tally.holds(limit_s=LIMIT_S, share=SHARE_IN_TIME)


async def find_peak(
    measure: Callable[[float], Awaitable[Tally]],
    *,
    first_per_s: float,
    told: Callable[[Step], None] = lambda _: None,
) -> list[Step]:
    """Double the rate until it does not hold, or halve it until it does; then bisect.

    A rate that does not hold is tried once more before it is given up: on a machine with other
    work one stall of its own would end the search.

    Returns:
        all that was tried, in order; the peak is the highest that held.
    """
    steps: list[Step] = []

    async def holds(rate_per_s: float) -> bool:
        for _ in range(2):
            steps.append(Step(rate_per_s, await measure(rate_per_s)))
            told(steps[-1])
            if steps[-1].holds:
                return True
        return False

    low = high = first_per_s
    if await holds(first_per_s):
        while (high := low * 2) <= HIGHEST_PER_S and await holds(high):
            low = high
    else:
        while (low := high / 2) >= 1 and not await holds(low):
            high = low
    for _ in range(N_BISECTIONS if 1 <= low and high <= HIGHEST_PER_S else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if await holds(middle) else (low, middle)
    return steps


def peak_of(steps: list[Step]) -> Step | None:
    """The highest rate that held; None where none did."""
    return max((step for step in steps if step.holds), key=lambda one: one.rate_per_s, default=None)
