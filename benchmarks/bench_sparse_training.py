"""How fast towers with large tables train, beside plain Keras 3 and TensorFlow Recommenders.

    python benchmarks/bench_sparse_training.py [--short] [--rows N,N,...] [--no-tfrs]

Prints one JSON line. Of each size (N users, N items): examples a second and peak memory of our
sparse tables as they are by default and with float32 products, and of the same model and loss with
`keras.layers.Embedding`, each in a process of its own. Then MovieLens-100K (random split, 32
dimensions, batch 8,192): examples a second, quality and time to TFRS' quality, beside TFRS
(Keras 2), which gets an environment of its own, made at the first run.

Processes are started with GLIBC_TUNABLES=glibc.malloc.hugetlb=1, which spares page faults.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from candidfeed.cli.output import cache_folder
from candidfeed.data.load import load_dataset
from candidfeed.data.splits import Split, make_split
from candidfeed.evaluation.ranking_metrics import evaluate_ranking
from candidfeed.retrieval.sparse.any_towers import Retrieval
from candidfeed.retrieval.sparse.event_batches import EventBatches, Sampling, TowerRows
from candidfeed.retrieval.sparse.memory import memory_estimate
from candidfeed.retrieval.sparse.tables import SparseEmbedding
from measured import commit, machine, peak_memory_mib
from peers import HERE, PeerError, python_of
from vectors import Vectors

# After candidfeed, which chooses the backend.
import keras  # isort: skip

TUNABLE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
BATCH, N_SHARED, DIM = 8192, 1024, 64
KINDS = ("candidfeed", "candidfeed float32")
ROWS, SHORT_ROWS = (1_000_000, 5_000_000), (200_000,)
MOVIES_DIM, MOVIES_EPOCHS, TFRS_EPOCHS = 32, 30, 10
SEED = 42


class Plain(keras.Model):
    """The same towers and loss without sparse tables."""

    def __init__(self, user_tower: keras.Model, item_tower: keras.Model) -> None:
        super().__init__()
        self.user_tower, self.item_tower, self.temperature = user_tower, item_tower, 1.0
        self.products: Any = None

    call = Retrieval.call
    compute_loss = Retrieval.compute_loss


class Times(keras.callbacks.Callback):
    """When each epoch ended."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.at = [time.perf_counter()]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.at.append(time.perf_counter())


def tower(layer: keras.layers.Layer) -> keras.Model:
    row = keras.Input((), dtype="int32")
    return keras.Model(row, layer(row))


def uniform_events(n_rows: int, n: int) -> EventBatches:
    """Events between any user and any item: no row is in a cache more often than another."""
    rng = np.random.default_rng(SEED)
    user, item = rng.integers(n_rows, size=(2, n), dtype=np.int32)
    rows = TowerRows(n_rows)
    return EventBatches(
        user, item, users=rows, items=rows, batch_size=BATCH, sampling=Sampling(N_SHARED, 0)
    )


def model_of(kind: str, n_rows: int) -> keras.Model:
    """Ours (the type of its products may follow the name: `candidfeed float32`), or plain Keras."""
    if not kind.startswith("candidfeed"):
        plain = Plain(*(tower(keras.layers.Embedding(n_rows, DIM)) for _ in range(2)))
        plain.compile(optimizer=keras.optimizers.Adagrad(0.1))
        return plain
    products: Any = kind.partition(" ")[2] or None
    layers = (SparseEmbedding(n_rows, DIM, seed=seed) for seed in (0, 1))
    ours = Retrieval(*map(tower, layers), products=products)
    ours.compile(optimizer="adam")
    return ours


def measure_one(kind: str, n_rows: int, n_steps: int, n_epochs: int) -> dict[str, Any]:
    """Speed and peak memory of one kind at one size; the first epoch is left out.

    What the program itself takes is measured on tables of 1,000 rows.
    """
    model_of(kind, 1000).fit(uniform_events(1000, BATCH), shuffle=False, verbose=0)
    program_mib = peak_memory_mib()
    events, model, times = uniform_events(n_rows, n_steps * BATCH), model_of(kind, n_rows), Times()
    model.fit(events, epochs=1 + n_epochs, shuffle=False, verbose=0, callbacks=[times])
    epoch_s = np.diff(times.at)[1:]
    estimate = memory_estimate([(n_rows, DIM)] * 2, batch_size=BATCH, n_negatives=N_SHARED)
    tables_mib = (estimate.tables_bytes + estimate.optimiser_bytes) / 2**20
    return {
        "examples_per_s": round(n_steps * BATCH / median(epoch_s)),
        "best_examples_per_s": round(n_steps * BATCH / min(epoch_s)),
        "steps_an_epoch": n_steps,
        "epochs": n_epochs,
        "peak_mib": peak_memory_mib(),
        "program_mib": program_mib,
        "tables_and_optimiser_rows_mib": round(tables_mib),
        "peak_over_tables": round(peak_memory_mib() / tables_mib, 2),
        "peak_less_program_over_tables": round((peak_memory_mib() - program_mib) / tables_mib, 2),
    }


