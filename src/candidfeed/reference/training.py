"""Fitting the classic models with the settings that their authors published."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from candidfeed.data.interactions import Interactions
from candidfeed.errors import DataError
from candidfeed.reference import models
from candidfeed.reference.metadata import Metadata
from candidfeed.reference.published import Reference

Curves = dict[str, list[float]]


@dataclass(frozen=True)
class Fitted:
    """A model that has been fitted, and its losses.

    Attributes:
        curves: `loss` and `val_loss`, one value per epoch, in the unit of the model's loss; and
            what the callbacks added.
    """

    model: keras.Model
    curves: Curves


class Batches(keras.utils.PyDataset):
    """Events in batches, shuffled with a generator of their own; the last one may be smaller.

    Each is `({"user": int32 [batch], "item": int32 [batch]}, value float32 [batch])`.
    """

    def __init__(
        self,
        events: Interactions,
        *,
        batch_size: int,
        rng: np.random.Generator | None = None,
        reshuffle: bool = False,
    ) -> None:
        """Without `rng` the order is the events' own; `reshuffle` draws anew after each epoch."""
        super().__init__()
        self._events = events
        self._batch_size = batch_size
        self._rng = rng
        self._reshuffle = reshuffle
        self._order = np.arange(len(events)) if rng is None else rng.permutation(len(events))

    def __len__(self) -> int:
        return -(-len(self._events) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        events = self._events
        return {"user": events.user[rows], "item": events.item[rows]}, events.value[rows]

    def on_epoch_end(self) -> None:
        if self._rng is not None and self._reshuffle:
            self._order = self._rng.permutation(len(self._events))


def build_model(
    reference: Reference, n_users: int, n_items: int, *, metadata: Metadata | None, seed: int
) -> keras.Model:
    """The compiled model; `metadata` is read by `keras-hybrid` alone, which can't do without."""
    if reference.name == "keras-hybrid":
        if metadata is None:
            raise ValueError("keras-hybrid needs metadata")
        return models.keras_hybrid(metadata.user, metadata.item, seed=seed)
    builders = {
        "tfrs-retrieval": models.tfrs_retrieval,
        "tfrs-ranking": models.tfrs_ranking,
        "keras-dot": models.keras_dot,
        "keras-deep": models.keras_deep,
    }
    return builders[reference.name](n_users, n_items, seed=seed)


def fit_reference(
    reference: Reference,
    model: keras.Model,
    train: Interactions,
    test: Interactions,
    *,
    epochs: int,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Fitted:
    """Fits by the published settings; the last epoch's weights stay, as the authors leave them.

    Args:
        test: is watched where the authors keep nothing out of train; see `Reference`.
        seed: of the order of the rows.

    Raises:
        DataError: too few train rows to keep some out.
    """
    n_fitted = len(train) - round(len(train) * reference.validation_share)
    fitted, watched = train.take(np.arange(n_fitted)), test
    if reference.validation_share:
        watched = train.take(np.arange(n_fitted, len(train)))
    if not len(fitted) or not len(watched):
        raise DataError(
            f"{reference.name}: {len(train)} train rows and {len(watched)} to watch are too few"
        )
    # Any: Keras does not state its types.
    fit: Any = model.fit
    history = fit(
        Batches(
            fitted,
            batch_size=reference.batch_size,
            rng=np.random.default_rng(seed),
            reshuffle=reference.reshuffle,
        ),
        validation_data=Batches(watched, batch_size=reference.batch_size),
        epochs=epochs,
        callbacks=list(callbacks),
        # The batches shuffle their rows; Keras would shuffle the batches, by a seed of its own.
        shuffle=False,
        verbose=0,
    )
    curves = {name: [float(v) for v in values] for name, values in history.history.items()}
    return Fitted(model=model, curves=curves)


def predict(model: keras.Model, users: Any, items: Any) -> models.Array:
    """Score or rating of each pair, float32 [n]."""
    pairs = {"user": np.asarray(users, np.int32), "item": np.asarray(items, np.int32)}
    of_model: Any = model.predict
    return np.asarray(of_model(pairs, batch_size=8192, verbose=0))[:, 0]
