"""Feeds made side by side: each as if it were alone, and each with its own time."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from candidfeed.feed.pipeline import Ask, recommend, recommend_in_steps
from candidfeed.feed.served import Served
from candidfeed.feed.steps import Helper, Steps, alone, clocked, side_by_side


@pytest.fixture
def helper() -> Iterator[Helper]:
    one = Helper({"search"})
    yield one
    one.close()


def counting(name: str, n: int, log: list[str]) -> Steps[str]:
    for number in range(n):
        yield f"stage {number}"
        log.append(f"{name}{number}")
    return name


def test_a_stage_of_all_comes_before_the_next_stage_of_any() -> None:
    log: list[str] = []
    made = side_by_side([counting("a", 3, log), counting("b", 1, log), counting("c", 2, log)])
    assert made == ["a", "b", "c"]
    assert log == ["a0", "b0", "c0", "a1", "c1", "a2"]


def test_alone_or_of_nobody_is_the_same_without_others() -> None:
    log: list[str] = []
    assert alone(counting("a", 2, log)) == "a"
    assert log == ["a0", "a1"]
    assert side_by_side([]) == []


def test_what_one_raises_is_raised() -> None:
    def broken() -> Steps[str]:
        yield "stage 0"
        raise ValueError("should not be")

    with pytest.raises(ValueError, match="should not be"):
        side_by_side([counting("a", 2, []), broken()])


def test_each_is_told_the_time_of_its_own_stages() -> None:
    now_s = 0.0

    def working(took_s: tuple[float, ...]) -> Steps[None]:
        nonlocal now_s
        for stage, seconds in zip(("view", "search", "view"), took_s, strict=True):
            yield stage
            now_s += seconds

    first, second = dict[str, float](), {"read": 7.0}
    side_by_side(
        [
            clocked(working((1.0, 2.0, 4.0)), first, lambda: now_s),
            clocked(working((8.0, 16.0, 32.0)), second, lambda: now_s),
        ]
    )
    assert first == {"view": 5.0, "search": 2.0}
    assert second == {"read": 7.0, "view": 40.0, "search": 16.0}


def test_a_helper_takes_its_part_of_its_stages_alone(helper: Helper) -> None:
    both = threading.Barrier(2, timeout=60)
    threads: dict[str, set[int]] = {"view": set(), "search": set()}

    def working() -> Steps[int]:
        for stage in threads:
            yield stage
            threads[stage].add(threading.get_ident())
            if stage == "search":
                # Nobody passes unless two threads are here.
                both.wait()
        return 1

    assert side_by_side([working() for _ in range(4)], helper) == [1] * 4
    assert threads["view"] == {threading.get_ident()}
    assert len(threads["search"]) == 2


@pytest.mark.parametrize("broken", range(3))
def test_what_is_raised_beside_a_helper_is_raised_once_neither_is_at_it(
    helper: Helper, broken: int
) -> None:
    n_at_it = 0

    def working(number: int) -> Steps[None]:
        nonlocal n_at_it
        yield "search"
        n_at_it += 1
        try:
            if number == broken:
                raise ValueError("should not be")
        finally:
            n_at_it -= 1

    with pytest.raises(ValueError, match="should not be"):
        side_by_side([working(number) for number in range(3)], helper)
    assert n_at_it == 0
    assert side_by_side([counting("a", 1, []), counting("b", 1, [])], helper) == ["a", "b"]


def test_a_helper_that_is_busy_is_not_waited_for(helper: Helper) -> None:
    is_over, has_begun = threading.Event(), threading.Event()

    def for_long() -> Steps[None]:
        yield "search"
        has_begun.set()
        assert is_over.wait(60)

    busy = threading.Thread(target=side_by_side, args=([for_long(), for_long()], helper))
    busy.start()
    assert has_begun.wait(60)

    def quick() -> Steps[int]:
        yield "search"
        return threading.get_ident()

    assert side_by_side([quick(), quick()], helper) == [threading.get_ident()] * 2
    is_over.set()
    busy.join()


@pytest.mark.parametrize("is_helped", [False, True])
def test_slates_made_side_by_side_are_those_made_alone(
    tiny_served: Served, helper: Helper, is_helped: bool
) -> None:
    def asked() -> Iterator[tuple[Served, object, Ask]]:
        for number, user_id in enumerate(tiny_served.users.ids):
            ask = Ask(k=5 + number % 3, now_s=1.7e9, request_id=str(number))
            yield tiny_served, tiny_served.person(user_id), ask
        yield tiny_served, tiny_served.anonymous, replace(ask, everybodys="latest")

    steps = [recommend_in_steps(*one) for one in asked()]
    together = side_by_side(steps, helper if is_helped else None)
    for one, slate in zip(asked(), together, strict=True):
        by_itself = recommend(*one)
        assert slate.slots == by_itself.slots
        np.testing.assert_array_equal(slate.dense, by_itself.dense)
