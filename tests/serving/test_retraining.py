"""The next release is made beside the service, from its log, and swapped in under load."""

import io
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import Typed, item_id, user_id
from tests.serving.conftest import event, until
from tests.serving.test_process import served

from candidfeed.release.storage import read_directory, roll_back
from candidfeed.serving.journal import Journal
from candidfeed.serving.metrics import Metrics
from candidfeed.serving.retraining import Retraining
from candidfeed.store.records import Event
from candidfeed.store.store import open_store

T = 1_720_000_000.0
# Of titles in the data that the next release is made of: an answer shows which one it was made by.
MARK = "!"
PUBLISHED = 'candidfeed_retrains_total{outcome="published"} 1.0'


def has_failed(metrics: str) -> bool:
    """Whether a retraining has ended without a release."""
    return "candidfeed_retrains_total{" in metrics and PUBLISHED not in metrics


def fill(where: Path) -> None:
    """Of users and items that are there: nothing is compiled anew for the test."""
    with open_store(str(where)) as store:
        rated = [(f"e{u}-{i}", user_id(u), item_id(i)) for u in range(9) for i in (u, u + 9)]
        store.append_events(
            [Event(one, u, i, "rating", 5.0, T + n) for n, (one, u, i) in enumerate(rated)]
        )


def test_a_release_is_made_and_swapped_and_taken_back_under_load(
    tiny_release: Path, tiny_log: Path, tmp_path: Path, settings_file: Path
) -> None:
    folder, where = tmp_path / "releases", tmp_path / "store.db"
    shutil.copytree(tiny_release, folder)
    # Long ago: the next release is due.
    os.utime(folder / "current", (0, 0))
    first = read_directory(folder).release_id
    fill(where)
    data = tmp_path / tiny_log.name
    shutil.copytree(tiny_log, data)
    items = (data / "items.csv").read_text(encoding="utf-8")
    (data / "items.csv").write_text(items.replace("the 🎬", f"the 🎬{MARK}"), encoding="utf-8")
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
                sent = event(f"{seed}-{len(answers)}", "somebody new", item_id(seed), kind="click")
                assert client.post("/v1/events", json=sent).json()["accepted"] == 1

    options = (
        "--no-auth", "--store", str(where), "--deadline-ms", "60000",
        "--retrain-every", "1", "--data", str(data), "--settings", str(settings_file),
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
            until(lambda: in_force() != first or has_failed(metrics()), "a new release")
            second = in_force()
            assert second != first, metrics()
            assert roll_back(folder).release_id == first
            until(lambda: in_force() == first, "the release before")
            # It is told once the command has ended, which may be before the swap or after.
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
        "retraining", "retrained", "stopped",
    ]  # fmt: skip
    (done,) = (one for one in lines if one["event"] == "retrained")
    assert (done["outcome"], done["release"]) == ("published", second)
    assert process.returncode == 0


# The schedule by itself, with commands that end at once


@contextmanager
def scheduled(script: str, *, in_force_s: float = 0.0) -> Iterator[tuple[Metrics, io.StringIO]]:
    """A schedule of an hour whose command runs this script; the path of its outcome is `told`."""
    metrics, lines = Metrics(), io.StringIO()
    head = "import json, sys; told = sys.argv[-1]; "
    one = Retraining(
        [sys.executable, "-c", head + script], dict(os.environ), every_s=3600,
        in_force_s=lambda: in_force_s, metrics=metrics,
        journal=Journal(lines, clock=lambda: T),
    )  # fmt: skip
    try:
        yield metrics, lines
    finally:
        one.close()


def events_of(lines: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("script", "outcome", "about"),
    [
        (
            "json.dump({'outcome': 'published', 'release': '0002-ab'}, open(told, 'w'))",
            "published", {"release": "0002-ab"},
        ),
        (
            "json.dump({'outcome': 'refused', 'why': 'worse'}, open(told, 'w')); sys.exit(1)",
            "refused", {"why": "worse"},
        ),
        (
            "print('a line', file=sys.stderr); sys.exit('error: 1 x bad; first: user ann; mend')",
            "failed", {"why": "1 x bad"},
        ),
        ("sys.exit(3)", "failed", {"why": "ended with 3"}),
    ],
)  # fmt: skip
def test_what_became_of_a_retraining_is_told_counted_and_tried_again_only_when_due(
    script: str, outcome: str, about: dict[str, str]
) -> None:
    with scheduled(script) as (metrics, lines):
        until(lambda: len(events_of(lines)) == 2, "the outcome")
    began, done = events_of(lines)
    assert began["event"] == "retraining"
    told = {name: done[name] for name in ("release", "why") if name in done}
    assert (done["outcome"], told) == (outcome, about)
    count = metrics.registry.get_sample_value
    assert count("candidfeed_retrains_total", {"outcome": outcome}) == 1
    when = count("candidfeed_retrained_timestamp_seconds")
    assert (when == 0) == (outcome != "published")


def test_nothing_is_retrained_before_it_is_due() -> None:
    with scheduled("sys.exit(3)", in_force_s=time.time() - 3500) as (_, lines):
        pass
    assert lines.getvalue() == ""


def test_a_retraining_in_hand_ends_with_the_service_and_is_not_told_as_a_failure() -> None:
    with scheduled("import signal; signal.pause()") as (metrics, lines):
        until(lambda: lines.getvalue(), "the beginning")
    assert [one["event"] for one in events_of(lines)] == ["retraining"]
    assert b"candidfeed_retrains_total{" not in metrics.text()


def test_a_retraining_ends_when_the_service_is_killed(
    tiny_release: Path, tiny_log: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "releases"
    shutil.copytree(tiny_release, folder)
    os.utime(folder / "current", (0, 0))
    options = ("--retrain-every", "1", "--data", str(tiny_log), "--store", str(tmp_path / "s.db"))
    with served(folder, "--no-auth", *options) as (process, _):
        (child,) = _children(process.pid)
        process.kill()
        process.wait()
        until(lambda: not _is_running(child), "the end of the child")


def _children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(one) for thread in threads for one in (thread / "children").read_text().split()]


def _is_running(pid: int) -> bool:
    try:
        # After the name in brackets: the state, Z where only nobody has asked for its end yet.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_schedule_needs_its_data_set(tiny_release: Path, typed: Typed) -> None:
    code, _, told = typed("serve", tiny_release, "--retrain-every", "24")
    assert (code, "--retrain-every and --data go together" in told) == (2, True)


def test_another_data_set_than_the_releases_is_refused(
    tiny_release: Path,
    tiny_log: Path,
    tmp_path: Path,
    typed: Typed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In the process of the tests: all that follow would come last as well.
    monkeypatch.setattr(os, "nice", lambda by: by)
    other = tmp_path / "other"
    shutil.copytree(tiny_log, other)
    code, _, told = typed("retrain", tiny_release, "--data", other)
    assert code == 2
    assert "and this is 'other'" in told
