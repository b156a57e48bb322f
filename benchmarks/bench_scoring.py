"""Where the time of a request goes, and its second stage in four runtimes, on one thread.

    python benchmarks/bench_scoring.py [--short] [--no-onnx]

Prints one JSON line: p50, p95 and p99 of each step of `recommend` over many users, and of 500
candidates by Keras, by the exported functions, by ONNX Runtime and by NumPy. `targets` says which
figure must be how good. A model's settings cost what they cost whatever it learned: epochs are few.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.special import erf, expit

from candidfeed.cli.output import cache_folder
from candidfeed.data.load import load_dataset
from candidfeed.data.splits import make_split
from candidfeed.data.tables import Dataset
from candidfeed.feed import pipeline, scoring
from candidfeed.feed.eligibility import SEEN, among, eligible
from candidfeed.feed.exported import ExportedFunction
from candidfeed.feed.served import Person, Served
from candidfeed.ranking.inputs import DENSE_FEATURES, dense_features, ranker_inputs, user_inputs
from candidfeed.ranking.ranker import Ranker
from candidfeed.ranking.settings import RankerSettings
from candidfeed.ranking.taste import TasteTrunk
from candidfeed.release.export import export_function, export_pair
from candidfeed.training.two_stage import TwoStage, TwoStageSettings, fit_two_stage
from measured import commit, machine, peak_memory_mib
from peers import HERE, PeerError, python_of

SEED = 42
N_CANDIDATES = 500
N_USERS, N_REPEATS, WARM_UP = 1_000, 1_000, 50
SHORT_USERS = 200
# What is scored in the exported form: milliseconds, and the greatest difference from Keras.
TARGETS = {"p50_ms": 1.0, "p99_ms": 2.0, "differs_by": 1e-5}

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}

Arrays = dict[str, Any]


def keep_to_one_thread() -> None:
    """Begin again with what is read at import, and stay on one core."""
    if not ONE_THREAD.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def spread_ms(taken_s: list[float]) -> dict[str, float]:
    cuts = np.percentile(taken_s, [50, 95, 99]) * 1e3
    return {
        f"p{share}_ms": round(float(ms), 3) for share, ms in zip((50, 95, 99), cuts, strict=True)
    }


def timed(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    taken = []
    for _ in range(WARM_UP + repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return spread_ms(taken[WARM_UP:])


def fitted(dataset: Dataset, *, short: bool) -> TwoStage:
    settings = TwoStageSettings(ranker=RankerSettings(n_epochs=1 if short else 2))
    return fit_two_stage(
        dataset, make_split(dataset, "temporal", seed=SEED), settings=settings, seed=SEED,
        report=lambda step: print(f"bench_scoring: {step}", file=sys.stderr),
    )  # fmt: skip


# Steps of a request


def steps(served: Served, people: list[Person]) -> dict[str, dict[str, float]]:
    """By step, over these people; each is asked about at the time of their last event."""
    taken: dict[str, list[float]] = defaultdict(list)
    for person in people[:WARM_UP]:
        pipeline.recommend(served, person, pipeline.Ask(k=10, now_s=person.last_time_s))
    for person in people:
        _ask(served, person, taken)
    return {name: spread_ms(seconds) for name, seconds in taken.items()}


def _ask(served: Served, person: Person, taken: dict[str, list[float]]) -> None:
    def step(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        done = call()
        taken[name].append(time.perf_counter() - start)
        return done

    now_s, space = person.last_time_s, served.space
    ask = pipeline.Ask(k=10, now_s=now_s)
    step("recommend", lambda: pipeline.recommend(served, person, ask))
    view = step("stage one of the user", lambda: scoring.view_of(served, person))
    step("- user vector", lambda: scoring.user_vector(served, person))
    rules = (among(SEEN, person.past.items),)
    more = pipeline.More.of(rules)
    proposed = step("propose", lambda: pipeline.propose(served, view, ask, more))
    kept, _ = step("eligible", lambda: eligible(proposed, rules))
    found = step("merge", lambda: pipeline.merge(served, kept, view))
    heads = step("score", lambda: pipeline.score(served, person, found, now_s=now_s))
    width = served.settings.ranker_width
    state = step(
        "- user state", lambda: scoring.user_state(space, person, width=width, now_s=now_s)
    )
    asked = state, found.rows[None]
    scores = {"tower": found.tower[None], "neighbour": found.neighbour[None]}
    dense = step("- dense features", lambda: dense_features(space, *asked, **scores))
    step(
        "- ranker",
        lambda: scoring.predictions(served, state, found.rows, dense[0]),
    )
    values = pipeline.value(heads, pipeline.weights_of(served, person))
    step("select", lambda: pipeline.select(values, found.rows, 10))


# The second stage in four runtimes


def candidates(served: Served, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """State, rows and dense features of one user of median activity."""
    lengths = np.diff(served.pasts.ends, prepend=0)
    row = np.argsort(lengths)[len(lengths) // 2]
    person = served.person(served.users.id_of(int(row)))
    state = scoring.user_state(
        served.space, person, width=served.settings.ranker_width, now_s=person.last_time_s
    )
    rows = rng.permutation(served.n_items)[:N_CANDIDATES].astype(np.int32)
    dense = rng.normal(size=(len(rows), len(DENSE_FEATURES))).astype(np.float32)
    return state, rows, dense


def whole(served: Served, pair: TwoStage, repeats: int) -> dict[str, Any]:
    """The ranker as it is released, with all of its heads, beside Keras on the same inputs."""
    state, rows, dense = candidates(served, np.random.default_rng(SEED))
    model, space = pair.ranker.model, served.space
    inputs = ranker_inputs(space, state, rows[None], dense[None])

    def exported(places: Any = slice(None)) -> dict[str, Any]:
        return scoring.predictions(served, state, rows[places], dense[places])

    every, of_keras = exported(), model.predict_on_batch(inputs)
    order = np.random.default_rng(SEED).permutation(len(rows))
    alone = [exported([place]) for place in range(0, len(rows), 25)]
    return {
        "keras": timed(lambda: model.predict_on_batch(inputs), repeats // 10),
        "exported": timed(exported, repeats),
        "differs_by": _differs_by(every, {name: one[0] for name, one in of_keras.items()}),
        "equal_bits_in_any_order": _equal_bits(exported(order), every, order),
        "equal_bits_alone": all(
            _equal_bits(one, every, [place])
            for one, place in zip(alone, range(0, len(rows), 25), strict=True)
        ),
    }


def _differs_by(found: Arrays, expected: Arrays) -> float:
    return max(float(np.abs(found[name] - expected[name]).max()) for name in found)


def _equal_bits(found: Arrays, every: Arrays, places: Any) -> bool:
    return all(np.array_equal(one, every[name][places]) for name, one in found.items())


def runtimes(
    served: Served, model: Ranker, repeats: int, *, with_onnx: bool
) -> dict[str, dict[str, Any]]:
    """The heads of `TasteTrunk` and `EngagedHead`, the user's part given, by runtime."""
    state, rows, dense = candidates(served, np.random.default_rng(SEED))
    part: Any = model.user_part(user_inputs(served.space, state))
    user = {name: np.asarray(one) for name, one in part.items()}
    inputs = scoring.candidate_inputs(served.space, state, rows[None], dense[None])
    inputs = {name: one for name, one in inputs.items() if name in _READ} | {
        name: user[name] for name in _READ_OF_USER
    }
    taste = model.trunk
    assert taste is not None
    function, weights = _two_heads(served, model, taste, inputs)
    sizes = {"dim": taste.dim, "members": taste.members}
    by_name = {
        "exported": timed(lambda: function(inputs), repeats),
        "numpy": timed(lambda: numpy_heads(weights, inputs, **sizes), repeats),
    }
    expected = function(inputs)
    by_name["numpy"]["differs_by"] = _differs_by(numpy_heads(weights, inputs, **sizes), expected)
    if with_onnx:
        by_name["onnx"] = onnx(weights, inputs, sizes, expected, repeats)
    return by_name


