"""Fit action heads on impressions that lie after all that their features are made of."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.ranking.action_inputs import ActionSpace, Recent
from candidfeed.ranking.actions import ActionHeads, ActionLoss

NO_LABEL = -1.0
_LEARNING_RATE, _WEIGHT_DECAY = 3e-3, 1e-3
_LISTS_PER_BATCH = 64
# Keras takes a number here too, but is typed for text alone.
_QUIET: dict[str, Any] = {"verbose": 0}

Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class ActionLists:
    """Impressions in lists of one user, with the user as known when the first was shown.

    Attributes:
        user: row of each list's user, int32 [n].
        items: int32 [n, c], padded with n_items.
        position: int32 [n, c]; 0 where unknown.
        dense: as for the engagement head, float32 [n, c, f].
        recent: the users' latest events.
        targets: float32 [n, c, n_labels], by `as_targets`; NO_LABEL where padded.
    """

    user: NDArray[np.int32]
    items: NDArray[np.int32]
    position: NDArray[np.int32]
    dense: Floats
    recent: Recent
    targets: Floats

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[np.integer]) -> "ActionLists":
        return ActionLists(
            self.user[rows], self.items[rows], self.position[rows], self.dense[rows],
            self.recent.take(rows), self.targets[rows],
        )  # fmt: skip

    @property
    def real(self) -> NDArray[np.bool_]:
        """Which entries are impressions, bool [n, c]."""
        return self.targets[..., 0] >= 0


class ActionBatches(keras.utils.PyDataset):
    """Batches of lists in an order drawn anew each epoch; the last is filled from the start."""

    def __init__(self, space: ActionSpace, lists: ActionLists, *, seed: int) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self.space, self.lists = space, lists
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.lists) // _LISTS_PER_BATCH)

    def on_epoch_end(self) -> None:
        order = self.rng.permutation(len(self.lists))
        self.order = np.resize(order, len(self) * _LISTS_PER_BATCH)

    def __getitem__(self, step: int) -> tuple[Arrays, Floats]:
        rows = self.order[step * _LISTS_PER_BATCH : (step + 1) * _LISTS_PER_BATCH]
        part = self.lists.take(rows)
        return inputs_of(self.space, part), part.targets


def inputs_of(space: ActionSpace, lists: ActionLists) -> Arrays:
    """What `ActionHeads` reads of these lists."""
    items = np.where(lists.real, lists.items, 0)
    beside = space.inputs(lists.user, items, lists.position, lists.recent)
    return {"dense": lists.dense, **beside}


def new_heads(space: ActionSpace) -> ActionHeads:
    """Heads for these labels, which begin at the rates of the first place."""
    return ActionHeads(
        counted=[label.counted for label in space.labels],
        starts=[float(np.log(max(rate, 1e-4))) for rate in space.by_position[1]],
        seen=_seen_at_first(space),
        name="action_heads",
    )


def _seen_at_first(space: ActionSpace) -> list[list[float]]:
    """How often a place is looked at against the first, as if all places held items as good."""
    first = np.maximum(space.by_position[1], 1e-6)
    return np.minimum(space.by_position / first, 1.0).tolist()


@dataclass(frozen=True)
class Actions:
    """Trained heads, and what they read when they are asked for."""

    space: ActionSpace
    heads: ActionHeads


@dataclass(frozen=True)
class FittedActions:
    """Heads that are trained, and their curves; `n_epochs` is how many were run."""

    heads: ActionHeads
    n_epochs: int
    curves: dict[str, list[float]]


def fit_actions(
    space: ActionSpace,
    lists: ActionLists,
    *,
    n_epochs: int,
    seed: int,
    held: ActionLists | None = None,
) -> FittedActions:
    """Train new heads.

    Args:
        n_epochs: at most; with `held`, as many as suit those lists best.
        held: lists of users that are not learned from; the best epoch's weights are kept.
    """
    keras.utils.set_random_seed(seed)
    batches = ActionBatches(space, lists, seed=seed)
    heads = new_heads(space)
    model = _alone(heads, batches[0][0])
    scaled = np.concatenate([lists.dense, _rates(space, lists)], axis=-1)
    heads.scale.adapt(scaled[lists.real][None])
    rate: Any = keras.optimizers.schedules.CosineDecay(
        _LEARNING_RATE, len(batches) * n_epochs, alpha=0.1
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=_WEIGHT_DECAY)
    # A place's factor is no weight of a feature.
    optimizer.exclude_from_weight_decay(var_names=["unseen", "bias", "sharpness", "scales"])
    model.compile(optimizer=optimizer, loss=ActionLoss(heads.counted))
    asked = {} if held is None else {"validation_data": ActionBatches(space, held, seed=seed)}
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    fitted = model.fit(
        batches, epochs=n_epochs, shuffle=False, **asked, **_QUIET,
        callbacks=[stop] if held is not None else [],
    )  # fmt: skip
    curves = {name: list(map(float, one)) for name, one in fitted.history.items()}
    best = int(np.argmin(curves["val_loss"])) + 1 if held is not None else n_epochs
    return FittedActions(heads, best, curves)


def _rates(space: ActionSpace, lists: ActionLists) -> Floats:
    items = np.where(lists.real, lists.items, 0)
    found = space.inputs(lists.user, items, lists.position, lists.recent)["rates"]
    return found.astype(np.float32)


def _alone(heads: ActionHeads, example: Arrays) -> keras.Model:
    """A model of the heads alone."""
    inputs = {
        name: keras.Input(one.shape[1:], dtype=str(one.dtype), name=name)
        for name, one in example.items()
    }
    return keras.Model(inputs, heads(inputs))
