"""Fit the ranker: on the candidates that retrieval proposes, and on the ratings that are known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.ranking.feature_choice import choose_features, reads
from candidfeed.ranking.inputs import (
    DENSE_FEATURES,
    RankerSpace,
    UserStates,
    nearest_level,
    ranker_inputs,
)
from candidfeed.ranking.ranker import EngagedLoss, Ranker, RatingLoss

Floats = NDArray[np.float32]
Batch = tuple[dict[str, NDArray[np.generic]], dict[str, NDArray[np.generic]]]
NO_LABEL = -1
# Keras takes a number here too, but is typed for text alone.
_QUIET: dict[str, Any] = {"verbose": 0}


@dataclass(frozen=True)
class RankerSettings:
    """How the ranker is built and trained.

    Attributes:
        features: what the engagement head reads, a name in `feature_choice.READABLE`.
        dim: length of a member's taste vectors.
        members: taste models that are averaged.
        forget_user: share of the lists whose user is trained as an unknown one.
        l2: weight of the squared taste vectors, per row of the batch.
        learning_rate: of AdamW; falls to a tenth along a cosine.
        weight_decay: of the engagement head.
        n_epochs: passes over ratings and candidate lists.
        list_length: candidates (or rated rows) of one user in a batch.
        lists_per_batch: users a step.
    """

    features: str = "all"
    dim: int = 12
    members: int = 8
    forget_user: float = 0.3
    l2: float = 0.001
    learning_rate: float = 5e-3
    weight_decay: float = 0.1
    n_epochs: int = 8
    list_length: int = 128
    lists_per_batch: int = 16


@dataclass(frozen=True)
class CandidateLists:
    """Candidates of users with what happened next: what engagement is learned from.

    Attributes:
        user: row of the user, int32 [n].
        items: int32 [n, c], padded with n_items.
        dense: float32 [n, c, f], as it was when the user was asked for.
        engaged: float32 [n, c]; 1, 0, or -1 where padded.
    """

    user: NDArray[np.int32]
    items: NDArray[np.int32]
    dense: Floats
    engaged: Floats

    def __len__(self) -> int:
        return len(self.items)

    def joined(self, later: "CandidateLists") -> "CandidateLists":
        """Both, one after the other; both come from one set of users and items."""
        return CandidateLists(
            np.concatenate([self.user, later.user]),
            np.concatenate([self.items, later.items]),
            np.concatenate([self.dense, later.dense]),
            np.concatenate([self.engaged, later.engaged]),
        )


@dataclass(frozen=True)
class FittedRanker:
    """A trained ranker, what it was trained with, and Keras' curves."""

    model: Ranker
    space: RankerSpace
    settings: RankerSettings
    curves: dict[str, list[float]]


