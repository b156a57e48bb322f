"""Two commits of the feed service, asked in turns.

    python benchmarks/compare_commits.py OTHER --release RELEASES_DIR --data WORLD
        [--rates 150 300] [--events-share 0] [--rounds 6] [--seconds 6]

How fast a machine is changes by half within minutes, which decides more than most changes do: so
both services run side by side, the working tree's and that of OTHER (anything that git takes for a
commit), and are asked one after the other, each first in every other round, by the working tree's
`candidfeed load`. Prints one JSON line: for each rate the medians over the rounds, and the ratios,
working tree to OTHER, with their 95 % interval (rounds drawn again 2,000 times).
"""

import argparse
import json
import platform
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from measured import commit, loop_ms, machine
from served import Served, candidfeed, serving

LIMIT, WARM_UP_S = 20, 1.0
MEASURES = ("p50_ms", "p99_ms", "good_per_s", "processor_ms")


def asked(
    served: Served, figures: Path, rate: float, seed: int, chosen: argparse.Namespace
) -> tuple[float, ...]:
    """The measures of one load, in their order."""
    before_s = served.processor_s()
    candidfeed(
        "load", served.url, "--data", chosen.data, "--limit", LIMIT, "--rate", rate,
        "--seconds", chosen.seconds, "--warm-up", WARM_UP_S,
        "--events-share", chosen.events_share, "--seed", seed,
        "--json", figures, may_end_in=(0, 1),
    )  # fmt: skip
    taken_s = served.processor_s() - before_s
    run = json.loads(figures.read_text())["run"]["feed"]
    n_with_warm_up = run["n"] * (1 + WARM_UP_S / chosen.seconds)
    latency = run["latency_ms"]
    return latency["p50"], latency["p99"], run["good_per_s"], 1e3 * taken_s / n_with_warm_up


def ratio(ours: list[float], others: list[float]) -> list[float]:
    """The median ratio of rounds, and the ends of its 95 % interval."""
    ratios = np.array(ours) / np.array(others)
    drawn = np.random.default_rng(0).choice(ratios, (2_000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return [round(float(one), 3) for one in (np.median(ratios), low, high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", help="a commit")
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the release's world")
    parser.add_argument("--rates", type=float, nargs="+", default=[150.0, 300.0])
    parser.add_argument(
        "--events-share", type=float, default=0.0, help="share of the requests that are events"
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=6.0)
    chosen = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    loop_before_ms = loop_ms()
    told = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as running:
        folder, other = Path(scratch), Path(scratch) / "other"
        add = ["git", "-C", here, "worktree", "add", "--detach", "--quiet", other, chosen.other]
        if subprocess.run(add, check=False).returncode:
            parser.error(f"{chosen.other}: expected a commit of this repository")
        remove = ["git", "-C", here, "worktree", "remove", "--force", other]
        running.callback(subprocess.run, remove, check=True)
        services = [
            running.enter_context(
                serving(chosen.release, store=folder / f"{place}.db", source=source)
            )
            for place, source in enumerate((here, other))
        ]
        for rate in chosen.rates:
            measured: list[list[tuple[float, ...]]] = [[], []]
            # The first round is to warm up.
            for turn in range(chosen.rounds + 1):
                for which in (0, 1) if turn % 2 else (1, 0):
                    load = asked(services[which], folder / "load.json", rate, turn, chosen)
                    if turn:
                        measured[which].append(load)
            columns = [list(zip(*one, strict=True)) for one in measured]
            told[f"{rate:g}"] = {
                name: {
                    "ours": round(median(ours), 3),
                    "other": round(median(others), 3),
                    "ratio": ratio(list(ours), list(others)),
                }
                for name, ours, others in zip(MEASURES, *columns, strict=True)
            }
    outcome = {
        "benchmark": "compare_commits",
        "commit": commit(),
        "other": chosen.other,
        "machine": machine(),
        "loop_ms": [loop_before_ms, loop_ms()],
        "python": platform.python_version(),
        "events_share": chosen.events_share,
        "rounds": chosen.rounds,
        "seconds": chosen.seconds,
        "rates": told,
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
