"""Training that survives a kill: all variables and the place in the data, in one file."""

import errno
import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import jax
import keras
import numpy as np
from jax import lax
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from candidfeed.data.whole_files import replace_file
from candidfeed.errors import DataError
from candidfeed.retrieval.sparse.event_batches import SeededBatches
from candidfeed.retrieval.sparse.model import SparseModel

FILE_NAME = "checkpoint.safetensors"
_ABOUT, _ALSO = "candidfeed", "also."
_WRITTEN_AT_ONCE = 2**24
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Position:
    """How far a training has come.

    Attributes:
        epoch: the epoch in hand, from 0.
        step: steps of it that are done.
        steps_before: steps of the epochs before it.
        curves: by name, one figure for each epoch before it.
        data: what the batches are dealt from (`SeededBatches.fingerprint`).
        is_over: no epoch is to come: a callback stopped the training.
        also: numbers of what is saved beside the model.
    """

    epoch: int
    step: int
    steps_before: int
    curves: dict[str, list[float]]
    data: dict[str, float] = field(default_factory=dict)
    is_over: bool = False
    also: dict[str, Any] = field(default_factory=dict)


class Kept(Protocol):
    """State that is saved and restored beside the model's: that of another callback, say."""

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What JSON can hold, and arrays by name."""
        ...

    def restore(self, numbers: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Become what `state` told of."""
        ...


class Checkpoint(keras.callbacks.Callback):
    """Saves a training of a `SparseModel` as it goes, and goes on from what it finds.

    Give the same callback, model, batches and number of epochs to `fit` again after a kill: the
    curves and weights in the end are bit-equal to those of a training that was never stopped. The
    file is replaced as a whole, so a kill while it is written leaves the one before. A training
    that a callback stopped is not taken up again. The state of other callbacks (an
    `EarlyStopping`'s patience, say) is not in it, unless they are given as `also`.

    Args:
        folder: where the file is; made if need be. One training writes to it at a time.
        batches: what `fit` is given.
        every_n_epochs: how often to save at the end of an epoch; 0 is never.
        every_n_steps: how often to save within one, as near as `steps_per_execution` allows.
        also: what else is saved; of callbacks of `fit` it comes before this one.

    Raises:
        DataError: the checkpoint that is there is of another model or other batches, can't be
            read, or a new one can't be written.
    """

    def __init__(
        self,
        folder: Path | str,
        batches: SeededBatches,
        *,
        every_n_epochs: int = 1,
        every_n_steps: int = 0,
        also: Kept | None = None,
    ) -> None:
        super().__init__()
        self.path = Path(folder) / FILE_NAME
        self.batches, self.also = batches, also
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
        position = restore(self.path, self.trained, also=self.also)
        _require_same(self.path, position.data, self.batches.fingerprint())
        self._resumed, self._curves = position, position.curves
        self._steps_before = position.steps_before
        # Of a training that is over every epoch is done, however many are asked for.
        epoch = (self.params or {})["epochs"] if position.is_over else position.epoch
        self.trained.resume_at(epoch, position.steps_before, position.step)

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
        data, is_over = self.batches.fingerprint(), bool(self.trained.stop_training)
        position = Position(epoch, step, steps_before, self._curves, data, is_over)
        save(self.path, self.trained, position, also=self.also)


def position_in(folder: Path) -> Position | None:
    """How far the training in this folder has come; None where it holds no checkpoint.

    Raises:
        DataError: what is there is no checkpoint, or was cut short.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    with _opened(path) as file:
        return Position(**_about(file)["position"])


def save(path: Path, model: SparseModel, position: Position, *, also: Kept | None = None) -> None:
    """Replace the checkpoint at `path` by the model's variables, this position and what is `also`.

    Raises:
        DataError: it can't be written.
    """
    # Arrays of JAX on a processor are viewed, not copied.
    arrays = {name: np.asarray(one.value) for name, one in _variables(model).items()}
    paths = {name: one.path for name, one in _variables(model).items()}
    if also is not None:
        numbers, beside = also.state()
        position = replace(position, also=numbers)
        arrays |= {f"{_ALSO}{name}": array for name, array in beside.items()}
    about = {_ABOUT: json.dumps({"position": asdict(position), "paths": paths})}
    with _reported(path):
        replace_file(path, lambda file: _write_safetensors(file, arrays, about))


def restore(
    path: Path, model: SparseModel, *, only_metrics: bool = False, also: Kept | None = None
) -> Position:
    """Give the model the variables of a checkpoint; where the training was.

    Raises:
        DataError: it is no checkpoint, was cut short, or is of another model.
    """
    with _opened(path) as file:
        about = _about(file)
        _require_same(path, _shapes_in(file, about["paths"]), _shapes(model))
        for name, variable in _variables(model).items():
            if name.startswith("metric") or not only_metrics:
                _assign(variable, file, name)
        position = Position(**about["position"])
        if also is not None:
            names = [name for name in file.keys() if name.startswith(_ALSO)]
            arrays = {name.removeprefix(_ALSO): file.get_tensor(name) for name in names}
            also.restore(position.also, arrays)
        return position


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file of a checkpoint; whatever in it is not as it was written is told with its name."""
    try:
        with _reported(path), safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: is no whole checkpoint of this program ({error}); remove it to start anew"
        ) from error


def _about(file: Any) -> dict[str, Any]:
    return json.loads((file.metadata() or {})[_ABOUT])


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
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; free some space and go on from the last one"
        raise DataError(f"{path}: the checkpoint can't be used: {reason}") from error
