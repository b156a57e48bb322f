"""How fast exact evaluation is, beside ir-measures on the same rankings in the same call.

    python benchmarks/bench_evaluation.py [--short] [--data FOLDER] [--large USERS]

Prints one JSON line. Without --data it ranks a drawn log of the size of MovieLens-1M; FOLDER holds
train.txt and test.txt (valid.txt if there is one). We rank every item for every user, with and
without the known ones; ir-measures gets each user's best 100 without the known ones, and takes the
same metrics of them at the same cut-offs. What it takes to pick those out of the scores and to
write them as its dicts is told apart. The figures must be the same.

--large ranks a million items for this many users, by vectors of 64 numbers, and tells how much
memory that took above the vectors and the two parts of the log; no peer does that.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import ir_measures
import numpy as np
import scipy.sparse as sp
from ir_measures import AP, P, R, Success, nDCG
from numpy.typing import NDArray

from candidfeed.data.load import load_dataset
from candidfeed.data.splits import make_split
from candidfeed.evaluation.ranking_metrics import KS, RankingFigures, evaluate_ranking
from measured import commit, machine, peak_memory_mib, spread
from vectors import Vectors

N_USERS, N_ITEMS, N_EVENTS = 6_040, 3_706, 1_000_000
TEST_SHARE = 0.2
LARGE_ITEMS, LARGE_DIM, LARGE_KNOWN, LARGE_ASKED = 1_000_000, 64, 50, 5
DEPTH = 100
PEER = {
    measure @ k: f"{name}@{k}"
    for measure, name in (
        (nDCG, "ndcg"),
        (R, "recall"),
        (P, "precision"),
        (AP, "map"),
        (Success, "hit"),
    )
    for k in KS
}
WARM_UP = 1


@dataclass(frozen=True)
class Drawn:
    """A model whose scores are there already, so that nothing but the evaluation is timed."""

    table: NDArray[np.float32]

    def scores(self, users: NDArray[np.int32]) -> NDArray[np.float32]:
        return self.table[users]


def given_log(folder: Path) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """What is known and what is asked for, CSR [n_users, n_items], by the folder's own split."""
    dataset = load_dataset(str(folder), cache=folder, now=datetime.now(UTC))
    split = make_split(dataset, "given")
    return split.known.matrix, split.test.matrix


def drawn_log(rng: np.random.Generator) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """The same of a log in which few items and few users have most of the events."""
    users = rng.permutation(N_USERS)[(N_USERS * rng.random(N_EVENTS) ** 2).astype(np.int64)]
    items = (N_ITEMS * rng.random(N_EVENTS) ** 3).astype(np.int64)
    pairs = np.unique(users * N_ITEMS + items)
    asked = rng.random(len(pairs)) < TEST_SHARE
    return _matrix(pairs[~asked]), _matrix(pairs[asked])


