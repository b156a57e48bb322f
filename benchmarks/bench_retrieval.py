"""How good stage one is and what its fit takes, beside implicit's ALS and BPR and LightFM.

    python benchmarks/bench_retrieval.py [--short] [--seeds N] [--protocol NAME] [--data FOLDER]

Prints one JSON line: MovieLens-100K by NAME (random), or the log in FOLDER, for each seed anew.
Every model's settings are chosen on a validation part of train by nDCG@100, ours as
`candidfeed evaluate` chooses them. `fit_s` is the fit with these settings, `choosing_s` what
choosing took. LightFM gets an environment of its own, which is made at the first run.
"""

import argparse
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from implicit.cpu.bpr import BayesianPersonalizedRanking

from candidfeed.cli.output import cache_folder
from candidfeed.data.interactions import Interactions
from candidfeed.data.load import load_dataset
from candidfeed.data.splits import Split, inner_split, make_split
from candidfeed.data.tables import Dataset
from candidfeed.evaluation.baselines import Ials
from candidfeed.evaluation.ranking_metrics import Scorer, evaluate_ranking
from candidfeed.training.stage_one import StageOneSettings
from candidfeed.training.two_stage import fit_retrieval
from measured import commit, machine, peak_memory_mib
from peers import HERE, PeerError, python_of
from vectors import Vectors

FIRST_SEED = 1
METRICS = ("top@100", "top@100/seen", "ndcg@10", "recall@20")
CHOSEN_BY = "ndcg@100"

Settings = dict[str, Any]
# A fitted model, and the seconds that its fit took.
Fitted = tuple[Scorer, float]
# From train, what is known, settings and a seed.
Fit = Callable[[Interactions, Interactions, Settings, int], Fitted]

ALS = [
    {"factors": factors, "regularization": l2, "alpha": alpha}
    for factors in (32, 64)
    for l2, alpha in ((10, 1), (1, 2), (30, 5), (100, 10))
]
BPR = [
    {"factors": factors, "learning_rate": rate, "regularization": l2, "iterations": 200}
    for factors in (32, 128)
    for rate in (0.05, 0.01)
    for l2 in (0.01, 0.05)
]
LIGHTFM = [
    {"dim": dim, "epochs": epochs, "rate": 0.05} for dim in (32, 128) for epochs in (10, 30, 60)
]


def fit_als(train: Interactions, known: Interactions, settings: Settings, seed: int) -> Fitted:
    start = time.perf_counter()
    model = Ials.fit(train, known=known, seed=seed, **settings)
    return model, time.perf_counter() - start


def fit_bpr(train: Interactions, known: Interactions, settings: Settings, seed: int) -> Fitted:
    model = BayesianPersonalizedRanking(**settings, random_state=seed, num_threads=2)
    start = time.perf_counter()
    model.fit(train.matrix, show_progress=False)
    return Vectors(model.user_factors, model.item_factors), time.perf_counter() - start


def fit_lightfm(train: Interactions, known: Interactions, settings: Settings, seed: int) -> Fitted:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "events.npz", Path(folder) / "vectors.npz"
        sizes = {"n_users": np.array(train.n_users), "n_items": np.array(train.n_items)}
        np.savez(source, user=train.user, item=train.item, allow_pickle=False, **sizes)
        script = HERE / "peers" / "lightfm_vectors.py"
        asked = [settings["dim"], settings["epochs"], settings["rate"], seed]
        command = [python_of("lightfm"), script, source, target, *map(str, asked)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = np.load(target)
        vectors = Vectors(found["user"], found["item"])
    return vectors, json.loads(done.stdout.splitlines()[-1])["fit_s"]


PEERS: dict[str, tuple[Fit, Sequence[Settings]]] = {
    "implicit als": (fit_als, ALS),
    "implicit bpr": (fit_bpr, BPR),
    "lightfm warp": (fit_lightfm, LIGHTFM),
}


def measured(scorer: Scorer, split: Split) -> dict[str, float]:
    found = evaluate_ranking(scorer, known=split.known.matrix, test=split.test.matrix)
    return {name: found.mean(name) for name in METRICS}


def peer(name: str, split: Split, *, seed: int, n_settings: int | None) -> dict[str, Any]:
    """Choose on the inner cut of train, fit on all of it, measure."""
    fit, grid = PEERS[name]
    inner = inner_split(split, seed=seed)
    start, best, most = time.perf_counter(), grid[0], -1.0
    for settings in grid[:n_settings]:
        scorer, _ = fit(inner.train, inner.known, settings, seed)
        found = evaluate_ranking(
            scorer, known=inner.known.matrix, test=inner.test.matrix, ks=(100,), top_ks=()
        ).mean(CHOSEN_BY)
        if found > most:
            best, most = settings, found
    choosing = time.perf_counter() - start
    scorer, took = fit(split.train, split.known, best, seed)
    return {**measured(scorer, split), "fit_s": took, "choosing_s": choosing, "chosen": best}


def ours(dataset: Dataset, split: Split, *, seed: int) -> dict[str, Any]:
    found = fit_retrieval(dataset, split, settings=StageOneSettings(), seed=seed)
    return {
        **measured(found.scorer, split),
        "fit_s": found.seconds["fit retrieval"],
        "choosing_s": found.seconds["choose retrieval"],
    }


def over_seeds(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and, of quality, the standard deviation over seeds."""
    told: dict[str, Any] = {}
    for name in (*METRICS, "fit_s", "choosing_s"):
        values = [row[name] for row in rows]
        told[name] = round(float(np.mean(values)), 4)
        if name in METRICS and len(rows) > 1:
            told[f"{name} sd"] = round(float(np.std(values, ddof=1)), 4)
    if "chosen" in rows[0]:
        told["chosen"] = rows[0]["chosen"]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one seed, two settings of each peer")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds")
    parser.add_argument("--protocol", default=None, help="how to split (random; FOLDER: its best)")
    parser.add_argument("--data", type=Path, help="a log as candidfeed reads it")
    asked = parser.parse_args()
    name = str(asked.data or "ml-100k")
    dataset = load_dataset(name, cache=cache_folder(), now=datetime.now(UTC))
    protocol = asked.protocol or (None if asked.data else "random")
    n_seeds, n_settings = (1, 2) if asked.short else (asked.seeds, None)
    rows: dict[str, list[dict[str, Any]]] = {"candidfeed": []}
    left_out: dict[str, str] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + n_seeds):
        split = make_split(dataset, protocol, seed=seed)
        rows["candidfeed"].append(ours(dataset, split, seed=seed))
        for each in PEERS:
            try:
                rows.setdefault(each, []).append(
                    peer(each, split, seed=seed, n_settings=n_settings)
                )
            except PeerError as error:
                left_out[each] = str(error)
    outcome = {
        "benchmark": "retrieval",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "data": dataset.name,
        "protocol": protocol,
        "n_seeds": n_seeds,
        "models": {each: over_seeds(found) for each, found in rows.items() if found},
        "left_out": left_out,
        "peak_memory_mib": peak_memory_mib(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
