"""Training that survives a kill: all variables and the place in the data, in one file."""

import json
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import jax
import keras
import numpy as np
from jax import lax
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from candidfeed.data.whole_files import replace_file
from candidfeed.errors import DataError
from candidfeed.retrieval.sparse.event_batches import EventBatches
from candidfeed.retrieval.sparse.model import SparseModel

FILE_NAME = "checkpoint.safetensors"
_ABOUT = "candidfeed"
_WRITTEN_AT_ONCE = 2**24
_ROWS_AT_ONCE = 65_536
_FINGERPRINT_ROWS = 65_536


@dataclass(frozen=True)
class Position:
    """How far a training has come.

    Attributes:
        epoch: the epoch in hand, from 0.
        step: steps of it that are done.
        steps_before: steps of the epochs before it.
        curves: by name, one figure for each epoch before it.
        data: what the batches are dealt from (`fingerprint`).
    """

    epoch: int
    step: int
    steps_before: int
    curves: dict[str, list[float]]
    data: dict[str, int] = field(default_factory=dict)


class Checkpoint(keras.callbacks.Callback):
    """Saves a training of a `SparseModel` as it goes, and goes on from what it finds.

    Give the same callback, model, batches and number of epochs to `fit` again after a kill: the
    curves and weights in the end are bit-equal to those of a training that was never stopped. The
    file is replaced as a whole, so a kill while it is written leaves the one before. State of other
    callbacks (an `EarlyStopping`'s patience, say) is not in it.

    Args:
        folder: where the file is; made if need be. One training writes to it at a time.
        batches: what `fit` is given.
        every_n_epochs: how often to save at the end of an epoch; 0 is never.
        every_n_steps: how often to save within one, as near as `steps_per_execution` allows.

    Raises:
        DataError: the checkpoint that is there is of another model or other batches, can't be
            read, or a new one can't be written.
    """

    def __init__(
        self,
        folder: Path | str,
        batches: EventBatches,
        *,
        every_n_epochs: int = 1,
        every_n_steps: int = 0,
    ) -> None:
        super().__init__()
        self.path = Path(folder) / FILE_NAME
        self.batches = batches
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self._epoch, self._steps_before, self._saved_step = 0, 0, 0
        self._curves: dict[str, list[float]] = {}
        self._resumed: Position | None = None

    @property
    def trained(self) -> SparseModel:
        """The model in training.

        Raises:
            TypeError: it is no `SparseModel`.
        """
        if not isinstance(self.model, SparseModel):
            raise TypeError(f"a checkpoint needs a SparseModel, not {type(self.model).__name__}")
        return self.model

    def on_train_begin(self, logs: Any = None) -> None:
        with _reported(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for left in self.path.parent.glob(f".{FILE_NAME}.*.tmp"):
                left.unlink()
        self._curves, self._steps_before, self._resumed = {}, 0, None
        if self.path.exists():
            self._resume()

    def _resume(self) -> None:
        position = restore(self.path, self.trained)
        _require_same(self.path, position.data, fingerprint(self.batches))
        self._resumed, self._curves = position, position.curves
        self._steps_before = position.steps_before
        self.trained.resume_at(position.epoch, position.steps_before, position.step)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._saved_step = epoch, 0
        if self._resumed is not None:
            if self._resumed.step:
                # Keras has just set the metrics back: an epoch's mean covers all its steps.
                restore(self.path, self.trained, only_metrics=True)
            self._saved_step = self._resumed.step
            self._show_curves()
            self._resumed = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = self.trained.steps_done - self._steps_before
        if self.every_n_steps and step - self._saved_step >= self.every_n_steps:
            self._saved_step = step
            self._save(self._epoch, step, self._steps_before)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for name, value in (logs or {}).items():
            self._curves.setdefault(name, []).append(float(value))
        self._steps_before = self.trained.steps_done
        if self.every_n_epochs and (epoch + 1) % self.every_n_epochs == 0:
            self._save(epoch + 1, 0, self._steps_before)

    def on_train_end(self, logs: Any = None) -> None:
        if self._resumed is not None:
            # There was no epoch left to train.
            self._show_curves()

    def _show_curves(self) -> None:
        """What `fit` returns tells of the epochs before the kill too."""
        n_epochs = max(map(len, self._curves.values()), default=0)
        self.trained.history.epoch[:] = range(n_epochs)
        self.trained.history.history.update(
            {name: list(values) for name, values in self._curves.items()}
        )

    def _save(self, epoch: int, step: int, steps_before: int) -> None:
        self.trained.raise_if_not_finite()
        self.trained.jax_state_sync()
        data = fingerprint(self.batches)
        save(self.path, self.trained, Position(epoch, step, steps_before, self._curves, data))


def fingerprint(batches: EventBatches) -> dict[str, int]:
    """Numbers that differ where another order of other batches would be dealt."""
    ends = (slice(_FINGERPRINT_ROWS), slice(-_FINGERPRINT_ROWS, None))
    columns = (batches.user_row, batches.item_row)
    parts = [np.ascontiguousarray(column[end], np.int32) for column in columns for end in ends]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part.tobytes(), checksum)
    return {
        "events": len(batches.user_row),
        "users": batches.users.n_rows,
        "items": batches.items.n_rows,
        "batch_size": batches.batch_size,
        "n_uniform": batches.sampling.n_uniform,
        "n_in_batch": batches.sampling.n_in_batch,
        "seed": batches.seed,
        "checksum": checksum,
    }


