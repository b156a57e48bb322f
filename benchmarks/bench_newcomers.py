"""What a user's events about items that came after the build tell stage one before the next build.

    python benchmarks/bench_newcomers.py [--short] [--share S] [--seeds N]

Prints one JSON line. In a synthetic world some of the items, drawn at random, are newcomers: the
model of large catalogues is fitted on a log without them, each gets the vector that its features
lead to expect, as when it is served. Asked for are the other items that a user touches next.
nDCG@10 and recall@20 where a past leaves newcomers out, where it holds them, and of a model that
was fitted with them, for reference; differences are paired, over users and seeds (95 %). A seed
draws other newcomers and fits anew.
"""

import argparse
import json
import platform
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.data.load import load_dataset
from candidfeed.data.splits import Split, make_split
from candidfeed.data.synthetic.files import write_world
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.data.tables import Dataset
from candidfeed.evaluation.bootstrap import Figure, Resamples, paired_difference
from candidfeed.evaluation.ranking_metrics import Scorer, evaluate_ranking
from candidfeed.feed.newcomers import ContentMap
from candidfeed.retrieval.content import Content
from candidfeed.retrieval.large.training import FittedLarge, LargeSettings, fit_large
from candidfeed.training.side_features import SideFeatures, side_features
from measured import commit, machine, peak_memory_mib

FULL = WorldSettings(n_users=20_000, n_items=20_000, n_events=1_000_000, seed=0)
SHORT = WorldSettings(n_users=500, n_items=400, n_events=10_000, seed=0)
METRICS = ("ndcg@10", "recall@20")
_SETTINGS = LargeSettings(n_epochs=5)


@dataclass(frozen=True)
class AmongCatalogue:
    """The same scores, but no newcomer comes into a list."""

    scorer: Scorer
    is_new: NDArray[np.bool_]

    def scores(self, users: NDArray[np.integer]) -> NDArray[np.float32]:
        scores = np.array(self.scorer.scores(users), np.float32)
        scores[:, self.is_new] = -np.inf
        return scores


def fitted(train: Interactions, features: SideFeatures, seed: int) -> FittedLarge:
    return fit_large(
        train,
        user_bag=features.user_bag,
        item_bag=features.item_bag,
        n_user_ids=features.user_map.n_ids,
        n_item_ids=features.item_map.n_ids,
        settings=_SETTINGS,
        seed=seed,
    )


def give_vectors(
    model: FittedLarge, train: Interactions, features: SideFeatures, is_new: NDArray[np.bool_]
) -> None:
    """Newcomers get the vectors that they are served with."""
    vectors, bag = np.array(model.model.item_vectors()), features.item_bag
    place = np.cumsum(~is_new) - 1
    content = Content.of(Bag(bag.ids[~is_new], bag.weights[~is_new]), place[train.item])
    effects = content.effects(vectors[~is_new], n_ids=features.item_map.n_ids)
    newcomers = Bag(bag.ids[is_new], bag.weights[is_new])
    vectors[is_new] = ContentMap(effects[:-1], effects[-1]).vectors(newcomers)
    model.model.items.assign(vectors)


def figures_of(dataset: Dataset, split: Split, share: float, seed: int) -> dict[str, Any]:
    """By model, the figures of one seed; and how much of the pasts is about newcomers."""
    is_new = np.random.default_rng(seed).random(split.train.n_items) < share
    features = side_features(dataset, split)
    known, old = split.known, split.known.take(~is_new[split.known.item])
    train = split.train.take(~is_new[split.train.item])
    before = fitted(train, features, seed)
    give_vectors(before, train, features, is_new)
    models = {
        "left out": before.scorer(old),
        "read": before.scorer(known),
        "fitted with them": fitted(split.train, features, seed).scorer(known),
    }
    test = split.test.take(~is_new[split.test.item])
    # Who touched nothing else is a stranger where newcomers are left out.
    test = test.take(np.isin(test.user, np.unique(old.user)))
    return {
        name: evaluate_ranking(
            AmongCatalogue(model, is_new), known=known.matrix, test=test.matrix
        ).figures
        for name, model in models.items()
    }


def outcome_of(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    users = np.unique(np.concatenate([one["read"][METRICS[0]].users for one in seeds]))
    resamples = Resamples.draw(users, rng=np.random.default_rng(0))
    told: dict[str, Any] = {}
    for metric in METRICS:
        of: dict[str, list[Figure]] = {
            name: [one[name][metric] for one in seeds] for name in seeds[0]
        }
        gain = paired_difference(of["read"], of["left out"], resamples)
        assert gain is not None
        told[metric] = {
            name: round(float(np.mean([one.value() for one in each])), 5)
            for name, each in of.items()
        } | {"gain": [round(one, 5) for one in (gain.mean, gain.low, gain.high)]}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a smaller world, one seed")
    parser.add_argument("--share", type=float, default=0.2, help="of the items, newcomers")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    options = parser.parse_args()
    world, n_seeds = (SHORT, 1) if options.short else (FULL, options.seeds)
    with tempfile.TemporaryDirectory(prefix="candidfeed-bench-") as scratch:
        folder = Path(scratch) / "world"
        write_world(world, folder)
        dataset = load_dataset(str(folder), cache=folder, now=datetime.now(UTC))
        split = make_split(dataset, seed=0)
        seeds = [figures_of(dataset, split, options.share, seed) for seed in range(n_seeds)]
    outcome = {
        "benchmark": "newcomers",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "world": {name: getattr(world, name) for name in ("n_users", "n_items", "n_events")},
        "share": options.share,
        "seeds": n_seeds,
        **outcome_of(seeds),
        "peak_memory_mib": peak_memory_mib(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
