"""ScaNN on the vectors of bench_index: python scann_search.py FOLDER RECALL

Reads items.npy, queries.npy and best.npy, prints one JSON line: the first depth that reaches the
recall, or the deepest. One thread a query.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import scann

WARM_UP = 20
# Leaves of a million items, and (leaves to search, candidates to score again).
N_LEAVES = 2_000
DEPTHS = ((50, 1_000), (100, 1_000), (150, 1_500), (250, 2_000), (500, 3_000), (1_000, 5_000))


def asked(searcher, queries, best, leaves: int, again: int) -> dict:
    k = best.shape[1]
    depth = {"leaves_to_search": leaves, "pre_reorder_num_neighbors": again}
    taken, found = [], []
    for query in queries[:WARM_UP]:
        searcher.search(query, final_num_neighbors=k, **depth)
    for query, right in zip(queries, best, strict=True):
        start = time.perf_counter()
        rows, _ = searcher.search(query, final_num_neighbors=k, **depth)
        taken.append(time.perf_counter() - start)
        found.append(np.isin(right, rows).mean())
    cuts = np.percentile(taken, [50, 95, 99]) * 1e3
    times = {
        f"p{share}_ms": round(float(ms), 3) for share, ms in zip((50, 95, 99), cuts, strict=True)
    }
    return {"recall": round(float(np.mean(found)), 4), **times, **depth}


def main() -> None:
    folder, recall = Path(sys.argv[1]), float(sys.argv[2])
    items, queries, best = (
        np.load(folder / f"{name}.npy") for name in ("items", "queries", "best")
    )
    start = time.perf_counter()
    builder = scann.scann_ops_pybind.builder(items, best.shape[1], "dot_product")
    builder = builder.tree(N_LEAVES, DEPTHS[0][0], training_sample_size=250_000)
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
    searcher = builder.reorder(DEPTHS[0][1]).build()
    build_s = time.perf_counter() - start
    for leaves, again in DEPTHS:
        figures = asked(searcher, queries, best, leaves, again)
        if figures["recall"] >= recall:
            break
    print(json.dumps({**figures, "build_s": round(build_s, 2)}))


if __name__ == "__main__":
    main()
