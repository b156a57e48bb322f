"""Fit the ranker: on the candidates that retrieval proposes, and on the ratings that are known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.ranking.engagement import HeadTraining
from candidfeed.ranking.feature_choice import choose_features, reads
from candidfeed.ranking.inputs import (
    DENSE_FEATURES,
    RankerSpace,
    UserStates,
    nearest_level,
    ranker_inputs,
)
from candidfeed.ranking.ranker import EngagedHead, EngagedLoss, Ranker, RatingLoss

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
        learning_rate: of Adam; for the taste trunk it falls to a tenth along a cosine.
        weight_decay: of the engagement head.
        n_epochs: passes over the ratings; over candidate lists at most, of many fewer.
        list_length: rated rows of one user in a batch.
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
    """A trained ranker, what it was trained with, and Keras' curves of both trainings."""

    model: Ranker
    space: RankerSpace
    settings: RankerSettings
    curves: dict[str, list[float]]
    engagement_curves: dict[str, list[float]]


class RankerBatches(keras.utils.PyDataset):
    """Batches of rated rows, in lists of one user; each epoch deals them anew."""

    def __init__(
        self,
        space: RankerSpace,
        *,
        rated: Interactions,
        states: UserStates,
        settings: RankerSettings,
        seed: int,
    ) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self.space, self.states, self.settings = space, states, settings
        self.rated, self.n_users = rated, len(states)
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.dealt) // self.settings.lists_per_batch)

    def on_epoch_end(self) -> None:
        self.dealt = self._deal()
        order = self.rng.permutation(len(self.dealt))
        self.order = np.resize(order, len(self) * self.settings.lists_per_batch)

    def __getitem__(self, step: int) -> Batch:
        b = self.settings.lists_per_batch
        return self._batch(self.dealt[self.order[step * b : (step + 1) * b]])

    def asked(self, step: int) -> tuple[NDArray[np.int64], dict[str, NDArray[np.generic]]]:
        """Rows of `rated` in a batch, int64 [lists, list_length] (-1 is padding), and its inputs.

        The steps cover every row; some may come twice.
        """
        b = self.settings.lists_per_batch
        dealt = self.dealt[np.arange(step * b, (step + 1) * b) % len(self.dealt)]
        inputs = self._batch(dealt)[0]
        inputs["user"] = self.rated.user[np.maximum(dealt[:, 0], 0)]
        return dealt, inputs

    def _deal(self) -> NDArray[np.int64]:
        """Rows of `rated` in lists of one user, int64 [n_lists, list_length], padded with -1."""
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

    def _batch(self, dealt: NDArray[np.int64]) -> Batch:
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
    log_more_hits: float = 0.0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> FittedRanker:
    """Train both heads, one after the other: they share no weight.

    Args:
        rated: events with a rating; None where the log has none.
        states: of all users, as the rated rows' users are known.
        lists: candidates with feedback; None or none at all trains the rating head alone.
        log_more_hits: log of how many more hits than one of these a list will hold when asked.
        callbacks: of the training on rated rows.

    Where there is neither, both heads stay as they begin: every candidate is equal.
    """
    keras.utils.set_random_seed(seed)
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
    curves, engagement_curves = {}, {}
    # The head first: every step of the trunk's moves the state of what dropout draws.
    if lists:
        training = head_training(model.engaged, lists, settings)
        engagement_curves = training.fit(
            lists.dense, lists.engaged, reads=reads(settings.features),
            n_epochs=settings.n_epochs, seed=seed,
        )  # fmt: skip
        model.engaged.raise_logits(log_more_hits)
    if model.trunk is not None and rated is not None and len(rated):
        batches = RankerBatches(space, rated=rated, states=states, settings=settings, seed=seed)
        curves = _fit_trunk(model, batches, settings, callbacks)
    return FittedRanker(model, space, settings, curves, engagement_curves)


def _fit_trunk(
    model: Ranker,
    batches: RankerBatches,
    settings: RankerSettings,
    callbacks: Sequence[keras.callbacks.Callback],
) -> dict[str, list[float]]:
    steps = len(batches) * settings.n_epochs
    rate: Any = keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps, alpha=0.1)
    # The batches label no engagement: its head gets no gradient, and stays as it is.
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss={"engaged": EngagedLoss(), "rating": RatingLoss()},
    )
    fitted = model.fit(
        batches, epochs=settings.n_epochs, shuffle=False, callbacks=list(callbacks), **_QUIET
    )
    return fitted.history


def head_training(
    head: EngagedHead, lists: CandidateLists, settings: RankerSettings
) -> HeadTraining:
    return HeadTraining(
        head,
        lists.dense,
        lists.engaged,
        lists_per_batch=settings.lists_per_batch,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )


def _input_shapes(
    space: RankerSpace, states: UserStates, settings: RankerSettings
) -> dict[str, tuple[int, ...]]:
    state = states.take(np.zeros(settings.lists_per_batch, np.int32))
    items = np.zeros((settings.lists_per_batch, settings.list_length), np.int32)
    dense = np.zeros((*items.shape, len(DENSE_FEATURES)), np.float32)
    return {name: each.shape for name, each in ranker_inputs(space, state, items, dense).items()}


def with_chosen_features(
    lists: CandidateLists, settings: RankerSettings, *, least_gain_se: float, seed: int
) -> RankerSettings:
    """The settings with the features that order a held-out third of the users' lists best.

    Args:
        least_gain_se: by how many standard errors a richer set must be better.
    """
    name = choose_features(
        lambda head: head_training(head, lists, settings),
        lists.dense,
        lists.engaged,
        lists.user,
        n_epochs=settings.n_epochs,
        least_gain_se=least_gain_se,
        seed=seed,
    )
    return replace(settings, features=name)
