"""How long a release takes to build, by step, and a cold `recommend` from it.

    python benchmarks/bench_build.py [--short] [--data DATASET --user ID]

Prints one JSON line. Each process is started cold; the data set is fetched before. The peers, in
the same call: the classic two stages by `candidfeed reference`, which fit and measure, and write
nothing (--short leaves them out). The target on 2 cores, MovieLens-100K: the build within 60 s,
`recommend` within 3 s.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measured import commit, machine, peak_memory_mib, spread

CANDIDFEED = Path(sys.executable).with_name("candidfeed")
CLASSICS = ("tfrs-retrieval", "tfrs-ranking")
STEP = re.compile(r"^ *([0-9.]+) s  (.+)$", re.MULTILINE)
WARM_UP = 1


def timed(*arguments: str) -> tuple[float, str]:
    """Wall time of one command in seconds, and what it said on standard error."""
    start = time.perf_counter()
    ended = subprocess.run([CANDIDFEED, *arguments], capture_output=True, text=True, check=False)
    took_s = time.perf_counter() - start
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return took_s, ended.stderr


def by_step(told: str, total_s: float) -> dict[str, float]:
    """Seconds of each step, from the times at which each began; `start` is what comes before."""
    begun = [(float(at), name) for at, name in STEP.findall(told)]
    ends = [at for at, _ in begun[1:]] + [total_s]
    steps = {name: round(end - at, 1) for (at, name), end in zip(begun, ends, strict=True)}
    return {"start": begun[0][0], **steps}


def children_cpu_s() -> float:
    """Processor time of all ended children: it tells a slow build from a busy machine."""
    spent = os.times()
    return spent.children_user + spent.children_system


def build(dataset: str, release: Path) -> dict[str, object]:
    before_s = children_cpu_s()
    took_s, told = timed("build", dataset, "-o", str(release))
    cpu_s = children_cpu_s() - before_s
    size_bytes = sum(path.stat().st_size for path in release.rglob("*") if path.is_file())
    return {
        "build_s": round(took_s, 1),
        "build_cpu_s": round(cpu_s, 1),
        "steps_s": by_step(told, took_s),
        "bytes": size_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="few repeats, no peers")
    parser.add_argument("--data", default="ml-100k", help="what `build` is given")
    parser.add_argument("--user", default="42", help="whose list to recommend")
    chosen = parser.parse_args()
    repeats = 5 if chosen.short else 30
    with tempfile.TemporaryDirectory() as folder:
        release = Path(folder) / "release"
        built = build(chosen.data, release)
        memory_mib = peak_memory_mib(of_children=True)
        asked = ["recommend", str(release), "--user", chosen.user]
        lists_s = [timed(*asked)[0] for _ in range(WARM_UP + repeats)]
    peers = () if chosen.short else CLASSICS
    outcome = {
        "benchmark": "build",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "data": Path(chosen.data).name,
        **built,
        "warm_up": WARM_UP,
        "repeats": repeats,
        "recommend": spread(lists_s[WARM_UP:]),
        "peers_s": {name: round(timed("reference", name)[0], 1) for name in peers},
        "peak_memory_mib": memory_mib,
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
