"""How good both stages are, beside the peers that are fitted on the same rows in the same call.

    python benchmarks/bench_quality.py [--short] [--seeds N] [--data FOLDER]

Prints one JSON line: MovieLens-100K by the protocols random, keras-notebook and temporal, and the
own split of FOLDER (train.txt, test.txt, valid.txt if there is one), where EASE is also fitted with
the l2 of the published figure. `targets` says which figure must be how good, and whether it is.
"""

import argparse
import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

from candidfeed.cli.output import cache_folder
from candidfeed.data.load import load_dataset
from candidfeed.data.splits import make_split
from candidfeed.data.tables import Dataset
from candidfeed.evaluation.ranking_metrics import evaluate_ranking
from candidfeed.evaluation.report import EvaluationReport, verdict
from candidfeed.evaluation.run import evaluate
from candidfeed.retrieval.neighbours import Ease
from candidfeed.training.two_stage import TwoStageSettings
from measured import commit, machine, peak_memory_mib

SEED = 42
PROTOCOLS = ("random", "keras-notebook", "temporal")
METRICS = ("top@100", "top@100/seen", "recall@20", "ndcg@10", "ndcg@20", "rmse", "mse", "mae")
EASE_L2 = 1000.0
# By protocol: the model, the metric, and the figure that it must reach; errors must not pass it.
TARGETS = {
    "random": (
        ("retrieval", "top@100", 0.635),
        ("retrieval", "top@100/seen", 0.41),
        ("retrieval", "ndcg@10", 0.44),
        ("two-stage", "ndcg@10", 0.45),
        ("ranker", "rmse", 0.89),
    ),
    "keras-notebook": (("ranker", "mse", 0.79), ("ranker", "mae", 0.66)),
    "temporal": (
        ("retrieval", "top@100", 0.41),
        ("retrieval", "ndcg@10", 0.265),
        ("two-stage", "ndcg@10", 0.27),
    ),
    "given": (("retrieval", "recall@20", 0.275), ("retrieval", "ndcg@20", 0.37)),
}
ERRORS = ("rmse", "mse", "mae")


def measure(dataset: Dataset, protocol: str, n_seeds: int) -> dict[str, object]:
    """Every model by one protocol: means over the seeds with intervals, and the verdict."""
    start = time.perf_counter()
    report, _ = evaluate(
        dataset, protocol=protocol, seed=SEED, n_seeds=n_seeds, settings=TwoStageSettings()
    )
    return {
        "data": dataset.name,
        "n_seeds": n_seeds,
        "n_test_rows": report.runs[0].n_test_rows,
        "n_test_users": report.runs[0].n_test_users,
        "models": {name: _figures(report, name) for name in report.models},
        "fit_s": {name: round(seconds, 1) for name, seconds in report.seconds.items()},
        "targets": [_against(report, *target) for target in TARGETS.get(protocol, ())],
        "verdict": verdict(report),
        "took_s": round(time.perf_counter() - start, 1),
    }


def _figures(report: EvaluationReport, model: str) -> dict[str, list[float]]:
    """By metric: mean, low, high."""
    found = {name: one for name, one in report.models[model].items() if name in METRICS}
    return {
        name: [round(one.mean, 4), round(one.low, 4), round(one.high, 4)]
        for name, one in found.items()
    }


def _against(report: EvaluationReport, model: str, metric: str, target: float) -> dict[str, object]:
    mean = report.models[model][metric].mean
    reached = mean <= target if metric in ERRORS else mean >= target
    return {"of": f"{model} {metric}", "target": target, "is": round(mean, 4), "reached": reached}


def published_ease(dataset: Dataset) -> dict[str, float]:
    """EASE by the data set's own split with the l2 of the published figure."""
    split = make_split(dataset, "given")
    ease = Ease.fit(split.train, known=split.known, l2=EASE_L2)
    found = evaluate_ranking(ease, known=split.known.matrix, test=split.test.matrix)
    return {name: round(found.mean(name), 4) for name in ("recall@20", "ndcg@20")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="the protocol random, one seed")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--data", type=Path, help="folder with train.txt and test.txt")
    chosen = parser.parse_args()
    now = datetime.now(UTC)
    movies = load_dataset("ml-100k", cache=cache_folder(), now=now)
    protocols, n_seeds = (("random",), 1) if chosen.short else (PROTOCOLS, chosen.seeds)
    measured = {protocol: measure(movies, protocol, n_seeds) for protocol in protocols}
    if chosen.data:
        log = load_dataset(str(chosen.data), cache=cache_folder(), now=now)
        measured["given"] = measure(log, "given", 1)
        measured["given"][f"ease l2={EASE_L2:g}"] = published_ease(log)
    outcome = {
        "benchmark": "quality",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "protocols": measured,
        "peak_memory_mib": peak_memory_mib(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
