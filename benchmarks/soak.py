"""Does the feed service's memory grow? A constant load for an hour, memory every few seconds.

    python benchmarks/soak.py [--seconds 3600] [--rate 50] [--release RELEASES_DIR --data WORLD]

The slope is that of least squares over the samples after a third of the time, which fills caches.
The target: 5 MB an hour, no failed request; exit code 1 where it is missed. In less than ten
minutes the database's cache and others are still being filled: there the slope may bring 16 MB more
in the time that is judged, which in a minute is 8 kB for each request. Without --release a small
one is made. Prints one JSON line; it tells the memory at the end of each tenth of the time, and how
much of that is the process's own: the rest is pages of files that it reads, which go when memory is
wanted.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from measured import commit, machine
from served import COMMAND, Served, serving, small_release

EVENTS_SHARE = 0.3
N_SAMPLES = 360
WARM_UP_SHARE = 1 / 3
STEEPEST_MB_PER_H = 5.0
# From so long on caches are full; before, so much more may go into them.
SETTLED_S, FILLING_MB = 600.0, 16.0


def watched(served: Served, load: "subprocess.Popen[bytes]", every_s: float) -> np.ndarray:
    """Until the load has ended, float64 [n, 3]: seconds since the start, resident MiB, own MiB."""
    began, samples = time.perf_counter(), []
    while load.poll() is None:
        passed_s = time.perf_counter() - began
        samples.append((passed_s, served.memory_mib(), served.memory_mib("RssAnon")))
        time.sleep(every_s)
    return np.array(samples)


def slope_mb_per_h(seconds: np.ndarray, mib: np.ndarray) -> float:
    """Least squares; NaN of fewer than two samples."""
    if len(seconds) < 2:
        return float("nan")
    per_s = np.polyfit(seconds, mib, 1)[0]
    return round(float(per_s) * 3600 * 2**20 / 1e6, 2)


def by_tenth(mib: np.ndarray) -> list[float]:
    """The last sample of each tenth."""
    return [float(tenth[-1]) for tenth in np.array_split(mib, 10) if len(tenth)]


def steepest_mb_per_h(seconds: float) -> float:
    """What the slope of a soak of this length may be."""
    if seconds >= SETTLED_S:
        return STEEPEST_MB_PER_H
    return STEEPEST_MB_PER_H + FILLING_MB / ((1 - WARM_UP_SHARE) * seconds / 3600)


def measure(
    release: Path, world: Path, scratch: Path, *, seconds: float, rate: float
) -> dict[str, Any]:
    figures = scratch / "load.json"
    with serving(release, store=scratch / "store.db") as served:
        options = ("--data", world, "--seconds", seconds, "--warm-up", 0, "--rate", rate)
        more = ("--events-share", EVENTS_SHARE, "--json", figures)
        command = [*COMMAND, "load", served.url, *map(str, options + more)]
        with subprocess.Popen(command, stdout=sys.stderr) as load:
            samples = watched(served, load, seconds / N_SAMPLES)
    told = json.loads(figures.read_text())
    settled_s, settled_mib, settled_own_mib = samples[samples[:, 0] >= WARM_UP_SHARE * seconds].T
    return {
        "memory_mib": {
            "first": samples[0, 1],
            "last": samples[-1, 1],
            "most": samples[:, 1].max(),
            "by_tenth": by_tenth(samples[:, 1]),
            "own_by_tenth": by_tenth(samples[:, 2]),
        },
        "n_samples": len(settled_s),
        "slope_mb_per_h": slope_mb_per_h(settled_s, settled_mib),
        "slope_own_mb_per_h": slope_mb_per_h(settled_s, settled_own_mib),
        "steepest_mb_per_h": round(steepest_mb_per_h(seconds), 2),
        "n_failed": told["n_failed"],
        "good_per_s": told["run"]["good_per_s"],
        "feed_latency_ms": told["run"]["feed"]["latency_ms"],
        "degraded": told["run"]["degraded"],
        "events": told["events"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3_600.0)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--release", type=Path, help="folder of releases, for `candidfeed serve`")
    parser.add_argument("--data", type=Path, help="the world that it was built from")
    chosen = parser.parse_args()
    if (chosen.release is None) != (chosen.data is None):
        parser.error("name --release and --data, or neither")
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="candidfeed-bench-") as name:
        scratch = Path(name)
        release, world = chosen.release, chosen.data
        if release is None:
            release, world = small_release(scratch)
        figures = measure(release, world, scratch, seconds=chosen.seconds, rate=chosen.rate)
    outcome = {
        "benchmark": "soak",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "load_before": round(load_before, 1),
        "seconds": chosen.seconds,
        "rate_per_s": chosen.rate,
        **figures,
    }
    print(json.dumps(outcome))
    # Not a number where there was nothing to measure.
    is_level = figures["slope_mb_per_h"] <= figures["steepest_mb_per_h"]
    return int(bool(figures["n_failed"] or not is_level))


if __name__ == "__main__":
    sys.exit(main())
