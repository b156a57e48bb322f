"""The search of the highest rate that holds."""

import asyncio

import pytest

from candidfeed.serving.load.answers import Slate
from candidfeed.serving.load.peak import Step, find_peak, peak_of
from candidfeed.serving.load.tally import Tally, Times


def search(highest: float, first: float, *, stalls_at: int = -1) -> list[Step]:
    """Of a service that holds up to a rate; one step of its own accord does not."""
    n_steps = 0

    async def measure(rate_per_s: float) -> Tally:
        nonlocal n_steps
        n_steps += 1
        tally = Tally(start_s=0.0)
        took_s = 0.01 if rate_per_s <= highest and n_steps != stalls_at else 1.0
        tally.add("feed", "200", Times(0.0, 0.0, took_s), Slate("r", "a", (), ()))
        return tally

    return asyncio.run(find_peak(measure, first_per_s=first))


def rates(steps: list[Step]) -> list[float]:
    return [step.rate_per_s for step in steps]


def test_the_rate_is_doubled_and_then_bisected() -> None:
    steps = search(330, 50)
    assert rates(steps) == [50, 100, 200, 400, 400, 300, 350, 350, 325, 337.5, 337.5]
    peak = peak_of(steps)
    assert peak is not None
    assert peak.rate_per_s == 325


def test_a_first_rate_that_does_not_hold_is_halved() -> None:
    steps = search(30, 100)
    assert rates(steps)[:5] == [100, 100, 50, 50, 25]
    peak = peak_of(steps)
    assert peak is not None
    assert peak.rate_per_s == pytest.approx(29.6875)


def test_one_stall_does_not_end_the_search() -> None:
    steps = search(330, 50, stalls_at=2)
    assert rates(steps)[:4] == [50, 100, 100, 200]
    assert max(step.rate_per_s for step in steps if step.holds) == 325


def test_where_no_rate_holds_there_is_no_peak() -> None:
    steps = search(0, 8)
    assert rates(steps) == [8, 8, 4, 4, 2, 2, 1, 1]
    assert peak_of(steps) is None


def test_a_search_ends_where_the_tool_itself_would_be_measured() -> None:
    assert rates(search(1e9, 4_000)) == [4_000, 8_000, 16_000]
