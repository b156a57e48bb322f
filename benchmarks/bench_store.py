"""How many events a second are on disk and acknowledged, and how soon a history is read.

    python benchmarks/bench_store.py [--short] [--folder DIR]

Prints one JSON line. The targets on 2 cores, SQLite: 8,000 events/s in batches of 100, 800/s one by
one from 32 threads; PostgreSQL (a server of its own on a socket, same disk) half of both; cached
histories in microseconds. Every acknowledgement waits for a flush of the disk, so what one takes
is told too.
"""

import argparse
import json
import os
import platform
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from statistics import quantiles

from candidfeed.store.records import Event
from candidfeed.store.store import Store, StoreSettings, open_store
from measured import commit, machine, peak_memory_mib
from served import postgres_url

N_USERS, N_ITEMS, BATCH, THREADS = 10_000, 50_000, 100, 32
# Histories take all the cache there is; users asked for, of them.
N_ASKED = 2_000


def made_events(n: int, rng: random.Random, names: Iterator[int]) -> list[Event]:
    """Events of users and items drawn at random, made before the clock starts."""
    return [
        Event(
            f"event-{next(names):012d}",
            f"user-{rng.randrange(N_USERS)}",
            f"item-{rng.randrange(N_ITEMS)}",
            "click",
            None,
            1.7e9 + m,
        )
        for m in range(n)
    ]


def flush_ms(folder: Path, repeats: int = 50) -> float:
    """What the disk takes for one flush of 4 KiB, on average."""
    with (folder / "flushed").open("wb", buffering=0) as file:
        start = time.perf_counter()
        for _ in range(repeats):
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
        return round((time.perf_counter() - start) / repeats * 1e3, 2)


def per_second(store: Store, batches: Sequence[Sequence[Event]], n_threads: int) -> int:
    """Events acknowledged in a second, sent from so many threads, each waiting for its own."""

    def send(thread: int) -> int:
        return sum(store.append_events(one).n_accepted for one in batches[thread::n_threads])

    with ThreadPoolExecutor(n_threads) as pool:
        start = time.perf_counter()
        n_accepted = sum(pool.map(send, range(n_threads)))
        taken_s = time.perf_counter() - start
    assert n_accepted == sum(map(len, batches))
    return round(n_accepted / taken_s)


def read_us(read: Callable[[str], object], users: Sequence[str]) -> dict[str, float]:
    """p50 and p99 of reading one user, in microseconds."""
    taken = []
    for user in users:
        start = time.perf_counter_ns()
        read(user)
        taken.append((time.perf_counter_ns() - start) / 1e3)
    cuts = quantiles(taken, n=100, method="inclusive")
    return {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1)}


def figures(where: str, sizes: dict[str, int]) -> dict[str, object]:
    """All figures of one store, empty at first."""
    rng, names = random.Random(0), count()
    many = made_events(sizes["n_in_batches"], rng, names)
    batches = [many[at : at + BATCH] for at in range(0, len(many), BATCH)]
    singly = [[one] for one in made_events(sizes["n_one_by_one"], rng, names)]
    warm_up = [[one] for one in made_events(BATCH, rng, names)]
    users = [f"user-{user}" for user in rng.sample(range(N_USERS), N_ASKED)]
    with open_store(where) as store:
        per_second(store, warm_up, THREADS)
        rates = {
            "batches_of_100_events_per_s": per_second(store, batches[::2], 1),
            "batches_of_100_4_threads_events_per_s": per_second(store, batches[1::2], 4),
            "one_by_one_32_threads_events_per_s": per_second(store, singly, THREADS),
        }
    with open_store(where, settings=StoreSettings(n_cached_bytes=1 << 30)) as store:
        uncached = read_us(store.history, users)
        cached = read_us(store.history, users * 5)
        more = made_events(sizes["n_one_by_one"], rng, names)
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(per_second, store, [[one] for one in more], 4)
            beside = read_us(store.history, users * 5)
            writing.result()
    history_us = {"uncached": uncached, "cached": cached, "cached_beside_4_writers": beside}
    return {**rates, "history_us": history_us}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="few events")
    parser.add_argument("--folder", help="where the stores lie; a temporary folder by default")
    chosen = parser.parse_args()
    n_events = (5_000, 1_000) if chosen.short else (200_000, 16_000)
    sizes = dict(zip(("n_in_batches", "n_one_by_one"), n_events, strict=True))
    with tempfile.TemporaryDirectory(prefix="candidfeed-bench-", dir=chosen.folder) as name:
        flushed = flush_ms(Path(name))
        load = os.getloadavg()[0]
        sqlite = figures(str(Path(name) / "store.db"), sizes)
        with postgres_url() as url:
            postgres = figures(url, sizes)
    outcome = {
        "benchmark": "store",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "sqlite_version": sqlite3.sqlite_version,
        "load_before": round(load, 1),
        "flush_ms": flushed,
        "users": N_USERS,
        **sizes,
        "warm_up": BATCH,
        "repeats": 1,
        "sqlite": sqlite,
        "postgres": postgres,
        "peak_memory_mib": peak_memory_mib(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
