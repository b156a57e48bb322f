"""A fit that kills itself with SIGKILL, for `test_resume.py`: FOLDER STEP.

Its checkpoints lie in FOLDER, and it dies when it tells of STEP. A process of its own, because it
dies.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.large.resume import Resume
from candidfeed.retrieval.large.stream_batches import StreamSampling
from candidfeed.retrieval.large.training import FittedLarge, LargeSettings, fit_large
from candidfeed.retrieval.validation import Asked

N_USERS, N_ITEMS, EPOCHS = 120, 90, 4


def log(seed: int) -> Interactions:
    """Eight events a user, at random: the first epochs gain nothing that lasts."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(N_USERS, dtype=np.int32), 8)
    item = rng.integers(N_ITEMS, size=len(user), dtype=np.int32)
    nothing = np.full(len(user), np.nan, np.float32)
    return Interactions(user, item, nothing, np.arange(len(user), dtype=float), N_USERS, N_ITEMS)


def bag(n: int) -> Bag:
    return Bag((1 + np.arange(n) % 3).astype(np.int32)[:, None], np.ones((n, 1), np.float32))


def fit(
    resume: Resume | None,
    *,
    is_judged: bool = True,
    seed: int = 0,
    hard_share: float = 0.2,
    report: Callable[[str], None] = lambda _step: None,
) -> FittedLarge:
    train, later = log(0), log(1)
    return fit_large(
        train,
        user_bag=bag(N_USERS),
        item_bag=bag(N_ITEMS),
        n_user_ids=4,
        n_item_ids=4,
        settings=LargeSettings(
            dim=8, n_hidden=4, id_rate=0.05, n_epochs=EPOCHS, patience=2, hard_after=1,
            sampling=StreamSampling(batch_size=128, n_uniform=16, hard_share=hard_share)),
        seed=seed,
        validation=Asked(train, later) if is_judged else None,
        report=report,
        resume=resume,
    )  # fmt: skip


def die_at(step: str) -> Callable[[str], None]:
    def report(begun: str) -> None:
        if begun == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return report


if __name__ == "__main__":
    folder, step = sys.argv[1:]
    fit(Resume(Path(folder), print), is_judged="unjudged" not in folder, report=die_at(step))
