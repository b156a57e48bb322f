"""Both stages on a synthetic world, as a share of its oracle; and what places do to probabilities.

    python benchmarks/bench_world.py [--short | --confounded] [--data WORLD] [--users N] [--seed N]
                                     [--seeds N]

Prints one JSON line, and one a seed on the error stream as it is measured. A seed fits all models
anew and draws other test users; figures are means over seeds, intervals over users and seeds. The
target on 100,000 users x 50,000 items x 5,000,000 events: the two-stage list is above retrieval
alone, popularity and iALS, at a stated share of the oracle's nDCG@10.

`log` is nDCG@10 of what comes next in the log, as in `candidfeed evaluate`; `share` divides it by
that of the oracle's own order; by how much the two-stage list is ahead of each stands with its
interval over users. `wanted` is what the person would click if all ten were looked at:
the discounted sum of the oracle's P(click | looked at) over a list, divided by that of the best
list of items that the person has not touched.

`places` compares action heads that learn with the places of the log and without, on users whom
they have not learned from: P(click | looked at) that they say over the true one (`ratio`), their
mean absolute error, and how many pairs of one list they order as the truth does: of all, of those
whose better one stood lower in its slate, and of those where it stood higher. What the log's places
put into an order shows as the gap between the last two.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.data.load import load_dataset
from candidfeed.data.splits import Split, make_split
from candidfeed.data.synthetic.files import write_world
from candidfeed.data.synthetic.oracle import Oracle
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.data.tables import Dataset
from candidfeed.evaluation.baselines import fit_baselines
from candidfeed.evaluation.bootstrap import Figure, Resamples, paired_difference
from candidfeed.evaluation.ranking_metrics import Scorer, evaluate_ranking
from candidfeed.evaluation.run import with_test_users
from candidfeed.ranking.action_inputs import ActionSpace, expected_actions
from candidfeed.ranking.action_training import ActionLists, fit_actions, inputs_of
from candidfeed.retrieval.top_k import best_columns
from candidfeed.training.impressions import action_lists, action_space, shown_of
from candidfeed.training.scorers import TwoStageScorer
from candidfeed.training.two_stage import TwoStage, TwoStageSettings, fit_two_stage
from measured import commit, machine, peak_memory_mib

FULL = WorldSettings(n_users=100_000, n_items=50_000, n_events=5_000_000, seed=0)
SHORT = WorldSettings(n_users=2_000, n_items=1_000, n_events=100_000, seed=0)
# Lower places are hardly looked at, and hold what suits nobody in particular.
CONFOUNDED = replace(SHORT, n_events=400_000, other_share=(0.05, 0.95), examine_exponent=0.8)
K = 10
# Differences of P(click) below this are no order.
_APART = 0.02
_USERS_AT_ONCE = 32
_TOLD_OF_WORLD = ("n_users", "n_items", "n_events", "other_share", "examine_exponent")
# The truth of all items for one user takes ten milliseconds; half of these would do.
_WANTED_USERS = 1_000
_EPOCHS = 4


@dataclass(frozen=True)
class Lists:
    """What one seed's lists are worth, by model, the oracle's own order included."""

    log: Mapping[str, Figure]
    wanted: Mapping[str, float]


def measured_lists(models: Mapping[str, Scorer], oracle: Oracle, split: Split) -> Lists:
    known, test = split.known.matrix, split.test.matrix
    window = float(split.test.time_s.min()), float(split.test.time_s.max())
    users = np.unique(split.test.user).astype(np.int32)
    asked = {**models, "oracle": oracle.during(*window)}
    ranked = {
        name: evaluate_ranking(model, known=known, test=test).figures[f"ndcg@{K}"]
        for name, model in asked.items()
    }
    liked = wanted(asked, oracle, known, users[:_WANTED_USERS], sum(window) / 2)
    return Lists(ranked, liked)


def list_figures(seeds: Sequence[Lists]) -> dict[str, dict[str, Any]]:
    """Of each model the means over the seeds."""
    log = {name: [one.log[name] for one in seeds] for name in seeds[0].log}
    users = np.unique(np.concatenate([one.users for one in log["oracle"]]))
    resamples = Resamples.draw(users, rng=np.random.default_rng(0))
    means = {name: float(np.mean([one.value() for one in each])) for name, each in log.items()}
    return {
        name: {
            "log": round(means[name], 4),
            "share": round(means[name] / means["oracle"], 4),
            "wanted": round(float(np.mean([one.wanted[name] for one in seeds])), 4),
            "two_stage_ahead_by": _ahead(log["two-stage"], each, resamples),
        }
        for name, each in log.items()
    }


def _ahead(ours: Sequence[Figure], other: Sequence[Figure], resamples: Resamples) -> list[float]:
    """Mean, low and high of the paired difference over users (95 %)."""
    found = paired_difference(ours, other, resamples)
    assert found is not None
    return [round(one, 4) for one in (found.mean, found.low, found.high)]


def wanted(
    models: Mapping[str, Scorer],
    oracle: Oracle,
    known: sp.csr_matrix,
    users: NDArray[np.int32],
    time_s: float,
) -> dict[str, float]:
    """See `wanted` above; of each model the mean over these users at this time."""
    discounts = 1.0 / np.log2(np.arange(2, K + 2))
    shares: dict[str, list[NDArray[np.float64]]] = {name: [] for name in models}
    for start in range(0, len(users), _USERS_AT_ONCE):
        some = users[start : start + _USERS_AT_ONCE]
        touched = known[some].nonzero()
        truth = oracle.values(some, time_s, {"click": 1.0})
        truth[touched] = -1.0

        def gained(order: NDArray[np.float32], truth: NDArray[np.float32] = truth) -> Any:
            return np.take_along_axis(truth, best_columns(order, K), axis=1) @ discounts

        best = gained(truth)
        for name, model in models.items():
            scores = np.array(model.scores(some), dtype=np.float32)
            scores[touched] = -np.inf
            shares[name].append(gained(scores) / best)
    return {name: float(np.concatenate(each).mean()) for name, each in shares.items()}


def places(dataset: Dataset, pair: TwoStage, oracle: Oracle, seed: int) -> dict[str, Any]:
    """Action heads with and without the places of the log, against the truth."""
    shown = shown_of(dataset, pair.split)
    assert shown is not None
    lists = action_lists(
        dataset, pair.split, pair.features, pair.tower, pair.sources.neighbour, shown.later,
        seed=seed,
    )  # fmt: skip
    time_s = float(pair.split.test.time_s.mean())
    unknown = replace(shown.older, position=np.zeros_like(shown.older.position))
    nowhere = replace(lists, position=np.zeros_like(lists.position))
    learned = {"with": (shown.older, lists), "without": (unknown, nowhere)}
    return {
        name: _against_truth(
            action_space(dataset, pair.split, older, pair.tower), of_lists, lists.position,
            oracle, time_s, seed,
        )
        for name, (older, of_lists) in learned.items()
    }  # fmt: skip


def _against_truth(
    space: ActionSpace,
    lists: ActionLists,
    stood: NDArray[np.int32],
    oracle: Oracle,
    time_s: float,
    seed: int,
) -> dict[str, Any]:
    """Heads that learn from two thirds of the users, asked about the others' lists.

    Args:
        stood: where each impression really stood.
    """
    held_rows, rows = (np.flatnonzero((lists.user % 3 == 0) == which) for which in (True, False))
    learned, held, stood = lists.take(rows), lists.take(held_rows), stood[held_rows]
    heads = fit_actions(space, learned, n_epochs=_EPOCHS, seed=seed, held=held).heads
    first = replace(held, position=np.minimum(held.position, 1))
    logs = np.concatenate(
        [
            np.asarray(heads.expected(heads(inputs_of(space, first.take(rows)))))
            for rows in np.array_split(np.arange(len(first)), max(1, len(first) // 256))
        ]
    )
    said, real = expected_actions(logs, space)["click"], held.real
    truth = _true_clicks(oracle, held, time_s)
    apart = truth[:, :, None] - truth[:, None, :]
    pairs = (apart > _APART) & real[:, :, None] & real[:, None, :]
    agrees = said[:, :, None] > said[:, None, :]
    stood_lower = stood[:, :, None] > stood[:, None, :]
    stood_higher = stood[:, :, None] < stood[:, None, :]
    seen = np.exp(np.asarray(heads.log_seen(np.arange(1, space.n_positions + 1))))[:, 0]
    return {
        "ratio": round(float(said[real].mean() / truth[real].mean()), 3),
        "mean_absolute_error": round(float(np.abs(said - truth)[real].mean()), 4),
        "pairs_in_order": round(float(agrees[pairs].mean()), 4),
        "better_one_stood_lower": round(float(agrees[pairs & stood_lower].mean()), 4),
        "better_one_stood_higher": round(float(agrees[pairs & stood_higher].mean()), 4),
        "looked_at": [round(float(one), 3) for one in seen],
    }


def _true_clicks(oracle: Oracle, lists: ActionLists, time_s: float) -> NDArray[np.float64]:
    user = np.broadcast_to(lists.user[:, None], lists.items.shape)
    items = np.where(lists.real, lists.items, 0)
    found = oracle.feedback(user.ravel(), items.ravel(), np.full(user.size, time_s), position=1)
    return found.click.reshape(user.shape).astype(np.float64)


def measure(folder: Path, max_users: int, seeds: Sequence[int]) -> dict[str, Any]:
    dataset = load_dataset(str(folder), cache=folder, now=datetime.now(UTC))
    oracle = Oracle.open(folder)
    lists: list[Lists] = []
    fits: list[dict[str, Any]] = []
    placed = {}
    for seed in seeds:
        split = make_split(dataset, "temporal", seed=seed)
        began = time.perf_counter()
        pair = fit_two_stage(dataset, split, settings=TwoStageSettings(), seed=seed)
        fits.append(
            {
                "seed": seed,
                "fit_s": round(time.perf_counter() - began, 1),
                "fit_s_by_step": {name: round(one, 1) for name, one in pair.seconds.items()},
                "peak_memory_mib": peak_memory_mib(),
                "features": pair.settings.ranker.features,
            }
        )
        asked = with_test_users(split, max_users)
        lists.append(measured_lists(_models(pair, split, seed), oracle, asked))
        print(json.dumps({**fits[-1], "lists": list_figures(lists[-1:])}), file=sys.stderr)
        # What places do is told of the first seed: it takes as long as a fit.
        placed = placed or places(dataset, pair, oracle, seed)
    return {
        "n_test_users": [len(one.log["oracle"].users) for one in lists],
        "fits": fits,
        "lists": list_figures(lists),
        "places": placed,
    }


def _models(pair: TwoStage, split: Split, seed: int) -> dict[str, Scorer]:
    by_click = replace(pair.settings, value_weights={"click": 1.0})
    return {
        "two-stage": TwoStageScorer(pair),
        "two-stage by P(click)": TwoStageScorer(replace(pair, settings=by_click)),
        "retrieval": pair.sources.tower,
        **{name: model for name, (model, _) in fit_baselines(split, seed=seed).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a smaller world")
    parser.add_argument("--confounded", action="store_true", help="one where places mislead more")
    parser.add_argument("--data", type=Path, help="a world that is there already")
    parser.add_argument("--users", type=int, default=2_000, help="test users who are asked for")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="candidfeed-bench-") as scratch:
        folder = options.data or Path(scratch) / "world"
        if options.data is None:
            wanted_world = SHORT if options.short else CONFOUNDED if options.confounded else FULL
            write_world(replace(wanted_world, seed=options.seed), folder)
        world = json.loads((folder / "world.json").read_text())
        seeds = range(options.seed, options.seed + options.seeds)
        measured = measure(folder, options.users, seeds)
    outcome = {
        "benchmark": "world",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "world": {name: world["settings"][name] for name in _TOLD_OF_WORLD},
        "seeds": list(seeds),
        **measured,
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