def in_a_process(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def at_size(n_rows: int, *, short: bool) -> dict[str, Any]:
    """Ours and plain Keras, which is given fewer steps: it touches every row at each."""
    steps = (16, 2) if short else (64, 6)
    of_kind = {
        kind: in_a_process("--one", kind, n_rows, *steps) for kind in KINDS[: 1 if short else 2]
    }
    plain = in_a_process("--one", "keras", n_rows, 2 if short or n_rows > 10**6 else 8, 2)
    ratio = of_kind[KINDS[0]]["examples_per_s"] / plain["examples_per_s"]
    return {**of_kind, "keras": plain, "candidfeed_over_keras": round(ratio, 1)}


# MovieLens-100K


def quality(split: Split, vectors: Vectors) -> dict[str, float]:
    found = evaluate_ranking(vectors, known=split.known.matrix, test=split.test.matrix)
    names = ("top@100", "top@100/seen", "ndcg@10")
    return {name: round(found.mean(name), 4) for name in names}


def tfrs_on_movies(split: Split) -> dict[str, Any]:
    """The tutorial in its own environment: seconds an epoch, and its quality by our measure."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "events.npz", Path(folder) / "vectors.npz"
        sizes = {"n_users": len(split.users), "n_items": len(split.items)}
        np.savez(source, user=split.train.user, item=split.train.item, **sizes)
        script = HERE / "peers" / "tfrs_ml_100k.py"
        sizes_asked = (MOVIES_DIM, BATCH, TFRS_EPOCHS)
        command = [python_of("tfrs"), script, source, target, *map(str, sizes_asked)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        tables = np.load(target)
        vectors = Vectors(tables["user"], tables["item"])
    epoch_s = json.loads(done.stdout.splitlines()[-1])["epoch_s"]
    return {
        "examples_per_s": round(len(split.train) / median(epoch_s[1:])),
        "fit_s": round(sum(epoch_s), 2),
        **quality(split, vectors),
    }


def ours_on_movies(split: Split, target: float) -> dict[str, Any]:
    """Ours, and the seconds after which its `top@100/seen` is at `target`, compilation included."""
    users, items = TowerRows(len(split.users)), TowerRows(len(split.items))
    events = EventBatches(split.train.user, split.train.item, users=users, items=items,
                          batch_size=BATCH, sampling=Sampling(768, 256), seed=SEED)  # fmt: skip
    model = Retrieval(
        tower(SparseEmbedding(users.n_rows, MOVIES_DIM, seed=0)),
        tower(SparseEmbedding(items.n_rows, MOVIES_DIM, seed=1)),
    )
    model.compile(optimizer="adam")
    times, reached_s = Times(), None
    spent_s, epoch_s = 0.0, []
    for _ in range(MOVIES_EPOCHS):
        model.fit(events, epochs=1, verbose=0, callbacks=[times])
        spent_s += times.at[-1] - times.at[0]
        epoch_s.append(times.at[-1] - times.at[0])
        events.seed += 1
        vectors = Vectors(model.user_vectors(users), model.item_vectors(items))
        found = quality(split, vectors)
        if reached_s is None and found["top@100/seen"] >= target:
            reached_s = round(spent_s, 2)
    return {
        "examples_per_s": round(len(events) * BATCH / median(epoch_s[1:])),
        "fit_s": round(spent_s, 2),
        "seconds_to_the_peers_quality": reached_s,
        **found,
    }


def on_movies() -> dict[str, Any]:
    dataset = load_dataset("ml-100k", cache=cache_folder(), now=datetime.now(UTC))
    split = make_split(dataset, "random", seed=SEED)
    try:
        peer = tfrs_on_movies(split)
    except PeerError as error:
        return {"candidfeed": ours_on_movies(split, 0.0), "tfrs": str(error)}
    ours = ours_on_movies(split, peer["top@100/seen"])
    ratio = ours["examples_per_s"] / peer["examples_per_s"]
    return {"candidfeed": ours, "tfrs": peer, "candidfeed_over_tfrs": round(ratio, 1)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="small tables, few steps, no TFRS")
    parser.add_argument("--rows", help="sizes, with commas between them")
    parser.add_argument("--no-tfrs", action="store_true", help="leave MovieLens-100K out")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    if os.environ.get("GLIBC_TUNABLES") is None:
        # The C library reads it once, before the program begins.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **TUNABLE})
    if chosen.one:
        kind, *sizes = chosen.one
        print(json.dumps(measure_one(kind, *map(int, sizes))))
        return
    rows = tuple(int(float(one)) for one in chosen.rows.split(",")) if chosen.rows else None
    rows = rows or (SHORT_ROWS if chosen.short else ROWS)
    sizes = {f"{n:,} x {n:,}": at_size(n, short=chosen.short) for n in rows}
    speeds = [one["candidfeed"]["examples_per_s"] for one in sizes.values()]
    outcome = {
        "benchmark": "sparse training",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "keras": keras.__version__,
        "load_before": [round(one, 1) for one in os.getloadavg()],
        "dim": DIM,
        "batch": BATCH,
        "shared_negatives": N_SHARED,
        "warm_up": "one epoch",
        "sizes": sizes,
        "largest_over_smallest": round(speeds[-1] / speeds[0], 2),
        "ml-100k": None if chosen.short or chosen.no_tfrs else on_movies(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
