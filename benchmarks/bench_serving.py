"""How quickly a feed service starts, answers and takes events, and what it does under too much.

    python benchmarks/bench_serving.py --release RELEASES_DIR --data WORLD [--seconds 20]
        [--processes 2]
    python benchmarks/bench_serving.py --short
    python benchmarks/bench_serving.py --postgres [--short]

Starts `candidfeed serve` as a child with an empty store, and asks it by `candidfeed load`, on the
same cores; before that another, with its files on disk alone. Prints one JSON line. The targets on
2 cores, 1M items, 500 candidates, 20 slots: one in flight p50 4 ms, p99 12 ms; p99 25 ms at half
load; 300 requests/s with p99 within 50 ms; ready within 4 s, 1.2 GiB; at three times the peak 90 %
of its goodput, refusals within 10 ms; durable events 8,000/s in batches of 100, 800/s one by one
from 32 clients. --postgres measures the events alone, kept by a PostgreSQL server of its own, which
shares the cores too; the targets are half. --short measures each for seconds. Where no release is
named a small one is made first.
"""

import argparse
import json
import os
import platform
import re
import sysconfig
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured import commit, loop_ms, machine
from served import Served, candidfeed, forget_files, postgres_url, serving, small_release

# Of each measurement.
SECONDS, WARM_UP_S = 20.0, 2.0
LIMIT = 20
_STAGE = re.compile(r'candidfeed_stage_seconds_(sum|count)\{stage="([^"]+)"\} (\S+)')


@dataclass(frozen=True)
class Asked:
    """How one service is asked."""

    served: Served
    world: Path
    scratch: Path
    seconds: float
    warm_up_s: float

    def load(self, *options: object) -> dict[str, Any]:
        """The figures of one `candidfeed load`; failed requests are told, not raised."""
        figures = self.scratch / "load.json"
        common = (self.served.url, "--data", self.world, "--limit", LIMIT)
        times = ("--seconds", self.seconds, "--warm-up", self.warm_up_s)
        candidfeed("load", *common, *times, "--json", figures, *options, may_end_in=(0, 1))
        return json.loads(figures.read_text())


def stages(text: str) -> dict[str, tuple[float, float]]:
    """Seconds and number of each stage of a feed, since the start."""
    found: dict[str, dict[str, float]] = {}
    for kind, stage, number in _STAGE.findall(text):
        found.setdefault(stage, {})[kind] = float(number)
    return {stage: (one["sum"], one["count"]) for stage, one in found.items()}


def stage_ms(before: str, after: str) -> dict[str, float]:
    """The mean of each stage between two readings of /metrics, in milliseconds."""
    old = stages(before)
    means = {}
    for stage, (total_s, n) in stages(after).items():
        total_before_s, n_before = old.get(stage, (0.0, 0.0))
        if n > n_before:
            means[stage] = round((total_s - total_before_s) / (n - n_before) * 1e3, 3)
    return means


def told(run: dict[str, Any], kind: str = "feed") -> dict[str, Any]:
    """What of a run stands in the line."""
    one = run[kind]
    names = ("good_per_s", "latency_ms", "n_refused", "n_failed", "refused_after_sending_ms")
    kept = {name: one[name] for name in names if one[name]}
    late = run["client_late_ms"]
    return {"n": one["n"], **kept, "degraded": run["degraded"], "sent_late_p99_ms": late["p99"]}


def feeds(asked: Asked) -> dict[str, Any]:
    """One in flight, the peak and three times as much, half of the peak."""
    served = asked.served

    def ask(*options: object) -> dict[str, Any]:
        return asked.load("--events-share", 0, *options)

    before = served.text("/metrics")
    alone = ask("--in-flight", 1)["run"]
    after = served.text("/metrics")
    peak = ask("--find-peak", "--overload", 3, "--seconds", asked.seconds / 4)
    figures = {
        "one_in_flight": told(alone),
        "stages_ms": stage_ms(before, after),
        "peak_per_s": peak["peak_per_s"],
        "peak_steps": peak["steps"],
    }
    if peak["peak_per_s"] is None:
        return figures
    half = peak["peak_per_s"] / 2
    before, before_s = served.text("/metrics"), served.processor_s()
    at_half = ask("--rate", half)["run"]
    after, after_s = served.text("/metrics"), served.processor_s()
    n_feeds = stages(after)["answer"][1] - stages(before)["answer"][1]
    mixed = ask("--rate", half, "--events-share", 0.2)["run"]
    return {
        **figures,
        "at_peak": told(peak["run"]),
        "overload": told(peak["overload"]),
        "at_peak_after": told(peak["run_after"]),
        "overload_goodput_share": peak["goodput_share"],
        "half_load": told(at_half),
        "half_load_stages_ms": stage_ms(before, after),
        "half_load_processor_ms_a_feed": round((after_s - before_s) / n_feeds * 1e3, 2),
        "feeds_per_s_and_core": round(n_feeds / (after_s - before_s)),
        "half_load_a_fifth_events": {kind: told(mixed, kind) for kind in ("feed", "events")},
    }


