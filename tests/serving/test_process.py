"""The service as a person starts it: `candidfeed serve`, over a restart, asked by a fuzzer."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from tests.conftest import Typed, item_id, user_id
from tests.serving.conftest import event, publish, until

from candidfeed.feed.served import Served
from candidfeed.release.storage import read_directory


@contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process, once it is ready, and its address."""
    command = [sys.executable, "-m", "candidfeed", "serve", str(folder), "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("Ready: http://127.0.0.1:"), process.communicate()
            yield process, line.split()[1]
        finally:
            process.kill()


def test_it_starts_shows_a_key_once_ends_when_told_and_forgets_nothing(
    tiny_release: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    key_file = tmp_path / "key"
    # Left by somebody, and open to all.
    key_file.touch(mode=0o644)
    # Of users no more is held than one with few events.
    options = ("--store", str(state / "store.db"), "--key-file", str(key_file))
    options += ("--history-mb", "0.001")
    with served(tiny_release, *options) as (process, address):
        key = key_file.read_text().strip()
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
        headers = {"Authorization": f"Bearer {key}"}
        first = httpx.post(f"{address}/v1/feed", json={"user_id": "zoe"}, headers=headers).json()
        assert first["mode"] == "popular"
        sent = httpx.post(
            f"{address}/v1/events", json=event("p1", "zoe", item_id(2)), headers=headers
        )
        assert sent.json()["accepted"] == 1
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGTERM)
        assert [json.loads(line)["event"] for line in told.splitlines()] == [
            "release in force",
            "stopped",
        ]
        assert "zoe" not in told
    key_file.unlink()
    with served(tiny_release, *options) as (process, address):
        assert not key_file.exists()
        after = httpx.post(f"{address}/v1/feed", json={"user_id": "zoe"}, headers=headers).json()
        assert after["mode"] == "personal"
        again = httpx.post(
            f"{address}/v1/events", json=event("p1", "zoe", item_id(2)), headers=headers
        )
        assert again.json()["duplicate"] == 1
        why = httpx.get(f"{address}/v1/why/{first['request_id']}/1", headers=headers).json()
        assert why["item_id"] == first["slots"][0]["item_id"]


def test_without_keys_it_asks_for_none_and_only_on_this_machine(
    tiny_release: Path, tmp_path: Path, typed: Typed
) -> None:
    store = ("--store", str(tmp_path / "store.db"))
    with served(tiny_release, "--no-auth", *store) as (_, address):
        answer = httpx.post(f"{address}/v1/feed", json={"user_id": user_id(3)})
        assert answer.status_code == 200
        assert httpx.get(f"{address}/v1/keys").status_code == 404
        # One writer a store.
        code, _, told = typed("serve", tiny_release, "--port", 0, *store)
        assert (code, "writes to this store already" in told) == (2, True)
    code, _, told = typed("serve", tiny_release, "--no-auth", "--host", "0.0.0.0")
    assert code == 2
    assert told == "error: --no-auth: 0.0.0.0 can be reached from elsewhere; leave it out\n"


def test_it_ends_though_a_client_never_sends_the_rest(tiny_release: Path, tmp_path: Path) -> None:
    options = ("--no-auth", "--store", str(tmp_path / "store.db"))
    with served(tiny_release, *options) as (process, address):
        url = httpx.URL(address)
        with socket.create_connection((url.host, url.port)) as half:
            half.sendall(b"POST /v1/feed HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            assert httpx.get(f"{address}/livez").status_code == 200
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGTERM)
        events = [json.loads(line)["event"] for line in told.splitlines()]
        assert (events[0], events[-1]) == ("release in force", "stopped")


def test_nothing_of_a_release_is_kept_once_another_is_in_force(
    tiny_release: Path, tiny_served: Served, tmp_path: Path
) -> None:
    folder = tmp_path / "releases"
    shutil.copytree(tiny_release, folder)
    first = read_directory(folder).release_id

    def has_it_mapped() -> bool:
        return first in Path(f"/proc/{process.pid}/maps").read_text()

    options = ("--no-auth", "--store", str(tmp_path / "store.db"))
    with served(folder, *options) as (process, address), httpx.Client(base_url=address) as client:

        def feed() -> dict:
            return client.post("/v1/feed", json={"user_id": user_id(3)}).json()

        assert feed()["release_id"] == first
        assert has_it_mapped()
        publish(tiny_served, folder)
        second = read_directory(folder).release_id
        until(lambda: feed()["release_id"] == second, "the second")
        until(lambda: not has_it_mapped(), "the end of the first")


def test_each_request_is_a_line_of_the_log_that_names_nobody(
    tiny_release: Path, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    options = ("--store", str(tmp_path / "store.db"), "--key-file", str(key_file))
    with served(tiny_release, "--log-requests", *options) as (process, address):
        key = key_file.read_text().strip()
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}) as client:
            feed = client.post("/v1/feed", json={"user_id": "zoe", "limit": 3}).json()
            client.get("/v1/feed/zoe?limit=5")
            client.post("/v1/events", json=event("p1", "zoe", "thing"))
            client.get("/v1/items/thing/similar")
            client.post("/v1/feed", content=b'{"user_id": "zoe", "limit": 0}')
            client.delete("/v1/users/zoe")
            client.get("/zoe")
            client.get("/v1/feed/zoe", headers={"Authorization": "Bearer zoe"})
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    lines = [json.loads(line) for line in told.splitlines()]
    requests = [one for one in lines if one["event"] == "request"]
    assert [(one["method"], one["route"], one["status"]) for one in requests] == [
        ("POST", "/v1/feed", 200),
        ("GET", "/v1/feed/{user_id}", 200),
        ("POST", "/v1/events", 200),
        ("GET", "/v1/items/{item_id}/similar", 404),
        ("POST", "/v1/feed", 400),
        ("DELETE", "/v1/users/{user_id}", 200),
        ("GET", "none", 404),
        ("GET", "/v1/feed/{user_id}", 401),
    ]
    base = {"time", "event", "method", "route", "status", "took_ms"}
    of_feed = {*base, "request_id", "degraded", "n_slots"}
    assert [set(one) for one in requests] == [of_feed, of_feed, *[base] * 6]
    assert requests[0]["request_id"] == feed["request_id"]
    assert [(one["degraded"], one["n_slots"]) for one in requests[:2]] == [([], 3), ([], 5)]
    assert all(one["took_ms"] > 0 for one in requests)
    assert [word for word in ("zoe", "thing", "p1", key) if word in told] == []


