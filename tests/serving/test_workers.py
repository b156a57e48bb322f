"""Threads that make what waits side by side: nothing is lost, and only what is broken fails."""

import asyncio
import random
import threading
from collections.abc import Sequence

import pytest

from candidfeed.serving.workers import Workers

LONG_S = 30.0


class Kitchen:
    """Makes what it is asked for in capitals, once the gate is open."""

    def __init__(self) -> None:
        self.gate, self.began = threading.Event(), threading.Event()
        self.asked: list[tuple[str, ...]] = []

    def make(self, some: Sequence[str]) -> list[str | None]:
        self.asked.append(tuple(some))
        self.began.set()
        assert self.gate.wait(LONG_S)
        if "broken" in some:
            raise ValueError("should not be")
        return [None if one == "too late" else one.upper() for one in some]


def opened(kitchen: Kitchen, n_workers: int = 1, most: int = 3) -> Workers[str, str]:
    return Workers(kitchen.make, n_workers=n_workers, n_waiting=8, most=most)


async def asked_in_turn(
    workers: Workers[str, str], kitchen: Kitchen, *asked: str
) -> list[str | BaseException | None]:
    """What comes of each; all but the first wait while that one is made."""

    def begun(one: str) -> asyncio.Future[str | None]:
        return asyncio.ensure_future(workers.first(one, lambda: "late", after_s=LONG_S))

    asking = [begun(asked[0])]
    await asyncio.to_thread(kitchen.began.wait, LONG_S)
    asking += [begun(one) for one in asked[1:]]
    # Each has its turn once.
    await asyncio.sleep(0)
    assert workers.n_in_flight == len(asked)
    kitchen.gate.set()
    return await asyncio.gather(*asking, return_exceptions=True)


def test_what_waits_is_made_at_once_up_to_a_number() -> None:
    kitchen = Kitchen()
    workers = opened(kitchen, most=3)
    assert asyncio.run(asked_in_turn(workers, kitchen, *"abcdef")) == [*"ABCDEF"]
    assert kitchen.asked == [("a",), ("b", "c", "d"), ("e", "f")]
    assert workers.n_in_flight == 0
    workers.close()


def test_of_two_threads_each_takes_its_part() -> None:
    kitchen = Kitchen()
    workers = opened(kitchen, n_workers=2, most=8)

    assert asyncio.run(asked_in_turn(workers, kitchen, *"abcdef")) == [*"ABCDEF"]
    assert max(len(some) for some in kitchen.asked) <= 3
    assert sorted("".join(map("".join, kitchen.asked))) == [*"abcdef"]
    workers.close()


@pytest.mark.parametrize("n_workers", [1, 2])
def test_nothing_that_comes_as_a_thread_ends_is_left_waiting(n_workers: int) -> None:
    kitchen = Kitchen()
    kitchen.gate.set()
    workers = opened(kitchen, n_workers=n_workers)
    rng = random.Random(0)

    async def ask(one: int) -> None:
        for place in range(300):
            assert await workers.first(f"{one}.{place}x", lambda: "late", after_s=LONG_S)
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * 1e-4)

    async def ask_all() -> None:
        await asyncio.gather(*(ask(one) for one in range(4)))

    asyncio.run(ask_all())
    made = [one for some in kitchen.asked for one in some]
    assert len(made) == len(set(made)) == 4 * 300
    assert workers.n_in_flight == 0
    workers.close()


def test_only_what_is_broken_fails() -> None:
    kitchen = Kitchen()
    workers = opened(kitchen)
    made = asyncio.run(asked_in_turn(workers, kitchen, "a", "b", "broken", "c"))
    assert (made[0], made[1], made[3]) == ("A", "B", "C")
    with pytest.raises(ValueError, match="should not be"):
        raise made[2] if isinstance(made[2], BaseException) else AssertionError(made[2])
    assert workers.n_in_flight == 0
    workers.close()


def test_what_could_not_be_made_in_time_is_made_late() -> None:
    kitchen = Kitchen()
    workers = opened(kitchen)
    assert asyncio.run(asked_in_turn(workers, kitchen, "a", "too late")) == ["A", "late"]
    workers.close()


def test_what_is_late_counts_until_its_thread_has_ended() -> None:
    kitchen = Kitchen()
    workers = opened(kitchen)

    async def late_first() -> str | None:
        answer = await workers.first("a", lambda: "late", after_s=0.0)
        assert workers.n_in_flight == 1
        kitchen.gate.set()
        while workers.n_in_flight:
            await asyncio.sleep(0)
        return answer

    assert asyncio.run(late_first()) == "late"
    workers.close()


def test_where_the_thread_was_first_after_all_its_answer_is_taken() -> None:
    kitchen = Kitchen()
    workers = opened(kitchen)

    def came_first() -> None:
        kitchen.gate.set()

    assert asyncio.run(workers.first("a", came_first, after_s=0.0)) == "A"
    workers.close()


async def are_full(workers: Workers[str, str], kitchen: Kitchen, names: str) -> list[bool]:
    """Whether they are full before each comes and after the last, while nothing is made."""
    found, asking = [workers.is_full], []
    for one in names:
        asking.append(asyncio.ensure_future(workers.first(one, lambda: None, after_s=LONG_S)))
        await asyncio.sleep(0)
        found.append(workers.is_full)
    kitchen.gate.set()
    await asyncio.gather(*asking)
    return found


def test_where_each_takes_long_less_may_wait() -> None:
    kitchen = Kitchen()
    workers = Workers(kitchen.make, n_workers=1, n_waiting=8, most=3, patience_s=1e-6)
    full = asyncio.run(are_full(workers, kitchen, "abcde"))
    # How long each takes is not known before the first is made.
    assert full == [False] * 6
    kitchen.gate.clear()
    assert asyncio.run(are_full(workers, kitchen, "abcde")) == [False] * 3 + [True] * 3
    assert not workers.is_full
    workers.close()


def test_more_than_may_wait_is_full() -> None:
    kitchen = Kitchen()
    workers = opened(kitchen)
    assert asyncio.run(are_full(workers, kitchen, "abcdefghi")) == [False] * 9 + [True]
    workers.close()
