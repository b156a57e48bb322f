"""A training that kills itself with SIGKILL, for `test_checkpoint.py`: FOLDER STEP [WRITE].

It trains into FOLDER and is killed when STEP steps are done; with WRITE, in the middle of writing
the first checkpoint after that. A process of its own, because it dies.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from candidfeed.retrieval.sparse import checkpoint as module
from candidfeed.retrieval.sparse.any_towers import Retrieval
from candidfeed.retrieval.sparse.checkpoint import Checkpoint
from candidfeed.retrieval.sparse.event_batches import EventBatches, Sampling, TowerRows
from candidfeed.retrieval.sparse.tables import SparseEmbedding

# After candidfeed, which chooses the backend.
import keras  # isort: skip

N, DIM, EPOCHS = 50, 4, 4


def batches(seed: int = 0) -> EventBatches:
    """Thirty batches an epoch, and some events left over."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(N, size=(2, 484), dtype=np.int32)
    rows = TowerRows(N)
    return EventBatches(user, item, users=rows, items=rows, batch_size=16,
                        sampling=Sampling(12, 4), seed=seed)  # fmt: skip


def model(dim: int = DIM) -> Retrieval:
    """Towers with a sparse table, a dense layer and dropout, whose random state is saved too."""

    def tower(seed: int) -> keras.Model:
        row = keras.Input((), dtype="int32")
        vector = SparseEmbedding(N, dim, seed=seed, name=f"rows{seed}")(row)
        vector = keras.layers.Dropout(0.2, seed=seed)(vector)
        start = keras.initializers.GlorotUniform(seed=seed)
        return keras.Model(row, keras.layers.Dense(dim, kernel_initializer=start)(vector))

    towers = Retrieval(tower(0), tower(1))
    towers.compile(optimizer=keras.optimizers.Adam(0.01), steps_per_execution=4)
    return towers


def train(folder: Path, *callbacks: keras.callbacks.Callback, epochs: int = EPOCHS) -> Retrieval:
    trained, events = model(), batches()
    saves = Checkpoint(folder, events, every_n_steps=8)
    trained.fit(events, epochs=epochs, verbose=0, callbacks=[saves, *callbacks])
    return trained


class Kill(keras.callbacks.Callback):
    def __init__(self, step: int, *, while_writing: bool) -> None:
        super().__init__()
        self.step, self.while_writing = step, while_writing

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.steps_done < self.step:
            return
        if not self.while_writing:
            os.kill(os.getpid(), signal.SIGKILL)
        module._write_safetensors = write_half


def write_half(file: BinaryIO, *_: Any) -> None:
    file.write(b"half of a file")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, step = Path(sys.argv[1]), int(sys.argv[2])
    train(folder, Kill(step, while_writing="WRITE" in sys.argv))