class RankerBatches(keras.utils.PyDataset):
    """Batches of lists, half of them rated rows and half candidate lists, in an order of their own.

    Each epoch deals a user's rated rows anew into lists, and draws anew which of the candidates
    without feedback stand in a list; those with feedback always do, as far as they fit.
    """

    def __init__(
        self,
        space: RankerSpace,
        *,
        rated: Interactions | None,
        states: UserStates,
        lists: CandidateLists | None,
        settings: RankerSettings,
        seed: int,
    ) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self.space, self.states, self.lists, self.settings = space, states, lists, settings
        self.rated = rated if rated is not None and len(rated) else None
        self.n_users = len(states)
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self.order)

    def on_epoch_end(self) -> None:
        b = self.settings.lists_per_batch
        self.rated_lists = self._deal() if self.rated else np.empty((0, 0), np.int64)
        n_rated = -(-len(self.rated_lists) // b)
        n_candidate = -(-len(self.lists) // b) if self.lists else 0
        self.rated_order = np.resize(self.rng.permutation(len(self.rated_lists)), n_rated * b)
        n_lists = len(self.lists) if self.lists else 0
        self.list_order = np.resize(self.rng.permutation(n_lists), n_candidate * b)
        kinds = np.repeat([True, False], [n_rated, n_candidate])
        places = np.concatenate([np.arange(n_rated), np.arange(n_candidate)])
        shuffle = self.rng.permutation(len(kinds))
        self.order = list(zip(kinds[shuffle], places[shuffle], strict=True))

    def __getitem__(self, step: int) -> Batch:
        is_rated, place = self.order[step]
        b = self.settings.lists_per_batch
        part = slice(place * b, (place + 1) * b)
        if is_rated:
            return self._rated_batch(self.rated_lists[self.rated_order[part]])
        return self._candidate_batch(self.list_order[part])

    def asked(self, step: int) -> tuple[NDArray[np.int64], dict[str, NDArray[np.generic]]]:
        """Rows of `rated` in a batch, int64 [lists, list_length] (-1 is padding), and its inputs.

        The steps cover every row; some may come twice.
        """
        assert self.rated is not None
        b = self.settings.lists_per_batch
        dealt = self.rated_lists[np.arange(step * b, (step + 1) * b) % len(self.rated_lists)]
        inputs = self._rated_batch(dealt)[0]
        inputs["user"] = self.rated.user[np.maximum(dealt[:, 0], 0)]
        return dealt, inputs

    def _deal(self) -> NDArray[np.int64]:
        """Rows of `rated` in lists of one user, int64 [n_lists, list_length], padded with -1."""
        assert self.rated is not None
        c = self.settings.list_length
        order = np.lexsort((self.rng.random(len(self.rated)), self.rated.user))
        user = self.rated.user[order]
        counts = np.bincount(user, minlength=self.rated.n_users)
        within = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        lists_of_user = -(-counts // c)
        first = np.cumsum(lists_of_user) - lists_of_user
        # Deal round and round, so that the lists of one user are equally long.
        row = first[user] + within % lists_of_user[user]
        dealt = np.full((lists_of_user.sum(), c), -1, dtype=np.int64)
        dealt[row, within // lists_of_user[user]] = order
        return dealt

    def _rated_batch(self, dealt: NDArray[np.int64]) -> Batch:
        assert self.rated is not None
        real, rows = dealt >= 0, np.maximum(dealt, 0)
        items = np.where(real, self.rated.item[rows], self.space.n_items).astype(np.int32)
        state = self.states.take(self.rated.user[rows[:, 0]])
        dense = np.zeros((*items.shape, len(DENSE_FEATURES)), np.float32)
        time_s = self.rated.time_s[rows]
        levels = nearest_level(self.rated.value[rows], self.space.scale.levels)
        labels = {
            "engaged": np.full(items.shape, NO_LABEL, np.float32),
            "rating": np.where(real, levels, NO_LABEL).astype(np.int32),
        }
        inputs = ranker_inputs(self.space, state, items, dense, time_s=time_s)
        unknown = self.rng.random(len(state.row)) < self.settings.forget_user
        inputs["user"] = np.where(unknown, self.n_users, state.row).astype(np.int32)
        return inputs, labels

    def _candidate_batch(self, rows: NDArray[np.integer]) -> Batch:
        assert self.lists is not None
        c = self.settings.list_length
        engaged = self.lists.engaged[rows]
        draw = self.rng.random(engaged.shape) + np.where(engaged > 0, -1.0, 0.0) + (engaged < 0)
        picked = np.argsort(draw, axis=1)[:, :c]
        at = np.arange(len(rows))[:, None]
        items, dense = self.lists.items[rows][at, picked], self.lists.dense[rows][at, picked]
        # Candidates teach engagement only, from `dense`: the taste trunk learns nothing from them.
        inputs = ranker_inputs(self.space, self.states.take(self.lists.user[rows]), items, dense)
        inputs["weight"] = np.zeros_like(inputs["weight"])
        n_before, n_drawn = ((part == 0).sum(axis=1) for part in (engaged, engaged[at, picked]))
        inputs["sampling_shift"] = np.log(np.maximum(n_before, 1) / np.maximum(n_drawn, 1)).astype(
            np.float32
        )
        return inputs, {
            "engaged": engaged[at, picked],
            "rating": np.full(items.shape, NO_LABEL, np.int32),
        }


def fit_ranker(
    space: RankerSpace,
    *,
    n_users: int,
    n_user_ids: int,
    rated: Interactions | None,
    states: UserStates,
    lists: CandidateLists | None,
    settings: RankerSettings,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> FittedRanker:
    """Train both heads.

    Args:
        rated: events with a rating; None where the log has none.
        states: of all users, as the rated rows' users are known.
        lists: candidates with feedback; None or none at all trains the rating head alone.

    Where there is neither, both heads stay as they begin: every candidate is equal.
    """
    lists = lists or None
    keras.utils.set_random_seed(seed)
    batches = RankerBatches(
        space, rated=rated, states=states, lists=lists, settings=settings, seed=seed
    )
    sizes = {
        "n_users": n_users,
        "n_items": space.n_items,
        "n_user_ids": n_user_ids,
        "n_item_ids": space.n_item_ids,
        "n_times": len(space.time_edges) + 1,
    }
    model = Ranker(
        sizes=sizes,
        level_shares=[float(share) for share in space.scale.shares],
        rates=space.scale.like_at is not None,
        dim=settings.dim,
        members=settings.members,
        l2=settings.l2,
    )
    model.build(_input_shapes(space, states, settings))
    if model.trunk is not None:
        model.trunk.set_items(space.item_bag)
    if lists is not None:
        model.engaged.scale.adapt(lists.dense[lists.engaged >= 0][None])
        model.engaged.reads.assign(reads(settings.features))
    steps = max(1, len(batches)) * settings.n_epochs
    rate: Any = keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps, alpha=0.1)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
    if model.trunk is not None:
        # It has its own regularisation, by row.
        optimizer.exclude_from_weight_decay(var_list=model.trunk.trainable_variables)
    model.compile(
        optimizer=optimizer,
        loss={"engaged": EngagedLoss(), "rating": RatingLoss()},
    )
    if len(batches) == 0:
        return FittedRanker(model, space, settings, {})
    fitted = model.fit(
        batches, epochs=settings.n_epochs, shuffle=False, callbacks=list(callbacks), **_QUIET
    )
    return FittedRanker(model, space, settings, fitted.history)


def _input_shapes(
    space: RankerSpace, states: UserStates, settings: RankerSettings
) -> dict[str, tuple[int, ...]]:
    state = states.take(np.zeros(settings.lists_per_batch, np.int32))
    items = np.zeros((settings.lists_per_batch, settings.list_length), np.int32)
    dense = np.zeros((*items.shape, len(DENSE_FEATURES)), np.float32)
    return {name: each.shape for name, each in ranker_inputs(space, state, items, dense).items()}


def with_chosen_features(
    lists: CandidateLists, settings: RankerSettings, *, seed: int
) -> RankerSettings:
    """The settings with the features that order a held-out third of the lists best."""
    name = choose_features(
        lists.dense,
        lists.engaged,
        n_epochs=settings.n_epochs,
        lists_per_batch=settings.lists_per_batch,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        seed=seed,
    )
    return replace(settings, features=name)
