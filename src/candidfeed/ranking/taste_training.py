"""Fit the taste trunk: batches of rated rows, in lists of one user."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.ranking.inputs import DENSE_FEATURES, RankerSpace, ranker_inputs
from candidfeed.ranking.ranker import EngagedLoss, Ranker
from candidfeed.ranking.rating_scale import nearest_level
from candidfeed.ranking.settings import RankerSettings
from candidfeed.ranking.taste import RatingLoss
from candidfeed.ranking.user_state import UserStates

Batch = tuple[dict[str, NDArray[np.generic]], dict[str, NDArray[np.generic]]]
NO_LABEL = -1
# Keras takes a number here too, but is typed for text alone.
_QUIET: dict[str, Any] = {"verbose": 0}


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


def fit_trunk(
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
