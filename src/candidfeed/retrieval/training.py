"""Fit the two-tower model: closed-form start, then full softmax on hidden parts of histories."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.histories import Histories
from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.closed_form_choice import choose_closed_forms
from candidfeed.retrieval.closed_forms import ClosedFormSettings, fit_closed_forms
from candidfeed.retrieval.content import Content
from candidfeed.retrieval.two_tower import (
    OUT_OF_SOFTMAX,
    HiddenItemsSoftmax,
    HiddenNdcg,
    TwoTower,
)
from candidfeed.retrieval.user_encoder import user_encoder
from candidfeed.retrieval.validation import NDCG_K, Asked, rank

MAX_HISTORY = 1024
# A step of training costs as much as its longest history; few are longer than this.
MAX_TRAINED_HISTORY = 256
_USERS_AT_ONCE = 64
# A quarter of a GiB of user vectors.
_MAX_KEPT_NUMBERS = 2**26
_MIN_WIDTH = 32
_VALIDATION_BATCH = 256
# What training gains by less than this share is noise: kept, it loses as often on test rows.
_MIN_GAIN = 0.005
# Keras takes a number here too, but is typed for text alone.
_QUIET: dict[str, Any] = {"verbose": 0}


@dataclass(frozen=True)
class TowerSettings:
    """How the learned part is trained.

    Attributes:
        closed: the closed forms that training starts from.
        dim: length of the learned part.
        hide: share of each history that is hidden and predicted, 0 to 1.
        learning_rate, weight_decay: of AdamW.
        n_epochs: at most, where a validation part stops earlier; exactly, where there is none. 0
            leaves the closed forms as they are.
        batch_size: users a step.
        patience: epochs without a better validation nDCG before training stops.
    """

    closed: ClosedFormSettings = field(default_factory=ClosedFormSettings)
    dim: int = 64
    hide: float = 0.3
    learning_rate: float = 1e-3
    weight_decay: float = 0.3
    n_epochs: int = 40
    batch_size: int = 128
    patience: int = 1


@dataclass(frozen=True)
class FittedTower:
    """A trained model with what it needs to score the users of a data set.

    Attributes:
        model: the Keras model.
        settings: what was chosen, `n_epochs` being the number that was run (or the best one).
        curves: Keras' `history.history`: one list of figures a metric.
        user_bag: features of every user, as the model was trained with them.
    """

    model: TwoTower
    settings: TowerSettings
    curves: dict[str, list[float]]
    user_bag: Bag

    def scorer(self, known: Interactions) -> "TowerScorer":
        """Scores for users of whom `known` is known."""
        history = Histories.of(known, max_length=MAX_HISTORY)
        return TowerScorer(self.model, history, self.user_bag)


@dataclass(frozen=True)
class TowerScorer:
    """The model and the histories that it reads: `scores(users)` for the evaluation."""

    model: TwoTower
    history: Histories
    user_bag: Bag

    def scores(self, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 [len(users), n_items]; a user's do not depend on who else is asked for."""
        found = np.empty((len(users), len(self.item_vectors)), np.float32)
        vectors = self.user_vectors(users)
        for start in range(0, len(users), _USERS_AT_ONCE):
            places = np.arange(start, min(start + _USERS_AT_ONCE, len(users)))
            # Products of one shape: each row has the same bits whoever stands beside it.
            found[places] = (vectors[np.resize(places, _USERS_AT_ONCE)] @ self.item_vectors.T)[
                : len(places)
            ]
        return found

    def user_vectors(self, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 [len(users), dim]."""
        kept = self._kept
        if kept is None:
            return self._made(users)
        missing = np.unique(users[~kept.is_made[users]])
        kept.vectors[missing], kept.is_made[missing] = self._made(missing), True
        return kept.vectors[users]

    @cached_property
    def _kept(self) -> "_Kept | None":
        """Vectors that were made before: the same users are asked about again and again."""
        shape = len(self.user_bag), self.item_vectors.shape[1]
        if shape[0] * shape[1] > _MAX_KEPT_NUMBERS:
            return None
        return _Kept(np.zeros(shape, np.float32), np.zeros(shape[0], bool))

    def _made(self, users: NDArray[np.integer]) -> NDArray[np.float32]:
        found = np.empty((len(users), self.item_vectors.shape[1]), np.float32)
        for places, vectors in self._encoded(users):
            found[places] = vectors[: len(places)]
        return found

    def _encoded(
        self, users: NDArray[np.integer]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """Places in `users`, and vectors float32 [_USERS_AT_ONCE, dim] that begin with theirs."""
        # Users whose histories need about the same room go together: padding costs as much as
        # events do, and the function is compiled once for each shape.
        lengths = np.maximum(self.history.lengths[users], _MIN_WIDTH)
        widths = 2 ** np.ceil(np.log2(lengths)).astype(np.int64)
        for width in np.unique(widths):
            alike = np.flatnonzero(widths == width)
            for start in range(0, len(alike), _USERS_AT_ONCE):
                places = alike[start : start + _USERS_AT_ONCE]
                padded = np.resize(users[places], _USERS_AT_ONCE)
                yield places, self._encode(self._inputs(padded, int(width)))

    @cached_property
    def item_vectors(self) -> NDArray[np.float32]:
        """float32 [n_items, dim]."""
        return np.asarray(self.model.item_vectors())

    @cached_property
    def _encode(self) -> Callable[[dict[str, Any]], NDArray[np.float32]]:
        config = {name: one for name, one in self.model.get_config().items() if name != "name"}
        encode = _encoder(_Alike(repr(sorted(config.items())), self.model))
        values = [variable.value for variable in self.model.variables]
        return lambda inputs: np.asarray(encode(values, inputs))

    def _inputs(self, users: NDArray[np.integer], width: int) -> dict[str, NDArray[np.generic]]:
        return {
            "history": self.history.padded(users, width=width).items,
            "feature_ids": self.user_bag.ids[users],
            "feature_weights": self.user_bag.weights[users],
        }


@dataclass(frozen=True)
class _Kept:
    """User vectors, float32 [n_users, dim], and which of them are made."""

    vectors: NDArray[np.float32]
    is_made: NDArray[np.bool_]


@dataclass(frozen=True)
class _Alike:
    """A model that stands for all of the same configuration, whatever their weights."""

    config: str
    model: TwoTower = field(compare=False)


# Of the folds of a log each has a model of its own, and compiling takes longer than fitting. One is
# kept: the model that stands for it stays in memory.
@lru_cache(maxsize=1)
def _encoder(alike: _Alike) -> Callable[[list[Any], dict[str, Any]], Any]:
    return user_encoder(alike.model)


class HiddenHistories(keras.utils.PyDataset):
    """Batches of (shown part of a history, hidden part to be predicted), hidden anew each epoch.

    A user with a single event has nothing to hide and comes in no batch. The last batch is filled
    up from the start of the order, so that every step has one shape.
    """

    def __init__(
        self, history: Histories, user_bag: Bag, *, hide: float, batch_size: int, seed: int
    ) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self.history, self.user_bag, self.hide = history, user_bag, hide
        self.users = np.flatnonzero(history.lengths >= 2)
        self.batch_size = max(1, min(batch_size, len(self.users)))
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.users) // self.batch_size)

    def on_epoch_end(self) -> None:
        order = self.rng.permutation(self.users)
        self.order = np.resize(order, len(self) * self.batch_size)
        shape = (len(self.order), min(self.history.longest, MAX_TRAINED_HISTORY))
        self.draws = self.rng.random(shape, dtype=np.float32)

    def __getitem__(self, step: int) -> tuple[dict[str, NDArray[np.generic]], NDArray[np.float32]]:
        places = slice(step * self.batch_size, (step + 1) * self.batch_size)
        users, draws = self.order[places], self.draws[places]
        touched = self.history.padded(users).items
        padding = self.history.n_items
        rows = np.arange(len(users))[:, None]
        items = touched[rows, self._drawn(touched)]
        hidden = (draws < self.hide) & (items < padding)
        shown = np.where(hidden, padding, items)
        labels = np.zeros((len(users), padding + 1), np.float32)
        # What was drawn into neither part was touched all the same: it does not compete.
        labels[rows, touched] = OUT_OF_SOFTMAX
        labels[rows, np.where(hidden, items, padding)] = 1.0
        inputs = {
            "history": shown,
            "feature_ids": self.user_bag.ids[users],
            "feature_weights": self.user_bag.weights[users],
        }
        return inputs, labels[:, :padding]

    def _drawn(self, touched: NDArray[np.int32]) -> NDArray[np.int64]:
        """Places of the events that a step reads, int64 [b, width]; a part of a long history."""
        width = touched.shape[1]
        if width <= MAX_TRAINED_HISTORY:
            return np.broadcast_to(np.arange(width), touched.shape)
        real = touched < self.history.n_items
        order = np.argsort(np.where(real, self.rng.random(touched.shape), 2.0), axis=1)
        return order[:, :MAX_TRAINED_HISTORY]


def fit_tower(
    train: Interactions,
    *,
    user_bag: Bag,
    item_bag: Bag,
    n_user_ids: int,
    n_item_ids: int,
    settings: TowerSettings,
    seed: int,
    validation: Asked | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> FittedTower:
    """Train on `train`; with a validation part, stop early and keep the best epoch's weights.

    Without an epoch to run there is nothing to validate, and no curve.
    """
    keras.utils.set_random_seed(seed)
    model = TwoTower(
        n_items=train.n_items,
        n_user_ids=n_user_ids,
        n_item_ids=n_item_ids,
        item_bag_width=item_bag.ids.shape[1],
        fold_in=_fold_in(settings.closed),
        n_neighbour_dims=settings.closed.n_neighbour_dims,
        dim=settings.dim,
    )
    model.build()
    content = Content.of(item_bag, train.item)
    model.set_items(fit_closed_forms(train, content, settings.closed, seed=seed), item_bag)
    optimizer = keras.optimizers.AdamW(settings.learning_rate, weight_decay=settings.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["log_scale", "bias"])
    metric = HiddenNdcg(NDCG_K)
    model.compile(optimizer=optimizer, loss=HiddenItemsSoftmax(), metrics=[metric])
    history = Histories.of(train, max_length=MAX_HISTORY)
    batches = HiddenHistories(
        history, user_bag, hide=settings.hide, batch_size=settings.batch_size, seed=seed
    )
    if validation is None or settings.n_epochs == 0:
        curves = _run(model, batches, settings.n_epochs, callbacks)
        return FittedTower(model, settings, curves, user_bag)
    best, curves = _fit_validated(model, batches, validation, user_bag, settings, callbacks)
    return FittedTower(model, replace(settings, n_epochs=best), curves, user_bag)


def choose_closed(
    train: Interactions, item_bag: Bag, asked: Asked, *, seed: int
) -> ClosedFormSettings:
    """The closed forms that rank a validation part best."""
    content = Content.of(item_bag, train.item)
    # Users who are not asked for need no vector.
    known = asked.known.take(np.isin(asked.known.user, asked.users)).matrix
    return choose_closed_forms(
        train, content, known, lambda scores: rank(scores, asked).worth, seed=seed
    )


def _fold_in(closed: ClosedFormSettings) -> dict[str, Any]:
    factors = closed.factors
    return {"dim": factors.dim, "n_members": closed.n_members,
            "unseen_weight": factors.unseen_weight, "reg": closed.asked_reg}  # fmt: skip


def _fit_validated(
    model: TwoTower,
    batches: "HiddenHistories",
    validation: Asked,
    user_bag: Bag,
    settings: TowerSettings,
    callbacks: Sequence[keras.callbacks.Callback],
) -> tuple[int, dict[str, list[float]]]:
    """Train until the validation nDCG stops rising: the best epoch (0: the start), the curves.

    The start is kept where training gains next to nothing.
    """
    inputs, labels = _validation_batch(validation, user_bag)
    asked = {"x": inputs, "y": labels, "batch_size": _VALIDATION_BATCH}
    start = model.evaluate(**asked, **_QUIET, return_dict=True)
    weights = model.get_weights()
    stop = keras.callbacks.EarlyStopping(
        "val_ndcg", mode="max", patience=settings.patience, restore_best_weights=True
    )
    curves = _run(
        model, batches, settings.n_epochs, [*callbacks, stop],
        validation_data=(inputs, labels), validation_batch_size=_VALIDATION_BATCH,
    )  # fmt: skip
    reached = [start["ndcg"], *curves.get("val_ndcg", [])]
    best = int(np.argmax(reached))
    if reached[best] < reached[0] * (1 + _MIN_GAIN):
        best = 0
    if best == 0:
        model.set_weights(weights)
    # The curves begin before the first step: whether training helped at all is to be seen.
    curves["val_loss"] = [start["loss"], *curves.get("val_loss", [])]
    return best, {**curves, "val_ndcg": reached}


def _run(
    model: TwoTower,
    batches: "HiddenHistories",
    n_epochs: int,
    callbacks: Sequence[keras.callbacks.Callback],
    **validation: Any,
) -> dict[str, list[float]]:
    """The curves; empty where there is no epoch to run or no history with a part to hide."""
    if n_epochs == 0 or len(batches) == 0:
        return {}
    fitted = model.fit(
        batches, epochs=n_epochs, shuffle=False, callbacks=list(callbacks), **_QUIET, **validation
    )
    return {name: list(values) for name, values in fitted.history.items()}


def _validation_batch(
    asked: Asked, user_bag: Bag
) -> tuple[dict[str, NDArray[np.generic]], NDArray[np.float32]]:
    users = asked.users
    # All are padded to the longest: one of a thousand events would cost more than all the rest.
    known = Histories.of(asked.known, max_length=MAX_TRAINED_HISTORY)
    inputs = {
        "history": known.padded(users).items,
        "feature_ids": user_bag.ids[users],
        "feature_weights": user_bag.weights[users],
    }
    return inputs, _labels(asked, users)


def _labels(asked: Asked, users: NDArray[np.integer]) -> NDArray[np.float32]:
    target = asked.target.matrix[users].toarray()
    return np.where(asked.known.matrix[users].toarray() > 0, OUT_OF_SOFTMAX, target)