def test_what_cant_be_served_is_told_in_one_line(
    here: Path, tiny_release: Path, typed: Typed
) -> None:
    code, _, told = typed("serve", "nothing", "--port", 0)
    assert code == 2
    assert " ".join(told.split()).startswith("error: nothing: there is no such folder")
    assert list(here.iterdir()) == []
    code, _, told = typed("serve", tiny_release, "--host", "no.such.host.invalid")
    assert code == 2
    assert "can't listen there" in told


def test_rollback_is_a_command(tiny_release: Path, typed: Typed) -> None:
    code, _, told = typed("rollback", tiny_release)
    assert code == 2
    assert "no release before 0001" in told


def test_a_fuzzer_finds_no_error_of_ours_and_no_answer_that_is_not_described(
    tiny_release: Path, tmp_path: Path
) -> None:
    checks = (
        "not_a_server_error,status_code_conformance,content_type_conformance,"
        "response_schema_conformance"
    )
    options = ("--no-auth", "--store", str(tmp_path / "store.db"), "--requests-per-s", "100000")
    with served(tiny_release, *options) as (_, address):
        done = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json",
                "--checks", checks, "--phases", "coverage,fuzzing", "--max-examples", "20",
                "--seed", "1", "--generation-database", "none",
            ],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:]
    assert "Tested: 15" in done.stdout
