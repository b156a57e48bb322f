"""How long a cold process of the command line takes, from start to end.

    python benchmarks/bench_start.py [--short] [--release DIR --user ID]

Prints one JSON line. The target: every `--help` within 0.5 s, `recommend` within 3 s.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

from measured import commit, machine, peak_memory_mib, spread

CANDIDFEED = Path(sys.executable).with_name("candidfeed")
COMMANDS = ("fetch", "describe", "evaluate", "reference", "build", "recommend", "synth")
WARM_UP = 1


def seconds(arguments: list[str], repeats: int) -> dict[str, float]:
    """p50, p95 and p99 of the wall time of one command, in seconds."""
    taken = []
    for _ in range(WARM_UP + repeats):
        start = time.perf_counter()
        subprocess.run([CANDIDFEED, *arguments], stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - start)
    return spread(taken[WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="few repeats")
    parser.add_argument("--release", help="also time `recommend` from this release")
    parser.add_argument("--user", default="42", help="whose list to recommend")
    chosen = parser.parse_args()
    repeats = 5 if chosen.short else 30
    timed = [["--help"], *([command, "--help"] for command in COMMANDS)]
    if chosen.release:
        timed.append(["recommend", chosen.release, "--user", chosen.user])
    outcome = {
        "benchmark": "start",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "warm_up": WARM_UP,
        "repeats": repeats,
        "seconds": {" ".join(arguments): seconds(arguments, repeats) for arguments in timed},
        "peak_memory_mib": peak_memory_mib(of_children=True),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
