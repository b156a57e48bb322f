"""How long a slate takes in one process: the whole request, and each of its stages.

    python benchmarks/bench_feed.py [--short] [--release DIR]

Prints one JSON line. Users with a past are drawn at random, all are asked for at the end of the
log, 20 items each. `p50_ms` and the like are what the caller waits, `cpu_ms` what the whole process
computes meanwhile, XLA's threads included; a stage's time holds that of the stages it calls, and a
pass without the stages' clocks gives the whole. Without a release one is built of a small synthetic
world. The target on 2 cores, a million items: p50 2.5 ms, ready within 4 s, 1.2 GiB.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import numpy as np

from candidfeed.data.synthetic.files import write_world
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.feed import pipeline, scoring
from candidfeed.feed.served import Person, Served
from candidfeed.release.bundle import read_release
from measured import commit, loop_ms, machine, peak_memory_mib, spread

CANDIDFEED = Path(sys.executable).with_name("candidfeed")
SHORT_WORLD = WorldSettings(n_users=2_000, n_items=1_000, n_events=40_000, seed=0)
K, WARM_UP = 20, 50
STAGES: tuple[tuple[Any, str], ...] = (
    (pipeline, "view_of"), (scoring, "user_vector"), (pipeline, "propose"), (pipeline, "eligible"),
    (pipeline, "merge"), (pipeline, "score"), (scoring, "dense_features"),
    (scoring, "predictions"), (pipeline, "value"), (pipeline, "selected_of"),
    (pipeline, "history_reasons"), (pipeline, "unknown_features"),
)  # fmt: skip

Clocks = dict[str, list[tuple[float, float]]]


def clocked(call: Callable[..., Any], taken: list[tuple[float, float]]) -> Callable[..., Any]:
    """The same function; its wall and processor seconds are noted."""

    def run(*arguments: Any, **named: Any) -> Any:
        start, start_cpu = time.perf_counter(), time.process_time()
        outcome = call(*arguments, **named)
        taken.append((time.perf_counter() - start, time.process_time() - start_cpu))
        return outcome

    return run


@contextmanager
def stages_clocked() -> Iterator[Clocks]:
    clocks: Clocks = defaultdict(list)
    with ExitStack() as stack:
        for module, name in STAGES:
            timed = clocked(getattr(module, name), clocks[name])
            stack.enter_context(patch.object(module, name, timed))
        yield clocks


def figures(taken: list[tuple[float, float]]) -> dict[str, float]:
    """Milliseconds: p50, p95, p99 of the wall, and of the processor the mean."""
    wall = spread([1e3 * wall_s for wall_s, _ in taken])
    return {
        **{name.replace("_s", "_ms"): ms for name, ms in wall.items()},
        "cpu_ms": round(1e3 * mean(cpu_s for _, cpu_s in taken), 3),
    }


def asked(served: Served, people: list[Person]) -> list[tuple[float, float]]:
    now_s = float(np.nanmax(served.pasts.times_s, initial=0.0))
    taken: list[tuple[float, float]] = []
    # As the service asks.
    ask = pipeline.Ask(k=K, now_s=now_s, in_full=False)
    recommend = clocked(pipeline.recommend, taken)
    for person in people:
        recommend(served, person, ask)
    return taken[WARM_UP:]


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
        whole = asked(served, people)
        with stages_clocked() as clocks:
            asked(served, people)
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
        "recommend": figures(whole),
        "stages": {name: figures(taken) for name, taken in clocks.items() if len(taken) > 1},
        "peak_memory_mib": peak_memory_mib(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