def start_from_disk(release: Path, store: Path, more: Sequence[str]) -> dict[str, float]:
    """How long a start takes with nothing in memory, neither release nor libraries."""
    for folder in (release, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        forget_files(Path(folder))
    with serving(release, store=store, more=more) as served:
        return {"ready_from_disk_s": round(served.ready_s, 2)}


def events(asked: Asked) -> dict[str, Any]:
    """Events that were acknowledged in a second."""
    told_of: dict[str, Any] = {}
    ways = {"batches_of_100": (100, 1), "batches_of_100_4_clients": (100, 4)}
    for name, (batch, n_clients) in {**ways, "one_by_one_32_clients": (1, 32)}.items():
        run = asked.load("--events-share", 1, "--batch", batch, "--in-flight", n_clients)["run"]
        per_s = run["events"]["good_per_s"] * batch
        told_of[name] = {"events_per_s": round(per_s), **told(run, "events")}
    return told_of


def measure(
    release: Path,
    world: Path,
    scratch: Path,
    *,
    seconds: float,
    warm_up_s: float,
    postgres: bool,
    n_processes: int,
) -> dict[str, Any]:
    more = () if n_processes == 1 else ("--processes", str(n_processes))
    about_start = {} if postgres else start_from_disk(release, scratch / "first.db", more)
    with (
        postgres_url() if postgres else nullcontext(scratch / "store.db") as store,
        serving(release, store=store, more=more) as served,
    ):
        ready_s, ready_mib = served.ready_s, served.memory_mib()
        served.wait_for_makers(n_processes - 1)
        asked = Asked(served, world, scratch, seconds, warm_up_s)
        about_feeds = {} if postgres else feeds(asked)
        about_events = events(asked)
        end_mib, peak_mib = served.memory_mib(), served.memory_mib("VmHWM")
        all_mib = served.all_processes_mib()
    return {
        "store": "postgres" if postgres else "sqlite",
        "processes": n_processes,
        "ready_s": round(ready_s, 2),
        **about_start,
        "memory_mib": {
            "ready": ready_mib,
            "end": end_mib,
            "peak": peak_mib,
            "all_processes": all_mib,
        },
        **about_feeds,
        "events": about_events,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a small world, few seconds")
    parser.add_argument("--postgres", action="store_true", help="events alone, on a server")
    parser.add_argument("--processes", type=int, default=1, help="that make feeds")
    parser.add_argument("--release", type=Path, help="folder of releases, for `candidfeed serve`")
    parser.add_argument("--data", type=Path, help="the world that it was built from")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    chosen = parser.parse_args()
    if (chosen.release is None) != (chosen.data is None):
        parser.error("name --release and --data, or neither")
    if not (chosen.short or chosen.postgres or chosen.release):
        parser.error("name --release and --data, or --short")
    seconds, warm_up_s = (2.0, 0.5) if chosen.short else (chosen.seconds, WARM_UP_S)
    with tempfile.TemporaryDirectory(prefix="candidfeed-bench-") as name:
        scratch = Path(name)
        release, world = chosen.release, chosen.data
        if release is None:
            release, world = small_release(scratch)
        load_before, loop_before_ms = os.getloadavg()[0], loop_ms()
        measured = measure(
            release, world, scratch,
            seconds=seconds, warm_up_s=warm_up_s, postgres=chosen.postgres,
            n_processes=chosen.processes,
        )  # fmt: skip
        described = json.loads((world / "world.json").read_text())["settings"]
    outcome = {
        "benchmark": "serving",
        "commit": commit(),
        "machine": machine(),
        "loop_ms": [loop_before_ms, loop_ms()],
        "python": platform.python_version(),
        "load_before": round(load_before, 1),
        "users": described["n_users"],
        "items": described["n_items"],
        "slots": LIMIT,
        "seconds": seconds,
        "warm_up_s": warm_up_s,
        "repeats": 1,
        **measured,
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
