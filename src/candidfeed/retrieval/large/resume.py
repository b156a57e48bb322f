"""Where a killed training goes on: a folder of checkpoints, named by what they were fitted on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from candidfeed import __version__
from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.sparse.checkpoint import Position

# Another version may compute other last bits from the same numbers.
_MADE_BY = ("candidfeed", __version__, *(f"{name} {version(name)}" for name in ("jax", "keras")))


@dataclass(frozen=True)
class Resume:
    """Checkpoints of the fits of one build.

    Attributes:
        folder: holds a folder for each fit, made when its first checkpoint is saved.
        note: is told where a fit goes on.
    """

    folder: Path
    note: Callable[[str], None]

    def folder_of(
        self, logs: Sequence[Interactions], bags: Sequence[Bag], settings: Sequence[object]
    ) -> Path:
        """The folder of a fit: its name is a digest of all that its result depends on."""
        columns = [one for log in logs for one in (log.user, log.item, log.time_s)]
        columns += [one for bag in bags for one in (bag.ids, bag.weights)]
        sizes = [(log.n_users, log.n_items) for log in logs]
        shapes = [(column.shape, column.dtype.str) for column in columns]
        digest = hashlib.sha256(repr([_MADE_BY, sizes, shapes, *settings]).encode())
        for column in columns:
            digest.update(np.ascontiguousarray(column).data)
        return self.folder / digest.hexdigest()[:16]

    def tell(self, position: Position, *, n_epochs: int) -> None:
        """Say in one line where a fit of so many epochs goes on."""
        if position.is_over or position.epoch >= n_epochs:
            self.note("a training that was stopped had ended: its model is taken as it is")
        else:
            self.note(f"going on after epoch {position.epoch} of a training that was stopped")
