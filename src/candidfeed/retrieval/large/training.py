"""Fit the model of large catalogues: a closed-form start, then sampled softmax on the events."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.histories import Histories, chronological
from candidfeed.data.interactions import Interactions
from candidfeed.data.memory import require_memory
from candidfeed.errors import DataError
from candidfeed.retrieval.factorise import FactorSettings, factorise, gram_of
from candidfeed.retrieval.large.hard_negatives import HardNegatives
from candidfeed.retrieval.large.history_tower import HistoryTower
from candidfeed.retrieval.large.resume import Resume
from candidfeed.retrieval.large.stream_batches import StreamBatches, StreamSampling
from candidfeed.retrieval.sparse.checkpoint import Checkpoint, position_in
from candidfeed.retrieval.sparse.memory import table_bytes
from candidfeed.retrieval.user_encoder import user_encoder
from candidfeed.retrieval.validation import Asked, ndcg_of_vectors

# Few people look back further, and tastes drift.
MAX_HISTORY = 64
_USERS_AT_ONCE = 32
# More users would cost more than the epoch whose end they judge.
_VALIDATION_USERS = 2_000
# Of a small log a step takes fewer events, so that an epoch has this many steps.
_LEAST_STEPS = 50
# What a factorisation's score of 1, an item that was touched, is worth as a logit.
_LOGITS_PER_SCORE = 10.0
_MIN_GAIN = 0.002
# Measured: what copies of the log take by event (sorted, as matrices, as a stream), and what is in
# flight whatever the sizes: blocks of rows, or compiled steps with their batches.
_EVENT_BYTES = 72
_FACTORISING_BYTES, _TRAINING_BYTES = 72 * 2**20, 190 * 2**20
_MINED = "mined"
# Keras takes a number here too, but is typed for text alone.
_QUIET: Any = 0

Floats = NDArray[np.float32]
Report = Callable[[str], None]


@dataclass(frozen=True)
class LargeSettings:
    """How the model of large catalogues is trained.

    Attributes:
        dim: length of a vector, the item's bias included.
        n_hidden: width of the layer that bends a user's taste.
        n_iterations: of the factorisation that training starts from.
        id_rate, feature_rate: learning rates of the tables of item ids and of features (Adagrad).
        dense_rate: of all other weights (Adam).
        id_pull: weight of the squared rows of ids in the loss.
        n_epochs: at most, where a validation part stops earlier; exactly, where there is none. 0
            leaves the closed form as it is.
        patience: epochs without a better validation nDCG before training stops.
        hard_after: epochs before the first negatives are mined, where `sampling` wants some; they
            are mined anew after each further one.
        sampling: what a step reads; of a small log its batches are smaller.
    """

    dim: int = 64
    n_hidden: int = 256
    n_iterations: int = 5
    id_rate: float = 0.005
    feature_rate: float = 0.02
    dense_rate: float = 0.003
    id_pull: float = 0.03
    n_epochs: int = 15
    patience: int = 3
    hard_after: int = 2
    sampling: StreamSampling = field(default_factory=StreamSampling)


@dataclass(frozen=True)
class FittedLarge:
    """A fitted model with what it needs to score the users of a data set.

    Attributes:
        settings: as fitted; `n_epochs` is the number that was run, or the best one.
        curves: by name, one figure an epoch; `val_ndcg` begins before the first.
        user_bag: features of every user.
    """

    model: HistoryTower
    settings: LargeSettings
    curves: dict[str, list[float]]
    user_bag: Bag

    def scorer(self, known: Interactions) -> "LargeScorer":
        """Scores for users of whom `known` is known."""
        return LargeScorer(self.model, Histories.of(known, max_length=MAX_HISTORY), self.user_bag)


@dataclass(frozen=True)
class LargeScorer:
    """The model, as it is when asked, and the histories that it reads."""

    model: HistoryTower
    history: Histories
    user_bag: Bag

    def scores(self, users: NDArray[np.integer]) -> Floats:
        """float32 [len(users), n_items]; a user's do not depend on who else is asked for."""
        n_filled = -(-len(users) // _USERS_AT_ONCE) * _USERS_AT_ONCE
        # Room for what fills the last slice, so that products are written where they stay.
        found = np.empty((n_filled, self.model.n_items), np.float32)
        items = self.item_vectors.T
        for part, vectors in self._encoded(users):
            np.matmul(vectors, items, out=found[part.start : part.start + _USERS_AT_ONCE])
        return found[: len(users)]

    def user_vectors(self, users: NDArray[np.integer]) -> Floats:
        """float32 [len(users), dim]; likewise."""
        found = np.empty((len(users), self.model.dim), np.float32)
        for part, vectors in self._encoded(users):
            found[part] = vectors[: part.stop - part.start]
        return found

    @property
    def item_vectors(self) -> Floats:
        """float32 [n_items, dim]."""
        return np.asarray(self.model.item_vectors())

    def _encoded(self, users: NDArray[np.integer]) -> Iterator[tuple[slice, Floats]]:
        """Slices of `users`, and vectors float32 [_USERS_AT_ONCE, dim] that begin with theirs."""
        values = [variable.value for variable in self.model.variables]
        for start in range(0, len(users), _USERS_AT_ONCE):
            part = users[start : start + _USERS_AT_ONCE]
            # All of one shape: what stands in a row is computed in the same way in each.
            padded = np.resize(part, _USERS_AT_ONCE)
            inputs = {
                "history": self.history.padded(padded, width=MAX_HISTORY).items,
                "feature_ids": self.user_bag.ids[padded],
                "feature_weights": self.user_bag.weights[padded],
            }
            yield slice(start, start + len(part)), np.asarray(self._encode(values, inputs))

    @cached_property
    def _encode(self) -> Callable[[list[Any], dict[str, Any]], Any]:
        return user_encoder(self.model)


def fit_large(
    train: Interactions,
    *,
    user_bag: Bag,
    item_bag: Bag,
    n_user_ids: int,
    n_item_ids: int,
    settings: LargeSettings,
    seed: int,
    validation: Asked | None = None,
    report: Report = lambda _step: None,
    resume: Resume | None = None,
) -> FittedLarge:
    """Fit on `train`; with a validation part, stop early and keep the best epoch's weights.

    Args:
        user_bag, item_bag: features of all users and items.
        report: is told the name of each step as it begins.
        resume: where a checkpoint is saved after each epoch; the fit goes on from the one that a
            killed fit on the same data and settings left there, and ends with the same bits.

    Raises:
        DataError: train is empty, the model does not fit in the memory that is available, or a
            checkpoint can't be written.
        TrainingError: the loss or a gradient was not finite.
    """
    if not len(train):
        raise DataError("training needs at least one event, and there is none")
    require_memory(
        needed_bytes(train, settings.dim),
        f"the model of {train.n_users:,} users and {train.n_items:,} items",
    )
    keras.utils.set_random_seed(seed)
    model = _tower(train.n_items, n_user_ids, n_item_ids, settings)
    fitted = FittedLarge(model, settings, {}, user_bag)
    watch = _Watch(fitted, item_bag, validation, report)
    logs = [train] if validation is None else [train, validation.known, validation.target]
    saves = position = None
    if resume is not None:
        sizes = [n_user_ids, n_item_ids]
        saves = resume.folder_of(logs, [user_bag, item_bag], [settings, seed, *sizes])
        position = position_in(saves)
    if resume is not None and position is not None:
        resume.tell(position, n_epochs=settings.n_epochs)
    else:
        report("factorise")
        model.assign_start(*closed_form_start(train, settings, seed=seed))
        model.set_items(item_bag)
        watch.judge(0)
    curves: dict[str, list[float]] = {}
    if settings.n_epochs:
        batches = _batches(train, user_bag, item_bag, settings, seed=seed)
        if settings.sampling.hard_share:
            watch.hard = HardNegatives(fitted.scorer(train), batches, train, seed)
        callbacks: list[keras.callbacks.Callback] = [watch]
        if saves is not None:
            callbacks.append(Checkpoint(saves, batches, also=watch))
        run = model.fit(batches, epochs=settings.n_epochs, verbose=_QUIET, callbacks=callbacks)
        curves = {name: list(map(float, values)) for name, values in run.history.items()}
        watch.keep_best()
    if validation is None:
        return replace(fitted, curves=curves)
    curves["val_ndcg"] = watch.reached
    return replace(fitted, settings=replace(settings, n_epochs=watch.best), curves=curves)


def _tower(n_items: int, n_user_ids: int, n_item_ids: int, settings: LargeSettings) -> HistoryTower:
    model = HistoryTower(
        n_items=n_items,
        n_user_ids=n_user_ids,
        n_item_ids=n_item_ids,
        dim=settings.dim,
        max_history=MAX_HISTORY,
        n_hidden=settings.n_hidden,
        id_rate=settings.id_rate,
        feature_rate=settings.feature_rate,
        id_pull=settings.id_pull,
    )
    model.build()
    model.compile(optimizer=keras.optimizers.Adam(settings.dense_rate))
    return model


def closed_form_start(
    train: Interactions, settings: LargeSettings, *, seed: int
) -> tuple[Floats, Floats]:
    """Rows of ids, float32 [n_items, dim], and the `turn` [dim, dim - 1] to begin with.

    The factorisation's item vectors, with the log of their popularity as the bias. `turn` is the
    fold-in of a single event: of few events the fold-in is about the sum of theirs.
    """
    n_events = np.bincount(train.item, minlength=train.n_items)
    per_user = len(train) / max(1, np.count_nonzero(np.diff(train.matrix.indptr)))
    # As for the closed forms of smaller catalogues: all unseen items together weigh some four times
    # what a user's events do, and regularisation is about that of one event.
    factors = FactorSettings(
        dim=min(settings.dim - 1, train.n_items),
        unseen_weight=min(1.0, 4.0 * per_user / train.n_items),
        reg=1.2 / per_user,
        n_iterations=settings.n_iterations,
    )
    items = factorise(train.matrix, factors, rng=np.random.default_rng(seed))
    items[n_events == 0] = 0.0
    gram = factors.unseen_weight * gram_of(items)
    ridge = factors.reg * (1.0 + factors.unseen_weight * train.n_items)
    turn = _LOGITS_PER_SCORE * np.linalg.inv(gram + ridge * np.eye(factors.dim))
    rows = np.zeros((train.n_items, settings.dim), np.float32)
    rows[:, : factors.dim] = items
    is_touched = n_events > 0
    rows[is_touched, -1] = np.log(n_events[is_touched] / n_events[is_touched].mean())
    missing = settings.dim - 1 - factors.dim
    return rows, np.pad(turn, ((0, 1 + missing), (0, missing))).astype(np.float32)


def needed_bytes(train: Interactions, dim: int) -> int:
    """Memory that a fit takes at its peak, on top of the log and the features that it is given.

    By measured peaks (docs/log.md), which it meets within 15 %.
    """
    row = 4 * dim
    # The table of ids with its optimiser's rows, and the items' vectors.
    tables = table_bytes(train.n_items, dim) + train.n_items * row
    users, items = train.n_users * row, train.n_items * row
    # Of one side of the factorisation its vectors and those turned, of the other old and new ones.
    folds = 2 * (users + items) + max(users, items)
    # The best of the tables, and the items' vectors while they are made anew.
    epoch = 3 * items
    return tables + max(
        folds + len(train) * _EVENT_BYTES + _FACTORISING_BYTES,
        epoch + len(train) * _EVENT_BYTES + _TRAINING_BYTES,
    )


def _batches(
    train: Interactions, user_bag: Bag, item_bag: Bag, settings: LargeSettings, *, seed: int
) -> StreamBatches:
    events = chronological(train)
    sampling = settings.sampling
    size = min(sampling.batch_size, max(MAX_HISTORY, len(events) // _LEAST_STEPS))
    sampling = replace(sampling, batch_size=size // MAX_HISTORY * MAX_HISTORY)
    if not item_bag.weights.any():
        sampling = replace(sampling, drop_ids=0.0)
    return StreamBatches(
        events,
        user_bag=user_bag,
        item_bag=item_bag,
        sampling=sampling,
        n_before=MAX_HISTORY,
        seed=seed,
    )


class _Watch(keras.callbacks.Callback):
    """Fixes the items after each epoch, measures, and stops when it gets no better."""

    def __init__(
        self, fitted: FittedLarge, item_bag: Bag, asked: Asked | None, report: Report
    ) -> None:
        super().__init__()
        self.tower, self.settings, self.item_bag = fitted.model, fitted.settings, item_bag
        self.report, self.best, self.reached = report, 0, list[float]()
        self.hard: HardNegatives | None = None
        self._weights: dict[str, NDArray[Any]] = {}
        self._sample = None if asked is None else _Sample.of(asked, fitted.scorer(asked.known))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.report(f"epoch {epoch + 1}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.tower.jax_state_sync()
        self.tower.set_items(self.item_bag)
        self.judge(epoch + 1)
        if self.reached and epoch + 1 - self.best >= self.settings.patience:
            self.tower.stop_training = True
        elif self.hard is not None and self.settings.hard_after <= epoch + 1:
            self.report("mine hard negatives")
            self.hard.renew()

    def judge(self, n_epochs: int) -> None:
        """Measure the model as it is after so many epochs."""
        if self._sample is None:
            return
        ndcg = self._sample.ndcg()
        if not self.reached or ndcg > self.reached[self.best] * (1 + _MIN_GAIN):
            self.best = n_epochs
            # Copies: the next step changes these very arrays.
            self._weights = {
                str(place): np.array(one.value) for place, one in self._learned().items()
            }
        self.reached.append(ndcg)

    def keep_best(self) -> None:
        if self.reached and self.best < len(self.reached) - 1:
            for place, one in self._learned().items():
                one.assign(self._weights[str(place)])
            self.tower.set_items(self.item_bag)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """For a checkpoint."""
        mined = {} if self.hard is None else {_MINED: self.hard.batches.mined}
        return {"best": self.best, "reached": self.reached}, {**self._weights, **mined}

    def restore(self, numbers: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        self.best, self.reached = numbers["best"], list(numbers["reached"])
        self._weights = {name: array for name, array in arrays.items() if name != _MINED}
        if self.hard is not None:
            self.hard.batches.mix_in(arrays[_MINED])

    def _learned(self) -> dict[int, keras.Variable]:
        """What is trained, by place: the items' vectors are made of it."""
        weights = enumerate(self.tower.weights)
        return {place: one for place, one in weights if one is not self.tower.items}


@dataclass(frozen=True)
class _Sample:
    """Users of a validation part, what they are known to have touched, and what they did next."""

    scorer: LargeScorer
    users: NDArray[np.int64]
    asked: Asked

    @staticmethod
    def of(asked: Asked, scorer: LargeScorer) -> "_Sample":
        users = np.unique(asked.target.user)
        drawn = np.random.default_rng(0).permutation(users)[:_VALIDATION_USERS]
        return _Sample(scorer, np.sort(drawn), asked)

    def ndcg(self) -> float:
        """nDCG@NDCG_K with known items removed, mean over users with a target left."""
        known, target = (one.matrix[self.users] for one in (self.asked.known, self.asked.target))
        vectors = self.scorer.user_vectors(self.users)
        return ndcg_of_vectors(vectors, self.scorer.item_vectors, known=known, target=target)
