"""How fast and how complete the vector index is, beside exact search, HNSW and ScaNN.

    python benchmarks/bench_index.py [--short] [--data FOLDER] [--no-scann]

Prints one JSON line. A synthetic world (FOLDER holds one that `candidfeed synth` wrote; else one of
a million users and items is made) is factorised by implicit ALS into vectors of 64 numbers. Users
draw the queries; those that the index was tuned with are not among the ones it is measured with.
One thread a query; k = 500. Each peer gets the same vectors and queries: FAISS' flat search, FAISS'
HNSW, and ScaNN in an environment of its own, which is made at the first run. HNSW and ScaNN are
given several depths, and the first that reaches the recall of ours is told, or the deepest.

The deny lists, 2,000 items each: drawn at random; drawn by how often items were chosen, a fifth of
what would be found; the user's own history, filled up with such popular ones; and the user's best
2,000, the worst there is. Recall is against exact search with the same list.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from candidfeed.data.synthetic.files import read_positives, write_world
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.retrieval.index.inverted_build import answered
from candidfeed.retrieval.index.vector_index import N_QUERIES, IndexSettings, VectorIndex
from measured import commit, machine, peak_memory_mib
from peers import HERE, PeerError, python_of

DIM, K, N_DENIED = 64, 500, 2_000
SIZES = {"n_users": 1_000_000, "n_items": 1_000_000, "n_events": 50_000_000}
SHORT_SIZES = {"n_users": 20_000, "n_items": 30_000, "n_events": 1_000_000}
ALS = {"factors": DIM, "iterations": 5, "regularization": 0.05, "alpha": 5, "random_state": 0}
HNSW_LINKS, HNSW_DEPTHS = 32, (500, 1_000, 2_000)
WARM_UP = 20

Floats = NDArray[np.float32]
Search = Callable[[Floats], NDArray[np.integer]]


@dataclass(frozen=True)
class Trained:
    """Vectors of a world.

    Attributes:
        items, tuning, queries: float32 [n, 64]; the last two of different users.
        n_chosen: how often each item was chosen, int64 [n_items].
        best: the exact best rows of each query, best first, int64 [n_queries, 2_500].
        histories: what the user of each query chose, each item once, int32 [n].
    """

    items: Floats
    tuning: Floats
    queries: Floats
    n_chosen: NDArray[np.int64]
    best: NDArray[np.int64]
    histories: list[NDArray[np.integer]]


def trained(world: Path, n_queries: int) -> Trained:
    log = read_positives(world).matrix.astype(np.float32)
    # ALS brings threads of its own.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(**ALS, num_threads=os.cpu_count() or 1)
        model.fit(log, show_progress=False)
    items = np.ascontiguousarray(model.item_factors)
    users = np.random.default_rng(0).permutation(np.flatnonzero(np.diff(log.indptr)))
    users = users[: N_QUERIES + n_queries]
    tuning, queries = np.split(model.user_factors[users], [N_QUERIES])
    return Trained(
        items=items,
        tuning=tuning,
        queries=queries,
        n_chosen=np.bincount(log.indices, minlength=len(items)),
        best=answered(items, queries, min(K + N_DENIED, len(items))).best,
        histories=[
            np.unique(log.indices[log.indptr[user] : log.indptr[user + 1]])
            for user in users[N_QUERIES:]
        ],
    )


def asked(search: Search, world: Trained) -> dict[str, float]:
    """Recall, and p50, p95 and p99 of one query in milliseconds."""
    taken, found = [], []
    for query in world.queries[:WARM_UP]:
        search(query)
    for query, best in zip(world.queries, world.best, strict=True):
        start = time.perf_counter()
        rows = search(query)
        taken.append(time.perf_counter() - start)
        found.append(np.isin(best[:K], rows).mean())
    return {"recall": round(float(np.mean(found)), 4), **milliseconds(taken)}


def milliseconds(taken_s: list[float]) -> dict[str, float]:
    cuts = np.percentile(taken_s, [50, 95, 99]) * 1e3
    return {
        f"p{share}_ms": round(float(ms), 3) for share, ms in zip((50, 95, 99), cuts, strict=True)
    }


def ours(world: Trained, settings: IndexSettings, folder: Path) -> dict[str, Any]:
    start = time.perf_counter()
    built = VectorIndex.build(world.items, queries=world.tuning, settings=settings)
    build_s = time.perf_counter() - start
    built.save(folder)
    start = time.perf_counter()
    index = VectorIndex.load(folder)
    load_s = time.perf_counter() - start
    faiss.omp_set_num_threads(1)
    return {
        **asked(lambda query: index.search(query, K).rows, world),
        "build_s": round(build_s, 2),
        "load_s": round(load_s, 3),
        "files_mib": sum(path.stat().st_size for path in folder.iterdir()) >> 20,
        "report": asdict(index.report),
        **denying(index, world),
        "changes": changing(index, world),
    }


def denying(index: VectorIndex, world: Trained) -> dict[str, Any]:
    """What deny lists cost, and recall with them: the same queries with and without, in turn."""
    lists = deny_lists(world)
    taken: dict[str, list[float]] = {name: [] for name in lists}
    found: dict[str, list[NDArray[np.integer]]] = {name: [] for name in lists}
    rng = np.random.default_rng(2)
    # The worst lists make long searches, which would leave the others an empty cache.
    for names in ([name for name in lists if name != "deny_best"], ["deny_best"]):
        for i, query in enumerate(world.queries):
            # Whatever comes later finds the query's items in the cache already.
            for name in rng.permutation(names):
                deny = lists[name][i % len(lists[name])]
                start = time.perf_counter()
                found[name].append(index.search(query, K, deny=deny).rows)
                taken[name].append(time.perf_counter() - start)
    usual = float(np.median(taken["deny_nothing"]))
    return {
        name: {
            "recall": recall_denied(found[name], lists[name], world),
            **milliseconds(each),
            "p50_ratio": round(float(np.median(each)) / usual, 3),
        }
        for name, each in taken.items()
    }


def recall_denied(
    found: list[NDArray[np.integer]], lists: list[NDArray[np.integer]], world: Trained
) -> float:
    shares = []
    for i, (rows, best) in enumerate(zip(found, world.best, strict=True)):
        right = best[~np.isin(best, lists[i % len(lists)])][:K]
        shares.append(np.isin(right, rows).mean())
    return round(float(np.mean(shares)), 4)


def deny_lists(world: Trained) -> dict[str, list[NDArray[np.integer]]]:
    """One list for each query, or some that they share."""
    rng = np.random.default_rng(1)
    n_items, shares = len(world.items), world.n_chosen / world.n_chosen.sum()
    popular = [rng.choice(n_items, N_DENIED, replace=False, p=shares) for _ in range(20)]
    own = [
        np.concatenate([history, np.setdiff1d(popular[i % 20], history)])[:N_DENIED]
        for i, history in enumerate(world.histories)
    ]
    lists = {
        "deny_nothing": [np.empty(0)],
        "deny_random": [rng.choice(n_items, N_DENIED, replace=False) for _ in range(20)],
        "deny_popular": popular,
        "deny_own": own,
        "deny_best": list(world.best[:, :N_DENIED]),
    }
    return {name: [rows.astype(np.int32) for rows in each] for name, each in lists.items()}


def changing(index: VectorIndex, world: Trained) -> dict[str, Any]:
    """An added item is found and a removed one is not; milliseconds that the changes take."""
    query, row = world.queries[0], len(world.items)
    vector = query[None] * (2 * index.search(query, 1).scores[0] / (query @ query))
    add_s = timed(lambda: index.add(np.array([row]), vector))
    is_found = index.search(query, 1).rows.tolist() == [row]
    remove_s = timed(lambda: index.remove(np.array([row])))
    is_gone = row not in index.search(query, K).rows
    return {
        "added_is_found": is_found,
        "removed_is_gone": is_gone,
        "add_ms": round(add_s * 1e3, 3),
        "remove_ms": round(remove_s * 1e3, 3),
    }


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def exact(world: Trained) -> dict[str, Any]:
    flat = faiss.IndexFlatIP(DIM)
    flat.add(world.items)
    return asked(lambda query: flat.search(query[None], K)[1][0], world)


def hnsw(world: Trained, recall: float) -> dict[str, Any]:
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    graph = faiss.IndexHNSWFlat(DIM, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    build_s = timed(lambda: graph.add(world.items))
    faiss.omp_set_num_threads(1)
    for depth in HNSW_DEPTHS:
        graph.hnsw.efSearch = depth
        figures = asked(lambda query: graph.search(query[None], K)[1][0], world)
        if figures["recall"] >= recall:
            break
    return {**figures, "build_s": round(build_s, 2), "ef_search": depth}


def scann(world: Trained, recall: float, folder: Path) -> dict[str, Any]:
    """ScaNN in its own environment, which gets the arrays as files and prints JSON."""
    try:
        python = python_of("scann")
    except PeerError as error:
        return {"missing": str(error)}
    arrays = {"items": world.items, "queries": world.queries, "best": world.best[:, :K]}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    command = [str(python), str(HERE / "peers" / "scann_search.py"), str(folder), str(recall)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"missing": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a small world, without ScaNN")
    parser.add_argument("--data", type=Path, help="a world of `candidfeed synth`")
    parser.add_argument("--no-scann", action="store_true", help="leave that peer out")
    chosen = parser.parse_args()
    settings = IndexSettings(exact_below=10_000 if chosen.short else 100_000)
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.data or Path(scratch) / "world"
        if not chosen.data:
            print("bench_index: making a world", file=sys.stderr)
            write_world(WorldSettings(**(SHORT_SIZES if chosen.short else SIZES), seed=0), folder)
        world = trained(folder, 200 if chosen.short else 2_000)
        threads = faiss.omp_get_max_threads()
        figures = {"ours": ours(world, settings, Path(scratch) / "index")}
        reached = figures["ours"]["recall"]
        figures["exact"] = exact(world)
        faiss.omp_set_num_threads(threads)
        peak = peak_memory_mib()
        figures["hnsw"] = hnsw(world, reached)
        if not (chosen.no_scann or chosen.short):
            figures["scann"] = scann(world, reached, Path(scratch))
    outcome = {
        "benchmark": "index",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "data": chosen.data.name if chosen.data else "made",
        "n_items": len(world.items),
        "dim": DIM,
        "k": K,
        "n_queries": len(world.queries),
        "n_denied": N_DENIED,
        "warm_up": WARM_UP,
        **figures,
        "peak_memory_mib": peak,
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
