"""Erased over HTTP, proved by the commands: on a file and on a PostgreSQL server."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
from tests.conftest import Typed, item_id, user_id
from tests.serving.conftest import event, until
from tests.serving.test_process import served

from candidfeed.release.erased import users_in
from candidfeed.release.storage import read_directory

# One whom the release knows, one who came since, and one who stays.
KNOWN, CAME_SINCE, STAYS = user_id(5), "somebody since", "somebody else"


def test_who_was_erased_over_http_is_gone_from_everything_with_the_next_retraining(
    where: str,
    tiny_release: Path,
    tiny_log: Path,
    settings_file: Path,
    tmp_path: Path,
    typed: Typed,
) -> None:
    folder, outcome = tmp_path / "releases", tmp_path / "outcome.json"
    shutil.copytree(tiny_release, folder)
    first = read_directory(folder).release_id

    def check(user: str) -> int:
        return typed("erase", folder, user, "--check", "--store", where)[0]

    with (
        served(folder, "--no-auth", "--store", where) as (_, address),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        sent = [
            event(f"{user} {n}", user, item_id(n))
            for user in (KNOWN, CAME_SINCE, STAYS)
            for n in (20, 21)
        ]
        assert client.post("/v1/events", json={"events": sent}).json()["accepted"] == 6
        for user in (KNOWN, CAME_SINCE):
            asked = client.post("/v1/feed", json={"user_id": user}).json()
            assert asked["mode"] == "personal"
            assert check(user) == 1
            assert client.delete(f"/v1/users/{user}").status_code == 200
        # The release still holds whom it was built from.
        assert (check(KNOWN), check(CAME_SINCE)) == (1, 0)

        command = [sys.executable, "-m", "candidfeed", "retrain", folder, "--data", tiny_log]
        options = ["--store", where, "--settings", settings_file, "--force", "--json", outcome]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (check(KNOWN), check(CAME_SINCE), check(STAYS)) == (0, 0, 1)
        until(lambda: client.get("/readyz").json()["release_id"] != first, "the next release")
        assert client.post("/v1/feed", json={"user_id": KNOWN}).json()["mode"] == "popular"
        again = client.post("/v1/events", json=event("again", KNOWN, item_id(22))).json()
        assert (again["accepted"], again["rejected"]) == (0, 1)

    told = json.loads(outcome.read_bytes())
    assert (told["joined"]["n_events"], told["joined"]["n_erased_users"]) == (2, 1)
    (kept,) = (one for one in folder.iterdir() if one.is_dir())
    assert kept.name == told["release"] != first
    assert users_in(kept) & {KNOWN, CAME_SINCE, STAYS} == {STAYS}
