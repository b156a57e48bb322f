"""What all benchmarks say of themselves: which code, on what machine, and how times spread."""

import os
import platform
import resource
import subprocess
import time
from collections.abc import Sequence
from statistics import median, quantiles


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores"


def loop_ms() -> float:
    """How long a fixed loop of plain Python takes: how fast the machine is just now."""
    taken_s = []
    for _ in range(5):
        start = time.perf_counter()
        sum(i * i for i in range(200_000))
        taken_s.append(time.perf_counter() - start)
    return round(1e3 * median(taken_s), 1)


def spread(taken_s: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 of at least two times, in seconds."""
    cuts = quantiles(taken_s, n=100, method="inclusive")
    return {f"p{share}_s": round(cuts[share - 1], 3) for share in (50, 95, 99)}


def peak_memory_mib(*, of_children: bool = False) -> int:
    """The most memory that this process, or the largest of those it ran, held at once (Linux)."""
    who = resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF
    return resource.getrusage(who).ru_maxrss // 1024
