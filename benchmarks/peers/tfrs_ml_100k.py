"""TFRS' retrieval tutorial on given rows: EVENTS.npz OUT.npz DIM BATCH EPOCHS; prints JSON.

EVENTS holds `user` and `item` (int32 rows) and `n_users`, `n_items`; OUT gets both tables.
"""

import json
import os
import sys
import time

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

LEARNING_RATE = 0.5


class TwoTower(tfrs.Model):
    """The tutorial's model; rows stand for the ids that it looks up."""

    def __init__(self, n_users: int, n_items: int, dim: int) -> None:
        super().__init__()
        self.user = tf.keras.layers.Embedding(n_users, dim)
        self.item = tf.keras.layers.Embedding(n_items, dim)
        # Its metric ranks all items at each step: it is measured afterwards, as for the others.
        self.task = tfrs.tasks.Retrieval()

    def compute_loss(self, features: dict, training: bool = False) -> tf.Tensor:
        users, items = self.user(features["user"]), self.item(features["item"])
        return self.task(users, items, compute_metrics=False)


class Times(tf.keras.callbacks.Callback):
    def on_train_begin(self, logs: dict | None = None) -> None:
        self.at = [time.perf_counter()]

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.at.append(time.perf_counter())


def main() -> None:
    source, target = sys.argv[1:3]
    dim, batch, epochs = map(int, sys.argv[3:])
    events = np.load(source)
    tf.random.set_seed(0)
    model = TwoTower(int(events["n_users"]), int(events["n_items"]), dim)
    model.compile(optimizer=tf.keras.optimizers.Adagrad(LEARNING_RATE))
    rows = tf.data.Dataset.from_tensor_slices({"user": events["user"], "item": events["item"]})
    shuffled = rows.shuffle(100_000, seed=0).batch(batch).cache()
    times = Times()
    model.fit(shuffled, epochs=epochs, verbose=0, callbacks=[times])
    np.savez(target, user=model.user.embeddings.numpy(), item=model.item.embeddings.numpy())
    print(json.dumps({"epoch_s": np.diff(times.at).round(4).tolist()}))


if __name__ == "__main__":
    main()
