"""Fitting a classic model on one split per seed and measuring it on the test rows."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split, make_split
from candidfeed.data.tables import Dataset
from candidfeed.errors import ConfigError, DataError
from candidfeed.evaluation.bootstrap import Figure
from candidfeed.evaluation.ranking_metrics import evaluate_ranking
from candidfeed.evaluation.rating_metrics import evaluate_ratings
from candidfeed.evaluation.report import EvaluationReport, SeedRun, summarise
from candidfeed.reference.logs import TensorBoardLogs
from candidfeed.reference.metadata import metadata_of
from candidfeed.reference.models import TfrsRetrieval
from candidfeed.reference.published import Reference
from candidfeed.reference.training import Curves, Fitted, build_model, fit_reference, predict

_WATCHED_K = 100
WATCHED = f"val_top@{_WATCHED_K}/seen"
"""The curve that a retrieval model has beside its loss: `top@100/seen` of the test rows."""


@dataclass(frozen=True)
class Towers:
    """The vectors of a two-tower model as a scorer; see `ranking_metrics.Scorer`."""

    user: NDArray[np.float32]
    item: NDArray[np.float32]

    @classmethod
    def of(cls, model: TfrsRetrieval) -> "Towers":
        return cls(model.user_vectors(), model.item_vectors())

    def scores(self, users: NDArray[np.int32]) -> NDArray[np.float32]:
        return self.user[users] @ self.item.T


@dataclass(frozen=True)
class ReferenceRun:
    """A classic model, fitted once per seed, and how good it is.

    Attributes:
        curves: by name, the mean over seeds of each epoch's figure.
        split: of the first seed; `model` is fitted on it.
    """

    reference: Reference
    report: EvaluationReport
    curves: Curves
    split: Split
    model: keras.Model

    def to_json(self) -> dict[str, object]:
        """The report's JSON, and the curves by model; null where a loss is not finite."""
        curves = {
            name: [value if np.isfinite(value) else None for value in values]
            for name, values in self.curves.items()
        }
        return {**self.report.to_json(), "curves": {self.reference.name: curves}}


def run_reference(
    dataset: Dataset,
    reference: Reference,
    *,
    protocol: str,
    seed: int,
    n_seeds: int,
    epochs: int,
    logs: Path | None = None,
    on_epoch: Callable[[], None] = lambda: None,
) -> ReferenceRun:
    """Fits and measures the model once for each of the seeds `seed`, `seed` + 1, ….

    A seed fixes the split (where the protocol draws one), the first weights and the order of rows.

    Args:
        epochs: at least 1.
        logs: folder for TensorBoard files, one folder in it per seed.
        on_epoch: called after each epoch of each seed.

    Raises:
        ConfigError: a rating model is asked for, and the data set has no ratings.
        DataError: the protocol can't cut this data set, or a part holds too little.
    """
    if reference.kind == "rating" and not dataset.has_ratings:
        raise ConfigError(
            f"{reference.name} predicts ratings, and {dataset.name} has none; use tfrs-retrieval"
        )
    fits: list[_SeedFit] = []
    for each in range(seed, seed + n_seeds):
        parts = _parts(dataset, reference, make_split(dataset, protocol, seed=each))
        folder = None if logs is None else logs / f"{reference.name}-seed{each}"
        start = time.perf_counter()
        fitted = _fit(dataset, reference, parts, epochs=epochs, logs=folder, on_epoch=on_epoch)
        fits.append(_SeedFit(parts, fitted, time.perf_counter() - start))
    report = summarise(
        [_measure(reference, fit) for fit in fits],
        dataset=dataset.name,
        protocol=protocol,
        rng=np.random.default_rng(seed),
    )
    return ReferenceRun(
        reference=reference,
        report=report,
        curves=_mean_curves([fit.fitted.curves for fit in fits]),
        split=fits[0].parts.split,
        model=fits[0].fitted.model,
    )


@dataclass(frozen=True)
class _Parts:
    """A split, and the rows of it that the model can learn from and be measured on."""

    split: Split
    train: Interactions
    test: Interactions


@dataclass(frozen=True)
class _SeedFit:
    parts: _Parts
    fitted: Fitted
    seconds: float


def _parts(dataset: Dataset, reference: Reference, split: Split) -> _Parts:
    """A rating model is asked for rated rows only."""
    if reference.kind == "retrieval":
        return _Parts(split, split.train, split.test)
    rated = [part.take(~np.isnan(part.value)) for part in (split.train, split.test)]
    if not all(map(len, rated)):
        raise DataError(
            f"{dataset.name}, protocol {split.protocol}: {len(rated[0])} train rows and "
            f"{len(rated[1])} test rows have a rating; {reference.name} needs both"
        )
    return _Parts(split, *rated)


def _fit(
    dataset: Dataset,
    reference: Reference,
    parts: _Parts,
    *,
    epochs: int,
    logs: Path | None,
    on_epoch: Callable[[], None],
) -> Fitted:
    split = parts.split
    metadata = metadata_of(dataset, split) if reference.name == "keras-hybrid" else None
    model = build_model(
        reference, len(split.users), len(split.items), metadata=metadata, seed=split.seed
    )
    callbacks: list[keras.callbacks.Callback] = []
    if reference.kind == "retrieval":
        callbacks.append(_WatchTopK(split))
    if logs is not None:
        callbacks.append(TensorBoardLogs(logs))
    callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch()))
    return fit_reference(
        reference,
        model,
        parts.train,
        parts.test,
        epochs=epochs,
        seed=split.seed,
        callbacks=callbacks,
    )


class _WatchTopK(keras.callbacks.Callback):
    """Adds WATCHED to what Keras notes of each epoch."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self._known, self._test = split.known.matrix, split.test.matrix

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or not isinstance(self.model, TfrsRetrieval):
            return
        ranking = evaluate_ranking(
            Towers.of(self.model), known=self._known, test=self._test, ks=(), top_ks=(_WATCHED_K,)
        )
        logs[WATCHED] = ranking.mean(WATCHED.removeprefix("val_"))


def _measure(reference: Reference, fit: _SeedFit) -> SeedRun:
    split, model = fit.parts.split, fit.fitted.model
    figures: Mapping[str, Figure]
    n_known_targets, n_non_finite = 0, 0
    if isinstance(model, TfrsRetrieval):
        ranking = evaluate_ranking(
            Towers.of(model), known=split.known.matrix, test=split.test.matrix
        )
        figures = ranking.figures
        n_known_targets, n_non_finite = ranking.n_known_targets, ranking.n_non_finite
    else:
        test = fit.parts.test
        figures = evaluate_ratings(test.user, test.value, predict(model, test.user, test.item))
    return SeedRun(
        seed=split.seed,
        test_rows_sha256=split.test_rows_sha256,
        n_test_rows=len(fit.parts.test),
        n_test_users=len(np.unique(fit.parts.test.user)),
        figures={reference.name: figures},
        seconds={reference.name: fit.seconds},
        n_known_targets=n_known_targets,
        n_non_finite={reference.name: n_non_finite},
    )


def _mean_curves(curves: Sequence[Curves]) -> Curves:
    """Epoch by epoch."""
    return {name: np.mean([each[name] for each in curves], axis=0).tolist() for name in curves[0]}
