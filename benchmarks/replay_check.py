"""Ask a feed service while events, items and users change, and make all of its feeds again.

    python benchmarks/replay_check.py [--requests 1000] [--release RELEASES_DIR]

A service that keeps what every feed is made from; between the requests come events, deletions,
expiries, new items and what is put of users; in the middle the service is started again. Slates
keep to a policy with diversity and drawn slots. Then `candidfeed replay`. Without --release a small
one is made. Prints one JSON line; exit code 1 where a slate or a feature differs.
"""

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
import urllib.request
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from candidfeed.feed.served import Served as Release
from candidfeed.release.bundle import read_release
from measured import commit, machine
from served import Served, candidfeed, serving, small_release

POLICY = """\
diversity = 0.2

[explore]
positions = [4, 9]
pool = 20
"""
N_USERS = 50


def send(service: Served, method: str, path: str, content: dict[str, Any] | None = None) -> None:
    """
    Raises:
        urllib.error.HTTPError: it was refused.
    """
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"{service.url}{path}", data=body, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


class Traffic:
    """Requests and changes, drawn by a seed."""

    def __init__(self, release: Release, seed: int) -> None:
        self._rng = random.Random(seed)
        self._kind = (*release.settings.positive_kinds, "rating")[0]
        self._users = [*islice(cycle(release.users.ids.to_list()), N_USERS), "somebody new"]
        self._items: list[Any] = release.items["item_id"].to_list()
        self._deleted: set[str] = set()

    def feed(self, service: Served) -> None:
        rng = self._rng
        asked: dict[str, Any] = {"user_id": rng.choice(self._users), "limit": rng.randrange(1, 51)}
        if rng.random() < 0.2:
            asked["mode"] = rng.choice(("popular", "latest"))
        if rng.random() < 0.2:
            asked["deny"] = rng.sample(self._items, 20)
        if rng.random() < 0.1:
            asked["allow"] = rng.sample(self._items, 100)
        send(service, "POST", "/v1/feed", {**asked, "debug": rng.random() < 0.1})

    def change(self, service: Served, number: int) -> None:
        rng = self._rng
        user, item = rng.choice(self._users), rng.choice(self._items)
        kind = rng.choices(("event", "delete", "new", "expire", "user"), (20, 2, 1, 1, 2))[0]
        of_item, of_user = f"/v1/items/{quote(str(item))}", f"/v1/users/{quote(str(user))}"
        if kind == "event":
            event = {"event_id": f"{os.getpid()}-{number}", "user_id": user, "item_id": item}
            more = {"kind": self._kind, "value": rng.randrange(1, 6), "time_s": time.time()}
            send(service, "POST", "/v1/events", {**event, **more})
        elif kind == "delete":
            self._deleted.add(str(item))
            send(service, "DELETE", of_item)
        elif kind == "user":
            blocked = rng.sample(self._items, 5)
            send(service, "PUT", of_user, {"fields": {"blocked_items": list(map(str, blocked))}})
        elif kind == "new":
            # As text or as a number it is no item of the release.
            new = 10**12 + rng.randrange(100)
            send(service, "PUT", f"/v1/items/{new}", {"fields": {"title": f"New {number}"}})
        elif str(item) not in self._deleted:
            expiry = {"expires_s": time.time() + rng.choice((-60, 3_600))}
            send(service, "PUT", of_item, {"fields": expiry})


def measure(release: Path, folder: Path, n_requests: int, seed: int) -> dict[str, Any]:
    store, policy, outcome = folder / "store.db", folder / "policy.toml", folder / "outcome.json"
    policy.write_text(POLICY)
    options = ("--sample-features", "1", "--policy", str(policy))
    traffic = Traffic(read_release(release), seed)
    for half in range(2):
        with serving(release, store=store, more=options) as service:
            for number in range(n_requests // 2):
                traffic.change(service, half * n_requests + number)
                traffic.feed(service)
    began = time.perf_counter()
    candidfeed(
        "replay", release, "--store", store, "-n", n_requests, "--json", outcome,
        may_end_in=(0, 1),
    )  # fmt: skip
    took_s = time.perf_counter() - began
    found = json.loads(outcome.read_bytes())
    n_differing = len(found.pop("differing"))
    stored = store.stat().st_size
    return {**found, "n_differing": n_differing, "replay_s": took_s, "store_bytes": stored}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--release", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        release = options.release or small_release(Path(folder))[0]
        figures = measure(release, Path(folder), options.requests, options.seed)
    line = {
        "benchmark": "replay_check", "commit": commit(), "machine": machine(),
        "python": platform.python_version(), "requests": options.requests, **figures,
    }  # fmt: skip
    print(json.dumps(line))
    return 1 if figures["n_differing"] or figures["n_same"] < 2 * (options.requests // 2) else 0


if __name__ == "__main__":
    sys.exit(main())