_READ = ("item", "in_history", "own_tone", "time_bin", "dense")
_READ_OF_USER = ("row", "sums", "count", "tone")


def _two_heads(
    served: Served, model: Ranker, taste: TasteTrunk, inputs: Arrays
) -> tuple[ExportedFunction, Arrays]:
    prefix = "table/"
    tables = {
        name.removeprefix(prefix): one
        for name, one in served.ranker.weights.items()
        if name.startswith(prefix)
    }

    def call(inputs: Any, tables: Any) -> Any:
        item = {name: table[inputs["item"]] for name, table in tables.items()}
        rating = model.rating(taste.utility(inputs, item, inputs))
        return {"engaged": model.engaged(inputs["dense"]), "rating": rating}

    function = export_function(model, call, inputs, tables=tables)
    function.compile()
    scale = model.engaged.scale
    gaps = np.log1p(np.exp(np.asarray(model.rating.gaps)))
    weights = {
        **function.weights,
        "mean": np.asarray(scale.mean).ravel(),
        "spread": np.maximum(np.sqrt(np.asarray(scale.variance)).ravel(), 1e-7),
        "cuts": np.asarray(model.rating.first) + np.concatenate([[0], np.cumsum(gaps)]),
    }
    return function, {name: np.asarray(one, np.float32) for name, one in weights.items()}


