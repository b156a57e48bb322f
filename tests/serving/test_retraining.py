"""The next release is made beside the service, from its log, and swapped in under load."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import TINY_ITEMS, item_id, user_id
from tests.serving.conftest import event
from tests.serving.test_process import served

from candidfeed.release.storage import read_directory, roll_back
from candidfeed.store.records import Event
from candidfeed.store.store import open_store
from candidfeed.training.settings_file import written
from candidfeed.training.two_stage import TwoStageSettings

T = 1_720_000_000.0
# Titles of items that were put later: an answer shows which release it was made of.
MARK = "!"
PUBLISHED = 'candidfeed_retrains_total{outcome="published"} 1.0'
ERASED, ADDED = user_id(5), "somebody new"


def until(is_so: Callable[[], object], what: str) -> None:
    for _ in range(2_400):
        if is_so():
            return
        threading.Event().wait(0.1)
    pytest.fail(f"{what} did not come")


def fill(where: Path) -> None:
    """As many users and items as before, so that nothing is compiled anew for the test."""
    with open_store(str(where)) as store:
        rated = [(f"e{u}-{i}", user_id(u), item_id(i)) for u in range(9) for i in (u, u + 9)]
        store.append_events(
            [Event(one, u, i, "rating", 5.0, T + n) for n, (one, u, i) in enumerate(rated)]
        )
        for i in range(TINY_ITEMS):
            title = f"Film {i}, the 🎬"
            fields = {"title": title + MARK, "words": title, "tags": [("even", "odd")[i % 2]]}
            store.put_item(item_id(i), {**fields, "owner": "x"}, T)
        store.put_user(ADDED, {"job": "nurse"}, T)
        store.delete_user(ERASED, T)


@pytest.fixture
def settings_file(tmp_path: Path, tiny_settings: TwoStageSettings) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(written(tiny_settings))
    return path


def test_a_release_is_made_and_swapped_and_taken_back_under_load(
    tiny_release: Path, tiny_log: Path, tmp_path: Path, settings_file: Path
) -> None:
    folder, where = tmp_path / "releases", tmp_path / "store.db"
    shutil.copytree(tiny_release, folder)
    # Long ago: the next release is due.
    os.utime(folder / "current", (0, 0))
    first = read_directory(folder).release_id
    fill(where)
    is_over = threading.Event()
    answers: list[tuple[str, tuple[Any, ...], set[bool]]] = []

    def ask(address: str, seed: int) -> None:
        asked = {"user_id": user_id(20 + seed), "context": {"time_s": T + 10**6}}
        with httpx.Client(base_url=address, timeout=60) as client:
            # Modest: the training has what feeds leave it.
            while not is_over.wait(0.1):
                answer = client.post("/v1/feed", json=asked)
                assert answer.status_code == 200, answer.text
                told = answer.json()
                slots = tuple((seed, one["item_id"], one["score"]) for one in told["slots"])
                marks = {one["title"].endswith(MARK) for one in told["slots"]}
                answers.append((told["release_id"], slots, marks))
                # Of a kind that this data set does not learn from: each run trains on the same.
                sent = event(f"{seed}-{len(answers)}", ADDED, item_id(seed), kind="click")
                assert client.post("/v1/events", json=sent).json()["accepted"] == 1

    options = (
        "--no-auth", "--store", str(where), "--deadline-ms", "60000",
        "--retrain-every", "1", "--data", str(tiny_log), "--settings", str(settings_file),
    )  # fmt: skip
    with (
        served(folder, *options) as (process, address),
        httpx.Client(base_url=address, timeout=60) as client,
        ThreadPoolExecutor(3) as pool,
    ):

        def in_force() -> str:
            return client.get("/readyz").json()["release_id"]

        def metrics() -> str:
            return client.get("/metrics").text

        asking = [pool.submit(ask, address, seed) for seed in range(3)]
        try:
            until(lambda: in_force() != first or "d_retrains_total{" in metrics(), "a new release")
            second = in_force()
            assert second != first, metrics()
            assert roll_back(folder).release_id == first
            until(lambda: in_force() == first, "the release before")
            # It is told once the command has ended, which is after the swap.
            until(lambda: "d_retrains_total{" in metrics(), "the outcome")
            assert PUBLISHED in metrics()
        finally:
            is_over.set()
        for each in asking:
            each.result()
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    # No answer is of two releases, and each release has one answer to one question.
    assert {release for release, _, _ in answers} == {first, second}
    assert {marks == {release == second} for release, _, marks in answers} == {True}
    assert len({(release, slots) for release, slots, _ in answers}) == 6
    lines = [json.loads(line) for line in told.splitlines()]
    assert [one["event"] for one in lines if one["event"] != "release in force"] == [
        "retraining", "retrained",
    ]  # fmt: skip
    (done,) = (one for one in lines if one["event"] == "retrained")
    assert (done["outcome"], done["release"]) == ("published", second)
    assert process.returncode == 0
