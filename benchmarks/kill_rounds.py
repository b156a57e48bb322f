"""Kill the feed service at random moments while events come, and ask what it still knows.

    python benchmarks/kill_rounds.py [--rounds 200] [--ready-within 5]
        [--release RELEASES_DIR --data WORLD]

Each round: events come by an open loop of its users, SIGKILL, the store is read, and the service
starts on it again: that is what `ready_s` tells. Every event that was acknowledged in any round
must be in it, once. Without --release a small one is made. Prints one JSON line; exit code 1 where
an event is lost or counted twice, none was acknowledged, or it was not ready again in time.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from candidfeed.data.synthetic.oracle import Oracle
from candidfeed.serving.load.clicks import ClicksOfWorld
from candidfeed.serving.load.client import Client
from candidfeed.serving.load.drive import Driver, poisson_arrivals, run
from candidfeed.serving.load.people import people_of_world
from candidfeed.serving.load.service import read_url, require_answers
from candidfeed.serving.load.traffic import Traffic
from candidfeed.store.store import open_store
from measured import commit, machine
from served import Served, small_release, start

RATE_PER_S, EVENTS_SHARE, TIMEOUT_S = 300.0, 0.8, 5.0
# The service is killed at a random moment of so many seconds.
LONGEST_S = 1.0
READ_AT_ONCE = 10_000


async def until_killed(served: Served, traffic: Traffic, *, after_s: float, seed: int) -> None:
    """Load the service and kill it so many seconds after the load began."""
    service = read_url(served.url, loopback_only=True)
    due_s = poisson_arrivals(RATE_PER_S, after_s + 0.1, np.random.default_rng(seed))
    with closing(Client(service.host, service.port, n_connections=64)) as client:
        await require_answers(client, traffic, service)
        asyncio.get_running_loop().call_later(after_s, served.process.kill)
        await Driver(client, traffic, timeout_s=TIMEOUT_S).open_loop(due_s)


def stored(path: Path) -> Iterator[str]:
    """The event_id of every event that the store holds."""
    with open_store(str(path), read_only=True) as store:
        cursor = 0
        while page := store.events_after(cursor, READ_AT_ONCE):
            cursor = page[-1][0]
            yield from (event.event_id for _, event in page)


def measure(release: Path, world: Path, store: Path, rounds: int, seed: int) -> dict[str, Any]:
    oracle, rng = Oracle.open(world), random.Random(seed)
    acknowledged: set[str] = set()
    ready_s: list[float] = []
    lost: set[str] = set()
    twice = 0
    served = start(release, store=store)
    first_ready_s = served.ready_s
    for number in range(rounds):
        traffic = Traffic(
            people_of_world(oracle),
            ClicksOfWorld(oracle),
            limit=20,
            events_share=EVENTS_SHARE,
            batch=rng.choice((1, 10, 100)),
            rng=np.random.default_rng((seed, number)),
            run_name=f"round-{number}",
        )
        try:
            after_s = rng.uniform(0.0, LONGEST_S)
            run(until_killed(served, traffic, after_s=after_s, seed=number))
        finally:
            served.process.kill()
            served.process.wait()
        acknowledged.update(traffic.sent.acknowledged)
        counts = Counter(stored(store))
        lost |= acknowledged - counts.keys()
        twice += sum(n > 1 for n in counts.values())
        served = start(release, store=store)
        ready_s.append(served.ready_s)
        if sys.stderr.isatty():
            print(f"\r{number + 1}/{rounds}", end="", file=sys.stderr)
    served.process.kill()
    served.process.wait()
    return {
        "rounds": rounds,
        "acknowledged": len(acknowledged),
        "lost": len(lost),
        "counted_twice": twice,
        "stored": len(counts),
        "first_ready_s": round(first_ready_s, 2),
        "ready_s": {"median": round(float(np.median(ready_s)), 2), "max": round(max(ready_s), 2)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--ready-within", type=float, default=5.0, help="seconds")
    parser.add_argument("--release", type=Path, help="folder of releases, for `candidfeed serve`")
    parser.add_argument("--data", type=Path, help="the world that it was built from")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if (chosen.release is None) != (chosen.data is None) or chosen.rounds < 1:
        parser.error("name --release and --data, or neither; and at least one round")
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="candidfeed-bench-") as name:
        scratch = Path(name)
        release, world = chosen.release, chosen.data
        if release is None:
            release, world = small_release(scratch)
        figures = measure(release, world, scratch / "store.db", chosen.rounds, chosen.seed)
    outcome = {
        "benchmark": "kill_rounds",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "load_before": round(load_before, 1),
        **figures,
    }
    print(json.dumps(outcome))
    is_late = figures["ready_s"]["max"] > chosen.ready_within
    is_broken = figures["lost"] or figures["counted_twice"] or not figures["acknowledged"]
    return int(bool(is_late or is_broken))


if __name__ == "__main__":
    sys.exit(main())
