"""How fast `candidfeed synth` writes a world, and how far from its oracle well-known models stay.

    python benchmarks/bench_synth.py [--short]

Prints one JSON line. The targets: 1,000,000 events/s on 2 cores and 2 GiB at 1M users x 1M items x
50M events; popular < iALS < oracle on a time split of 5,000 users x 3,000 items x 300,000 events.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from candidfeed.data.load import load_dataset
from candidfeed.data.splits import make_split
from candidfeed.data.synthetic.files import write_world
from candidfeed.data.synthetic.oracle import Oracle
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.evaluation.baselines import Ials
from candidfeed.evaluation.ranking_metrics import evaluate_ranking
from candidfeed.retrieval.neighbours import Ease
from candidfeed.retrieval.popularity import Popular
from measured import commit, machine, peak_memory_mib, spread

CANDIDFEED = Path(sys.executable).with_name("candidfeed")
FULL = {"users": 1_000_000, "items": 1_000_000, "events": 50_000_000}
SHORT = {"users": 100_000, "items": 100_000, "events": 2_000_000}
QUALITY = WorldSettings(n_users=5_000, n_items=3_000, n_events=300_000, seed=0)
METRICS = ("ndcg@10", "recall@20", "top@100")
# What validation chose on this world.
IALS = {"factors": 32, "regularization": 30, "alpha": 5}
EASE_L2 = 300


def write_times(sizes: dict[str, int], repeats: int, folder: Path) -> list[float]:
    """Seconds of whole runs of the command, as it tells them itself."""
    taken = []
    options = [word for name, n in sizes.items() for word in (f"--{name}", str(n))]
    told = folder / "told.json"
    for _ in range(repeats):
        command = [CANDIDFEED, "synth", "-o", folder / "world", *options, "--json", told]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        taken.append(json.loads(told.read_text())["seconds"])
    return taken


def qualities(folder: Path) -> dict[str, dict[str, float]]:
    """Metrics of popular, EASE, iALS and the oracle on the same rows, and their share of it."""
    write_world(QUALITY, folder)
    split = make_split(load_dataset(str(folder), cache=folder, now=datetime.now(UTC)), "temporal")
    train, known, asked = split.train, split.known, split.test
    oracle = Oracle.open(folder).during(asked.time_s.min(), asked.time_s.max())
    models = {
        "popular": Popular.fit(train),
        "ease": Ease.fit(train, known=known, l2=EASE_L2),
        "ials": Ials.fit(train, known=known, seed=0, **IALS),
        "oracle": oracle,
    }
    figures = {}
    for name, model in models.items():
        ranked = evaluate_ranking(model, known=known.matrix, test=asked.matrix)
        figures[name] = {metric: round(ranked.mean(metric), 4) for metric in METRICS}
    best = figures["oracle"]["ndcg@10"]
    return {
        name: {**one, "share": round(one["ndcg@10"] / best, 3)} for name, one in figures.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a smaller world")
    sizes = SHORT if parser.parse_args().short else FULL
    repeats = 2 if sizes is SHORT else 3
    with tempfile.TemporaryDirectory(prefix="candidfeed-bench-") as folder:
        seconds = spread(write_times(sizes, repeats, Path(folder)))
        quality = qualities(Path(folder) / "quality")
    outcome = {
        "benchmark": "synth",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        **sizes,
        "warm_up": 0,
        "repeats": repeats,
        "seconds": seconds,
        "events_per_s": round(sizes["events"] / seconds["p50_s"]),
        "peak_memory_mib": peak_memory_mib(of_children=True),
        "quality": quality,
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
