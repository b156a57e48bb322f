"""The second stage beside LightGBM and myFM, fitted on the same rows in the same call.

    python benchmarks/bench_ranking.py [--short] [--seeds N] [--protocol NAME ...]

Prints one JSON line: by protocol the figures of all models on MovieLens-100K, and for each
reference ours minus theirs with its interval over users. `targets` says which figure must be how
good.
"""

import argparse
import json
import platform
import time
from dataclasses import replace
from datetime import UTC, datetime

import polars as pl

from candidfeed.cli.output import cache_folder
from candidfeed.data.load import load_dataset
from candidfeed.data.tables import Dataset
from candidfeed.evaluation.report import EvaluationReport
from candidfeed.evaluation.run import evaluate
from candidfeed.reference.boosted_trees import OBJECTIVES
from candidfeed.reference.factorisation_machine import LIKELIHOODS
from candidfeed.training.two_stage import TwoStageSettings
from measured import commit, machine, peak_memory_mib

SEED = 42
PROTOCOLS = ("random", "keras-notebook")
SHORT_USERS = 200
METRICS = ("ndcg@10", "rmse", "mse", "mae")
REFERENCES = {"two-stage": ("ndcg@10", tuple(OBJECTIVES)), "ranker": ("mse", tuple(LIKELIHOODS))}
# By protocol: the model, the metric, the least or greatest figure, and whether less is better.
TARGETS = {
    "random": (("two-stage", "ndcg@10", 0.45, False), ("ranker", "rmse", 0.89, True)),
    "keras-notebook": (("ranker", "mse", 0.79, True), ("ranker", "mae", 0.66, True)),
}


def measure(dataset: Dataset, protocol: str, n_seeds: int) -> dict[str, object]:
    start = time.perf_counter()
    report, _ = evaluate(
        dataset, protocol=protocol, seed=SEED, n_seeds=n_seeds, settings=TwoStageSettings(),
        references=True,
    )  # fmt: skip
    return {
        "n_seeds": n_seeds,
        "models": {name: _figures(report, name) for name in report.models},
        "ours_minus_theirs": _differences(report),
        "fit_s": {name: round(seconds, 1) for name, seconds in report.seconds.items()},
        "targets": [_against(report, *target) for target in TARGETS.get(protocol, ())],
        "took_s": round(time.perf_counter() - start, 1),
    }


def _figures(report: EvaluationReport, model: str) -> dict[str, list[float]]:
    """By metric: mean, low, high."""
    found = {name: one for name, one in report.models[model].items() if name in METRICS}
    return {
        name: [round(one.mean, 4), round(one.low, 4), round(one.high, 4)]
        for name, one in found.items()
    }


def _differences(report: EvaluationReport) -> dict[str, list[float]]:
    """By reference: mean, low, high of ours minus theirs."""
    shown = {}
    for model, (metric, references) in REFERENCES.items():
        for name in references:
            one = report.paired[model][metric][name]
            shown[f"{name} {metric}"] = [round(x, 4) for x in (one.mean, one.low, one.high)]
    return shown


def _against(
    report: EvaluationReport, model: str, metric: str, target: float, less_is_better: bool
) -> dict[str, object]:
    mean = report.models[model][metric].mean
    reached = mean <= target if less_is_better else mean >= target
    return {"of": f"{model} {metric}", "target": target, "is": round(mean, 4), "reached": reached}


def _of_few_users(dataset: Dataset) -> Dataset:
    kept = dataset.users["user_id"].sort()[:SHORT_USERS]
    events = dataset.events.filter(pl.col("user_id").is_in(kept.implode()))
    return replace(dataset, events=events, rows_read=len(events))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="random, one seed, few users")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument(
        "--protocol", action="append", help="random and keras-notebook if not named"
    )
    chosen = parser.parse_args()
    movies = load_dataset("ml-100k", cache=cache_folder(), now=datetime.now(UTC))
    protocols, n_seeds = chosen.protocol or PROTOCOLS, chosen.seeds
    if chosen.short:
        movies, protocols, n_seeds = _of_few_users(movies), ("random",), 1
    outcome = {
        "benchmark": "ranking",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "n_users": int(movies.events["user_id"].n_unique()),
        "protocols": {protocol: measure(movies, protocol, n_seeds) for protocol in protocols},
        "peak_memory_mib": peak_memory_mib(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