def numpy_heads(weights: Arrays, inputs: Arrays, *, dim: int, members: int) -> Arrays:
    item, inside = inputs["item"][0], inputs["in_history"][0][:, None]
    own = weights["table/valued"].take(item, axis=0) * inputs["own_tone"][0][:, None]
    own = inside * (own + weights["table/shown"].take(item, axis=0))
    history = (inputs["sums"] - own) / np.sqrt(np.maximum(inputs["count"] - inside, 1))
    times = inputs["time_bin"][0]
    left = inputs["row"] + history + weights["taste/user_times"][times]
    right = weights["table/row"].take(item, axis=0) + weights["taste/item_times"][times]
    left, right = (one.reshape(-1, dim + 1, members) for one in (left, right))
    utility = inputs["tone"] + left[:, -1] + right[:, -1]
    utility = utility + (left[:, :-1] * right[:, :-1]).sum(axis=1)
    below = expit(weights["cuts"][:, None] - utility[:, None]).mean(axis=-1)
    edges = np.pad(below, ((0, 0), (1, 1)))
    edges[:, -1] = 1
    return {"rating": np.diff(edges)[None], "engaged": _numpy_engaged(weights, inputs["dense"])}


def _numpy_engaged(weights: Arrays, dense: Any) -> Any:
    def layer(values: Any, name: str) -> Any:
        of_layer = f"engaged_head/{name}"
        return values @ weights[f"{of_layer}/kernel"] + weights[f"{of_layer}/bias"]

    def gelu(values: Any) -> Any:
        return values * (1 + erf(values * np.float32(0.5**0.5))) * np.float32(0.5)

    scaled = (dense - weights["mean"]) / weights["spread"]
    first = weights["engaged_head/reads"] * scaled / (1 + np.abs(scaled) / 10)
    deep = gelu(layer(gelu(layer(first, "deep_0")), "deep_1"))
    return (layer(first, "wide") + layer(deep, "out"))[..., 0]


def onnx(
    weights: Arrays, inputs: Arrays, sizes: dict[str, int], expected: Arrays, repeats: int
) -> dict[str, Any]:
    """ONNX Runtime in its own environment, which gets the arrays as files and prints JSON."""
    try:
        python = python_of("onnxruntime")
    except PeerError as error:
        return {"missing": str(error)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.savez(folder / "weights.npz", **weights)
        np.savez(folder / "inputs.npz", **inputs)
        (folder / "sizes.json").write_text(json.dumps(sizes), encoding="utf-8")
        command = [str(python), str(HERE / "peers" / "onnx_scoring.py"), scratch, str(repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"missing": (done.stderr.strip().splitlines() or ["no message"])[-1]}
        said = json.loads(done.stdout.splitlines()[-1])
        found = dict(np.load(folder / "outputs.npz"))
    figures = {**spread_ms(said["taken_s"]), "ready_s": round(said["ready_s"], 3)}
    return {**figures, "differs_by": _differs_by(found, expected)}


def _of_few_users(dataset: Dataset) -> Dataset:
    kept = dataset.users["user_id"].sort()[:SHORT_USERS]
    events = dataset.events.filter(pl.col("user_id").is_in(kept.implode()))
    return replace(dataset, events=events, rows_read=len(events))


def _against_targets(figures: dict[str, Any]) -> list[dict[str, object]]:
    found = {**figures["exported"], "differs_by": figures["differs_by"]}
    return [
        {"of": name, "target": target, "is": found[name], "reached": found[name] <= target}
        for name, target in TARGETS.items()
    ]


def main() -> None:
    keep_to_one_thread()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="few users, without ONNX Runtime")
    parser.add_argument("--no-onnx", action="store_true", help="leave that peer out")
    chosen = parser.parse_args()
    movies = load_dataset("ml-100k", cache=cache_folder(), now=datetime.now(UTC))
    if chosen.short:
        movies = _of_few_users(movies)
    repeats = N_REPEATS // 10 if chosen.short else N_REPEATS
    pair = fitted(movies, short=chosen.short)
    served = export_pair(movies, pair)
    start = time.perf_counter()
    served.compile(quickly=False)
    compile_s = time.perf_counter() - start
    people = [served.person(user_id) for user_id in served.users.ids]
    people = [person for person in people if len(person.past)][
        : N_USERS if not chosen.short else 100
    ]
    ranker = whole(served, pair, repeats)
    outcome = {
        "benchmark": "scoring",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "load": [round(one, 1) for one in os.getloadavg()],
        "n_candidates": N_CANDIDATES,
        "warm_up": WARM_UP,
        "repeats": repeats,
        "compile_s": round(compile_s, 2),
        "ranker": ranker,
        "two_heads": runtimes(
            served, pair.ranker.model, repeats, with_onnx=not (chosen.no_onnx or chosen.short)
        ),
        "n_users": len(people),
        "request": steps(served, people),
        "targets": _against_targets(ranker),
        "peak_memory_mib": peak_memory_mib(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
