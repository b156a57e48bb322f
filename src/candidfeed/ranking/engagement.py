"""Train the engagement head: it reads dense features alone, so it learns beside the taste trunk."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.ranking.ranker import EngagedHead, EngagedLoss

# An epoch of few lists is short, and many lists need few epochs.
_LISTS_LEARNED = 8_000
_LEAST_EPOCHS = 2
_ASKED_AT_ONCE = 64
# Keras takes a number here too, but is typed for text alone.
_QUIET: dict[str, Any] = {"verbose": 0}

Floats = NDArray[np.float32]


class HeadTraining:
    """One head that is trained again and again from the same start, compiled once.

    Args:
        head: a new one, or that of a `Ranker`; it is built if need be.
        dense: all lists that are ever learned from, float32 [n, c, f]; the features' scale is
            theirs.
        engaged: float32 [n, c]; 1, 0, or -1 where padded.
    """

    def __init__(
        self,
        head: EngagedHead,
        dense: Floats,
        engaged: Floats,
        *,
        lists_per_batch: int,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        self.head, self.lists_per_batch = head, lists_per_batch
        self.model = keras.Sequential([keras.Input((None, dense.shape[-1])), head])
        head.scale.adapt(dense[engaged >= 0][None])
        optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay)
        optimizer.build(self.model.trainable_variables)
        self.model.compile(optimizer=optimizer, loss=EngagedLoss())
        self._changing = [*self.model.variables, *optimizer.variables]
        self._start = [keras.ops.convert_to_numpy(one) for one in self._changing]

    def fit(
        self, dense: Floats, engaged: Floats, *, reads: Floats, n_epochs: int, seed: int
    ) -> dict[str, list[float]]:
        """Train from the start on these lists; the curves.

        Args:
            reads: 1 for each feature that the head may read, float32 [f].
            n_epochs: at most; of many lists fewer.
        """
        for variable, first in zip(self._changing, self._start, strict=True):
            variable.assign(first)
        self.head.reads.assign(reads)
        keras.utils.set_random_seed(seed)
        # Whole batches only: what is compiled once serves all. The rest goes to the front again.
        size = self.lists_per_batch
        places = np.resize(np.arange(len(dense)), -(-len(dense) // size) * size)
        enough = max(_LEAST_EPOCHS, _LISTS_LEARNED // len(places))
        fitted = self.model.fit(
            dense[places], engaged[places],
            batch_size=size, epochs=min(n_epochs, enough), **_QUIET,
        )  # fmt: skip
        return fitted.history

    def logits(self, dense: Floats) -> Floats:
        """float32 [n, c]."""
        n = len(dense)
        if n == 0:
            return np.empty(dense.shape[:2], np.float32)
        # Whole batches here too.
        places = np.resize(np.arange(n), -(-n // _ASKED_AT_ONCE) * _ASKED_AT_ONCE)
        return self.model.predict(dense[places], batch_size=_ASKED_AT_ONCE, **_QUIET)[:n]
