"""Gradient-boosted trees (LightGBM) over candidate lists: the reference of every ranker.

They learn from the same lists and dense features as the ranker's engagement head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidfeed.extras import import_extra

OBJECTIVES = {"lgbm-binary": "binary", "lambdamart": "lambdarank"}
"""By the name in reports: LightGBM's name of what is minimised."""

N_PARTS = 3
_MAX_TREES = 300
_PATIENCE = 30
_MANY_ROWS = 2_000_000
_COMMON = {
    "learning_rate": 0.05,
    "metric": "ndcg",
    "eval_at": [10],
    "deterministic": True,
    "force_row_wise": True,
    "bagging_freq": 1,
    "bagging_fraction": 0.8,
    "feature_fraction": 0.8,
}
_TABLE = {"feature_pre_filter": False, "verbosity": -1}
# From careful to bold: the lists are few, and one of ML-100K's shapes is not another log's.
_SHAPES = (
    {"num_leaves": 7, "min_data_in_leaf": 200, "lambda_l2": 10.0},
    {"num_leaves": 31, "min_data_in_leaf": 100, "lambda_l2": 1.0},
)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BoostedTrees:
    """A fitted ensemble.

    Attributes:
        booster: LightGBM's own.
        settings: what was chosen on held-out lists, and the nDCG@10 that it reached there.
    """

    booster: Any
    settings: dict[str, float | int | str]

    def scores(self, dense: Floats) -> Floats:
        """Raw scores (of the binary objective: logits), float32 [b, c] of float32 [b, c, f]."""
        flat = self.booster.predict(dense.reshape(-1, dense.shape[-1]), raw_score=True)
        return np.asarray(flat, np.float32).reshape(dense.shape[:2])


def fit_boosted_trees(
    dense: Floats, engaged: Floats, *, names: Sequence[str], objective: str, seed: int
) -> BoostedTrees:
    """Shape and number of trees by nDCG@10 on lists held out in turn; then fitted on all of them.

    Args:
        dense: float32 [n, c, f], at least N_PARTS lists.
        engaged: float32 [n, c]; 1, 0, or -1 where padded.
        names: of the f features.
        objective: a name in OBJECTIVES.

    Raises:
        ConfigError: LightGBM is not installed.

    Source: Ke et al., NeurIPS 2017 (LightGBM); Burges, MSR-TR-2010-82 (LambdaMART).
    """
    lightgbm = import_extra("lightgbm", extra="references")
    rng = np.random.default_rng(seed)
    dense, engaged = _shuffled(dense, engaged, rng)
    real = engaged >= 0
    n_rows = real.sum(axis=1)
    table = lightgbm.Dataset(
        dense[real],
        engaged[real],
        group=n_rows,
        feature_name=list(names),
        params=_TABLE,
        free_raw_data=False,
    )
    # Of few rows a thread gains little, and on a busy machine waiting for it costs far more.
    n_threads = 1 if n_rows.sum() < _MANY_ROWS else 0
    named = {"objective": OBJECTIVES[objective], "seed": seed, "num_threads": n_threads}
    fixed = {**_COMMON, **_TABLE, **named}
    folds = _folds(n_rows, rng)
    best: tuple[float, int, dict[str, float]] = (-np.inf, 1, _SHAPES[0])
    for shape in _SHAPES:
        found = lightgbm.cv(
            {**fixed, **shape},
            table,
            num_boost_round=_MAX_TREES,
            folds=folds,
            callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
        )
        by_n_trees, spread = (np.array(found[f"valid ndcg@10-{one}"]) for one in ("mean", "stdv"))
        top = int(by_n_trees.argmax())
        if by_n_trees[top] > best[0]:
            # The fewest trees within one standard error: later ones fit what drifts. LambdaMART's
            # first trees tell few candidates apart, and it takes as many as are best.
            slack = spread[top] / np.sqrt(N_PARTS) if objective == "lgbm-binary" else 0.0
            enough = by_n_trees >= by_n_trees[top] - slack
            best = (float(by_n_trees[top]), int(enough.argmax()) + 1, shape)
    ndcg, n_trees, shape = best
    booster = lightgbm.train({**fixed, **shape}, table, num_boost_round=n_trees)
    chosen = {**shape, "learning_rate": _COMMON["learning_rate"], "n_trees": n_trees}
    settings = {"objective": OBJECTIVES[objective], **chosen, "held_out_ndcg@10": ndcg}
    return BoostedTrees(booster, settings)


def _shuffled(dense: Floats, engaged: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Each list in an order of its own: LightGBM's nDCG leaves ties as they stand.

    Lists come best first from retrieval: a single tree, nearly all ties, would look like its order.
    """
    order = np.argsort(rng.random(engaged.shape), axis=1)
    engaged = np.take_along_axis(engaged, order, axis=1)
    return np.take_along_axis(dense, order[..., None], axis=1), engaged


def _folds(
    n_rows: NDArray[np.int64], rng: np.random.Generator
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to learn from and rows held out, N_PARTS times; each list is held out once, whole."""
    part = rng.permutation(len(n_rows)) % N_PARTS
    of_row = np.repeat(part, n_rows)
    return [(np.flatnonzero(of_row != k), np.flatnonzero(of_row == k)) for k in range(N_PARTS)]
