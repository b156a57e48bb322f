"""Releases are swapped under load: no failed request, no answer of two releases."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import polars as pl
import pytest
from tests.conftest import user_id
from tests.serving.conftest import Running, Start, publish

from candidfeed.errors import ReleaseError
from candidfeed.feed.item_table import ItemTable
from candidfeed.feed.served import Served
from candidfeed.release import bundle, storage
from candidfeed.release.storage import read_directory, roll_back

MARK = " (second)"


def second_of(served: Served) -> Served:
    """The same with other titles: an answer shows which release it was made of."""
    titled = served.items.frame.with_columns(pl.col("title") + MARK)
    return replace(served, items=ItemTable(titled))


def in_force(one: Running, release_id: str) -> None:
    for _ in range(2_000):
        if one.client.get("/readyz").json()["release_id"] == release_id:
            return
        threading.Event().wait(0.01)
    pytest.fail(f"{release_id} did not come into force")


def until_loaded(one: Running, outcome: str) -> None:
    for _ in range(2_000):
        if one.metric("candidfeed_release_loads_total", outcome=outcome):
            return
        threading.Event().wait(0.01)
    pytest.fail(f"no release was {outcome}")


def test_swaps_and_rollbacks_under_load_fail_nothing_and_mix_nothing(
    start: Start, tiny_served: Served
) -> None:
    one = start()
    first = read_directory(one.folder).release_id
    publishing = second_of(tiny_served)
    is_over = threading.Event()
    answers: list[tuple[str, set[bool]]] = []

    def ask(seed: int) -> None:
        with httpx.Client(base_url=one.client.base_url, headers=one.client.headers) as client:
            while not is_over.is_set():
                answer = client.post("/v1/feed", json={"user_id": user_id(seed)}, timeout=60)
                assert answer.status_code == 200, answer.text
                told = answer.json()
                marks = {slot["title"].endswith(MARK) for slot in told["slots"]}
                answers.append((told["release_id"], marks))

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, seed) for seed in range(3)]
        try:
            for _ in range(2):
                publish(publishing, one.folder, swap=True)
                in_force(one, read_directory(one.folder).release_id)
                roll_back(one.folder)
                in_force(one, read_directory(one.folder).release_id)
        finally:
            is_over.set()
        for each in asking:
            each.result()
    assert {marks == {release != first} for release, marks in answers} == {True}
    assert len({release for release, _ in answers}) >= 2


def test_rollback_puts_the_one_before_in_force_and_the_next_build_keeps_it(
    tiny_release: Path, tiny_served: Served, tmp_path: Path
) -> None:
    folder = tmp_path / "releases"
    shutil.copytree(tiny_release, folder)
    first = read_directory(folder).release_id
    with pytest.raises(ReleaseError, match="no release before 0001"):
        roll_back(folder)
    publish(second_of(tiny_served), folder)
    assert read_directory(folder).release_id.startswith("0002-")
    assert roll_back(folder).release_id == first == read_directory(folder).release_id
    publish(second_of(tiny_served), folder)
    assert read_directory(folder).release_id.startswith("0003-")
    assert roll_back(folder).release_id == first


@pytest.mark.parametrize("name", ["manifest.json", "items.parquet"])
def test_rollback_to_a_release_that_was_changed_is_refused(
    tiny_release: Path, tiny_served: Served, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "releases"
    shutil.copytree(tiny_release, folder)
    first = read_directory(folder).path
    publish(second_of(tiny_served), folder)
    second = read_directory(folder).release_id
    path = first / name
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1) + b" ")
    with pytest.raises(ReleaseError, match=name):
        roll_back(folder)
    assert read_directory(folder).release_id == second


def test_a_release_that_cant_be_read_leaves_the_one_before_in_force(
    start: Start, tiny_served: Served
) -> None:
    one = start()
    first = read_directory(one.folder).release_id
    before = one.feed(user_id(3))["slots"]
    # A pointer to nothing, as a copy that went wrong would leave.
    pointer = one.folder / "current"
    pointer.write_bytes(pointer.read_bytes().replace(b"0001-", b"0002-"))
    until_loaded(one, "failed")
    assert one.metric("candidfeed_release_loads_total", outcome="failed") == 1
    assert one.client.get("/readyz").json()["release_id"] == first
    assert one.feed(user_id(3))["slots"] == before


@pytest.mark.parametrize(
    ("module", "step"),
    [
        (storage, "_read_pointer"),
        (storage, "_read_listing"),
        (bundle, "map_tensors"),
        (bundle, "read_functions"),
    ],
)
def test_a_release_that_is_deleted_while_it_is_loaded_leaves_the_one_before_in_force(
    start: Start,
    tiny_served: Served,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    step: str,
) -> None:
    one, lines = start(), io.StringIO()
    monkeypatch.setattr(one.service.journal, "_stream", lines)
    first = read_directory(one.folder).release_id
    before = one.feed(user_id(3))["slots"]
    real, is_published, deleted = getattr(module, step), threading.Event(), list[str]()

    def then_delete(*arguments: Any) -> Any:
        came = real(*arguments)
        is_loading = threading.current_thread().name == "releases"
        if is_loading and not deleted and b" 0002-" in (one.folder / "current").read_bytes():
            assert is_published.wait(60)
            (second,) = one.folder.glob("0002-*")
            shutil.rmtree(second)
            deleted.append(second.name)
        return came

    monkeypatch.setattr(module, step, then_delete)
    publish(second_of(tiny_served), one.folder)
    is_published.set()
    until_loaded(one, "failed")
    assert deleted
    assert one.client.get("/readyz").json()["release_id"] == first
    assert one.feed(user_id(3))["slots"] == before
    (told,) = map(json.loads, lines.getvalue().splitlines())
    assert told["event"] == "release not loaded"
    assert deleted[0] in told["why"]
    assert "version" not in told["why"]
    assert one.metric("candidfeed_release_loads_total", outcome="failed") == 1
    publish(second_of(second_of(tiny_served)), one.folder)
    in_force(one, read_directory(one.folder).release_id)
    assert all(slot["title"].endswith(2 * MARK) for slot in one.feed(user_id(3))["slots"])


def test_since_when_a_release_is_in_force_is_told_whenever_it_was_loaded(
    tiny_release: Path, tmp_path: Path, start: Start
) -> None:
    older = tmp_path / "older"
    shutil.copytree(tiny_release, older)
    os.utime(older / "current", (1e9, 1e9))
    one = start(older)
    first = read_directory(one.folder).release_id
    assert one.metric("candidfeed_release_in_force_timestamp_seconds", release_id=first) == 1e9
    loaded_s = one.metric("candidfeed_release_loaded_timestamp_seconds", release_id=first)
    assert abs(loaded_s - time.time()) < 3600


def test_a_folder_that_vanishes_changes_nothing(start: Start) -> None:
    one = start()
    before = one.feed(user_id(3))["slots"]
    shutil.rmtree(one.folder)
    assert one.service.releases.live is not None
    assert one.feed(user_id(3))["slots"] == before
    assert one.client.get("/readyz").status_code == 200


def test_the_service_imports_no_training_code(tiny_release: Path, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from candidfeed.serving.app import describe
from candidfeed.serving.server import run
from candidfeed.serving.service import Service
from candidfeed.serving.settings import ServeSettings
from candidfeed.store.store import open_store
store = open_store(sys.argv[2])
with Service.open(Path(sys.argv[1]), store, ServeSettings(), with_keys=False) as service:
    service.start()
    describe(service).openapi()
heavy = {"keras", "keras_rs", "tensorflow", "torch", "sklearn", "implicit", "pandas"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_release), str(tmp_path / "store.db")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"