def _matrix(pairs: NDArray[np.int64]) -> sp.csr_matrix:
    ones = np.ones(len(pairs), dtype=np.float32)
    return sp.csr_matrix((ones, (pairs // N_ITEMS, pairs % N_ITEMS)), shape=(N_USERS, N_ITEMS))


def large(n_users: int) -> dict[str, object]:
    """Exact evaluation of a million items for each of the users."""
    rng = np.random.default_rng(0)
    vectors = Vectors(
        rng.standard_normal((n_users, LARGE_DIM), dtype=np.float32),
        rng.standard_normal((LARGE_ITEMS, LARGE_DIM), dtype=np.float32),
    )

    def drawn(n_events: int) -> sp.csr_matrix:
        users = np.repeat(np.arange(n_users), n_events)
        items = (LARGE_ITEMS * rng.random(len(users)) ** 2).astype(np.int64)
        ones = np.ones(len(users), np.float32)
        return sp.csr_matrix((ones, (users, items)), shape=(n_users, LARGE_ITEMS))

    known, test = drawn(LARGE_KNOWN), drawn(LARGE_ASKED)
    before_mib, start = _memory_mib(), time.perf_counter()
    found = evaluate_ranking(vectors, known=known, test=test)
    took = time.perf_counter() - start
    return {
        "n_users": n_users,
        "n_items": LARGE_ITEMS,
        "dim": LARGE_DIM,
        "seconds": round(took, 1),
        "ms_a_user": round(1e3 * took / n_users, 2),
        "memory_above_mib": peak_memory_mib() - before_mib,
        "n_targets": found.n_targets,
    }


def _memory_mib() -> int:
    """What this process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def for_peer(
    scorer: Drawn, known: sp.csr_matrix, test: sp.csr_matrix
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Each user's relevant items, and their best DEPTH items without the known ones."""
    relevant, run = {}, {}
    for user in np.flatnonzero(np.diff(test.indptr)):
        scores = scorer.table[user].copy()
        scores[known.indices[known.indptr[user] : known.indptr[user + 1]]] = -np.inf
        best = np.argpartition(-scores, DEPTH)[:DEPTH]
        targets = test.indices[test.indptr[user] : test.indptr[user + 1]]
        relevant[str(user)] = {str(item): 1 for item in targets}
        run[str(user)] = {str(item): float(scores[item]) for item in best}
    return relevant, run


def compare(scorer: Drawn, known: sp.csr_matrix, test: sp.csr_matrix, repeats: int) -> dict:
    """Seconds of each, the ratio of the medians, and how far the figures lie apart."""
    taken = []
    for _ in range(WARM_UP + repeats):
        start = time.perf_counter()
        ours = evaluate_ranking(scorer, known=known, test=test)
        ours_end = time.perf_counter()
        relevant, run = for_peer(scorer, known, test)
        lists_end = time.perf_counter()
        theirs = ir_measures.calc_aggregate(list(PEER), relevant, run)
        taken.append((ours_end - start, lists_end - ours_end, time.perf_counter() - lists_end))
    ours_s, lists_s, peer_s = (spread(one) for one in zip(*taken[WARM_UP:], strict=True))
    ratio = (lists_s["p50_s"] + peer_s["p50_s"]) / ours_s["p50_s"]
    return {
        "seconds": {"candidfeed": ours_s, "lists for ir-measures": lists_s, "ir-measures": peer_s},
        "ir_measures_over_candidfeed": round(peer_s["p50_s"] / ours_s["p50_s"], 2),
        "with_its_lists_over_candidfeed": round(ratio, 2),
        "greatest_difference": _greatest_difference(ours, theirs),
    }


def _greatest_difference(ours: RankingFigures, theirs: dict) -> float:
    return max(abs(ours.mean(PEER[one]) - value) for one, value in theirs.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="few repeats")
    parser.add_argument("--data", type=Path, help="folder with train.txt and test.txt")
    parser.add_argument("--large", type=int, help="users to rank a million items for")
    chosen = parser.parse_args()
    # First: what this process held at most must not be what came before.
    of_a_million = (
        large(100 if chosen.short else chosen.large) if chosen.large or chosen.short else {}
    )
    rng = np.random.default_rng(0)
    known, test = given_log(chosen.data) if chosen.data else drawn_log(rng)
    # Known items that are asked for again can't be recommended: the peer has no word for them.
    test = sp.csr_matrix(test - test.multiply(known))
    test.eliminate_zeros()
    scorer = Drawn(rng.random(known.shape, dtype=np.float32))
    repeats = 2 if chosen.short else 10
    outcome = {
        "benchmark": "evaluation",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "data": chosen.data.name if chosen.data else "drawn",
        "n_users": known.shape[0],
        "n_items": known.shape[1],
        "n_known": known.nnz,
        "n_test": test.nnz,
        "warm_up": WARM_UP,
        "repeats": repeats,
        **compare(scorer, known, test, repeats),
        "of_a_million_items": of_a_million,
        "peak_memory_mib": peak_memory_mib(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