def save(path: Path, model: SparseModel, position: Position) -> None:
    """Replace the checkpoint at `path` by the model's variables and this position.

    Raises:
        DataError: it can't be written.
    """
    # Arrays of JAX on a processor are viewed, not copied.
    arrays = {name: np.asarray(one.value) for name, one in _variables(model).items()}
    paths = {name: one.path for name, one in _variables(model).items()}
    about = {_ABOUT: json.dumps({"position": asdict(position), "paths": paths})}
    with _reported(path):
        replace_file(path, lambda file: _write_safetensors(file, arrays, about))


def restore(path: Path, model: SparseModel, *, only_metrics: bool = False) -> Position:
    """Give the model the variables of a checkpoint; where the training was.

    Raises:
        DataError: it is no checkpoint, was cut short, or is of another model.
    """
    try:
        with _reported(path), safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})[_ABOUT])
            _require_same(path, _shapes_in(file, about["paths"]), _shapes(model))
            for name, variable in _variables(model).items():
                if name.startswith("metric") or not only_metrics:
                    _assign(variable, file, name)
            return Position(**about["position"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: is no whole checkpoint of this program ({error}); remove it to start anew"
        ) from error


def _assign(variable: keras.Variable, file: Any, name: str) -> None:
    """Take a saved tensor, a part at a time: a whole table more would not fit beside the tables."""
    n_rows = variable.shape[0] if variable.shape else 0
    if n_rows <= _ROWS_AT_ONCE:
        variable.assign(file.get_tensor(name))
        return
    value, saved = variable.value, file.get_slice(name)
    for start in range(0, n_rows, _ROWS_AT_ONCE):
        # A slice past the end is an error here.
        value = _with_rows(value, saved[start : min(start + _ROWS_AT_ONCE, n_rows)], start)
    variable.assign(value)


@partial(jax.jit, donate_argnums=0)
def _with_rows(array: Any, rows: Any, start: Any) -> Any:
    return lax.dynamic_update_slice_in_dim(array, rows, start, axis=0)


def _variables(model: SparseModel) -> dict[str, keras.Variable]:
    kinds = {
        "trainable": model.trainable_variables,
        "fixed": model.non_trainable_variables,
        "optimizer": model.optimizer.variables,
        "metric": model.metrics_variables,
    }
    return {f"{kind}.{i}": one for kind, all_ in kinds.items() for i, one in enumerate(all_)}


def _shapes(model: SparseModel) -> dict[str, str]:
    return {
        name: f"{_name(one.path)} {tuple(one.shape)}" for name, one in _variables(model).items()
    }


def _shapes_in(file: Any, paths: dict[str, str]) -> dict[str, str]:
    # A file lists its tensors in another order.
    return {
        name: f"{_name(path)} {tuple(file.get_slice(name).get_shape())}"
        for name, path in paths.items()
    }


def _name(path: str) -> str:
    """A variable's own name, less the numbers that Keras gives layers as it goes along."""
    return re.sub(r"_\d+(?=_|$)", "", path.rpartition("/")[2])


def _require_same(path: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    for name in {**saved, **now}:
        if saved.get(name) != now.get(name):
            raise DataError(
                f"{path}: was saved with {name} = {saved.get(name, 'nothing')}, now it is "
                f"{now.get(name, 'nothing')}; go on with what it was, or use another folder"
            )


def _write_safetensors(
    file: BinaryIO, arrays: dict[str, NDArray[Any]], metadata: dict[str, str]
) -> None:
    """As `safetensors.numpy.save`, which copies all arrays once more before it writes."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        kind = _SAFETENSORS_TYPE[array.dtype.name]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(struct.pack("<Q", len(encoded)) + encoded)
    for array in arrays.values():
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        for start in range(0, len(content), _WRITTEN_AT_ONCE):
            file.write(content[start : start + _WRITTEN_AT_ONCE])


_SAFETENSORS_TYPE = {
    "float32": "F32", "float64": "F64", "int32": "I32", "int64": "I64",
    "uint32": "U32", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn what the system refuses into an error that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: the checkpoint can't be used: {error.strerror or error}"
        ) from error
