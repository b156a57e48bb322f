"""Other processes make the same feeds, and whatever becomes of them no request fails."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from tests.conftest import item_id, user_id
from tests.serving.conftest import Running, Start, event, publish, until
from tests.serving.test_releases import MARK, in_force, second_of

from candidfeed.feed.policy import Explore, Policy
from candidfeed.feed.served import Served
from candidfeed.release.storage import read_directory, roll_back
from candidfeed.serving.replay import differences
from candidfeed.serving.sample import decode_sample

TWO: dict[str, Any] = {"n_processes": 2, "n_workers": 1}
N_THREADS = 4


def n_handed_over(one: Running) -> float:
    return one.metric("candidfeed_stage_seconds_count", stage="hand over")


def with_makers(start: Start, **settings: Any) -> Running:
    one = start(**TWO, **settings)
    until(lambda: one.metric("candidfeed_makers") == 1, "another process")
    return one


def feeds(one: Running, n: int, **asked: Any) -> list[dict[str, Any]]:
    """So many of each thread, several at a time, so that both processes have some."""

    def ask(thread: int) -> list[dict[str, Any]]:
        with httpx.Client(base_url=one.client.base_url, headers=one.client.headers) as client:
            answers = [
                client.post(
                    "/v1/feed",
                    json={"user_id": user_id((thread + number) % 8), **asked},
                    timeout=60,
                )
                for number in range(n)
            ]
        assert {answer.status_code for answer in answers} == {200}
        return [answer.json() for answer in answers]

    with ThreadPoolExecutor(N_THREADS) as pool:
        return [answer for answers in pool.map(ask, range(N_THREADS)) for answer in answers]


@contextmanager
def asked_all_the_time(one: Running) -> Iterator[list[dict[str, Any]]]:
    """Feeds are asked for until the block ends; then their answers are there."""
    is_over, answers = threading.Event(), list[dict[str, Any]]()

    def ask() -> None:
        while not is_over.is_set():
            answers.extend(feeds(one, 5))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield answers
        finally:
            is_over.set()
        asking.result()


def test_both_processes_make_the_same_feeds_and_what_they_make_is_replayed(
    start: Start, tiny_served: Served
) -> None:
    policy = Policy(0.3, {"tags": 6}, Explore((2, 5), 6))
    one = with_makers(start, sample_features=1.0, policy=policy)
    assert one.send(event("e1", user_id(1), item_id(7)))["accepted"] == 1
    item = one.client.put("/v1/items/newcomer", json={"fields": {"title": "New", "tags": ["odd"]}})
    assert item.status_code == 200
    answers = feeds(one, 15, limit=8)
    assert 0 < n_handed_over(one) < len(answers)
    assert not any(answer["degraded"] for answer in answers)
    assert "New" in {slot["title"] for answer in answers for slot in answer["slots"]}
    one.service.store.flush()
    records = [record for _, record in one.service.store.slates_after(0, 1_000)]
    assert len(records) == len(answers)
    for record in records:
        assert record.features is not None
        assert differences(tiny_served, record, decode_sample(record.features))[0] == []
    tiny_served.newcomers.reset()
    tiny_served.index.reset()


def test_what_is_deleted_is_in_no_feed_that_is_asked_for_after(start: Start) -> None:
    one = with_makers(start)
    n_before = n_handed_over(one)
    for number in range(5):
        gone = item_id(number)
        assert one.client.delete(f"/v1/items/{gone}").status_code == 200
        shown = {s["item_id"] for answer in feeds(one, 5) for s in answer["slots"]}
        assert gone not in shown
        assert shown
    assert n_handed_over(one) > n_before


def test_one_that_is_killed_fails_no_request_and_is_replaced(start: Start) -> None:
    one = with_makers(start)
    (killed,) = one.service.makers.pids
    with asked_all_the_time(one) as answers:
        until(lambda: n_handed_over(one) > 5, "what is handed over")
        os.kill(killed, signal.SIGKILL)
        until(lambda: one.metric("candidfeed_lost_makers_total") == 1, "the loss")
        until(lambda: one.service.makers.pids not in ([], [killed]), "one in its place")
        until(lambda: one.metric("candidfeed_makers") == 1, "the release in the new one")
        n_before = n_handed_over(one)
        until(lambda: n_handed_over(one) > n_before, "what is handed to the new one")
    assert not any(answer["degraded"] for answer in answers)


def test_swap_and_rollback_bring_the_release_to_all_and_mix_nothing(
    start: Start, tiny_served: Served
) -> None:
    one = with_makers(start)
    assert one.client.delete(f"/v1/items/{item_id(3)}").status_code == 200
    first = read_directory(one.folder).release_id

    def in_both(release_id: str) -> None:
        in_force(one, release_id)
        until(lambda: one.metric("candidfeed_makers") == 1, "this release in the other")
        n_before = n_handed_over(one)
        until(lambda: n_handed_over(one) > n_before + 5, "what of it is handed over")

    with asked_all_the_time(one) as answers:
        publish(second_of(tiny_served), one.folder, swap=True)
        second = read_directory(one.folder).release_id
        in_both(second)
        assert one.client.delete(f"/v1/items/{item_id(4)}").status_code == 200
        roll_back(one.folder)
        in_both(first)
    assert {answer["release_id"] for answer in answers} == {first, second}
    for answer in answers:
        marks = {slot["title"].endswith(MARK) for slot in answer["slots"]}
        assert marks == {answer["release_id"] == second}
        # Of the new one too the other process was told what was deleted before.
        assert item_id(3) not in [slot["item_id"] for slot in answer["slots"]]
    for answer in feeds(one, 5):
        assert item_id(4) not in [slot["item_id"] for slot in answer["slots"]]


def test_a_feed_that_can_not_be_made_in_time_elsewhere_is_answered_here(start: Start) -> None:
    one = with_makers(start, deadline_ms=400.0)
    (pid,) = one.service.makers.pids

    def late() -> list[dict[str, Any]]:
        return [answer for answer in answers if answer["degraded"] == ["retrieval_late"]]

    os.kill(pid, signal.SIGSTOP)
    try:
        # Which process a feed falls to is chance.
        with asked_all_the_time(one) as answers:
            until(late, "a feed that fell to the other")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {len(answer["slots"]) for answer in late()} == {20}


def test_the_other_processes_end_with_the_service(start: Start) -> None:
    one = with_makers(start)
    (pid,) = one.service.makers.pids
    one.service.makers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    # And it goes on by itself.
    assert len(feeds(one, 1)) == N_THREADS
