"""How long a slate takes in one process: the whole request, its stages, and several side by side.

    python benchmarks/bench_feed.py [--short] [--release DIR]

Prints one JSON line. Users with a past are drawn at random, all are asked for at the end of the
log, 20 items each. `p50_ms` and the like are what the caller waits, `cpu_ms` what the whole process
computes meanwhile, XLA's threads included. `side_by_side` is the time of one of so many feeds that
are made together, as the service makes those that wait (`feed/steps.py`), sizes in turns. Without
a release one is built of a small synthetic world. The target on 2 cores, a million items: p50 2.5
ms, ready within 4 s, 1.2 GiB.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, median

import numpy as np

from candidfeed.data.synthetic.files import write_world
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.feed import pipeline
from candidfeed.feed.served import Person, Served
from candidfeed.feed.steps import alone, clocked, side_by_side
from candidfeed.release.bundle import read_release
from measured import commit, loop_ms, machine, peak_memory_mib, spread

CANDIDFEED = Path(sys.executable).with_name("candidfeed")
SHORT_WORLD = WorldSettings(n_users=2_000, n_items=1_000, n_events=40_000, seed=0)
K, WARM_UP = 20, 50
SIDE_BY_SIDE = (1, 2, 4, 8, 16)
BURST = 64


def in_ms(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: p50, p95, p99."""
    found = spread([1e3 * one for one in seconds])
    return {name.replace("_s", "_ms"): ms for name, ms in found.items()}


def ask_of(served: Served) -> pipeline.Ask:
    """As the service asks."""
    now_s = float(np.nanmax(served.pasts.times_s, initial=0.0))
    return pipeline.Ask(k=K, now_s=now_s, in_full=False)


def asked(
    served: Served, people: list[Person]
) -> tuple[list[tuple[float, float]], dict[str, list[float]]]:
    """Wall and processor seconds of each request, and wall seconds by stage."""
    whole: list[tuple[float, float]] = []
    by_stage: dict[str, list[float]] = defaultdict(list)
    ask = ask_of(served)
    for person in people:
        start, start_cpu, seconds = time.perf_counter(), time.process_time(), dict[str, float]()
        steps = pipeline.recommend_in_steps(served, person, ask)
        alone(clocked(steps, seconds, time.perf_counter))
        whole.append((time.perf_counter() - start, time.process_time() - start_cpu))
        for stage, taken_s in seconds.items():
            by_stage[stage].append(taken_s)
    return whole[WARM_UP:], {stage: taken[WARM_UP:] for stage, taken in by_stage.items()}


def together_ms(served: Served, people: list[Person]) -> dict[int, float]:
    """Median milliseconds of one feed among so many that are made together."""
    ask, taken = ask_of(served), defaultdict[int, list[float]](list)
    for start in range(0, len(people) - BURST + 1, BURST):
        for size in SIDE_BY_SIDE:
            began = time.perf_counter()
            for first in range(start, start + BURST, size):
                some = people[first : first + size]
                side_by_side([pipeline.recommend_in_steps(served, one, ask) for one in some])
            taken[size].append((time.perf_counter() - began) / BURST)
    return {size: round(1e3 * median(seconds), 3) for size, seconds in taken.items()}


def someone_each(served: Served, n: int) -> list[Person]:
    with_past = np.flatnonzero(np.diff(served.pasts.ends, prepend=0))
    rows = np.random.default_rng(0).choice(with_past, n)
    return [served.person(served.users.id_of(int(row))) for row in rows]


def small_release(folder: Path) -> Path:
    print("bench_feed: making a world and a release", file=sys.stderr)
    write_world(SHORT_WORLD, folder / "world")
    command = [CANDIDFEED, "build", folder / "world", "-o", folder / "release"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "release"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="few requests")
    parser.add_argument("--release", type=Path, help="a release; else a small one is built")
    chosen = parser.parse_args()
    # As `candidfeed serve`: XLA asks for it when it first computes.
    os.environ.setdefault("NPROC", "1")
    loop_before_ms = loop_ms()
    with tempfile.TemporaryDirectory() as scratch:
        release = chosen.release or small_release(Path(scratch))
        start = time.perf_counter()
        served = read_release(release)
        served.compile(quickly=False)
        ready_s = time.perf_counter() - start
        people = someone_each(served, WARM_UP + (200 if chosen.short else 2_000))
        whole, by_stage = asked(served, people)
        together = together_ms(served, people)
    outcome = {
        "benchmark": "feed",
        "commit": commit(),
        "machine": machine(),
        "loop_ms": [loop_before_ms, loop_ms()],
        "python": platform.python_version(),
        "dataset": served.settings.dataset,
        "n_items": served.n_items,
        "n_candidates": served.settings.n_candidates,
        "k": K,
        "warm_up": WARM_UP,
        "repeats": len(whole),
        "ready_s": round(ready_s, 2),
        "recommend": {
            **in_ms([wall_s for wall_s, _ in whole]),
            "cpu_ms": round(1e3 * mean(cpu_s for _, cpu_s in whole), 3),
        },
        "stages": {stage: in_ms(taken) for stage, taken in by_stage.items()},
        "side_by_side_ms": together,
        "peak_memory_mib": peak_memory_mib(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
