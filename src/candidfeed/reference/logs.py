"""TensorBoard files of a fit, without TensorFlow."""

from pathlib import Path
from typing import Any

import keras
from tensorboardX import SummaryWriter


class TensorBoardLogs(keras.callbacks.Callback):
    """Writes each epoch's figures; `val_loss` as `validation/loss`, `loss` as `train/loss`.

    Place it after callbacks that add figures of their own.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._writer = SummaryWriter(str(self._folder))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._writer is None:
            return
        for name, value in (logs or {}).items():
            part = "validation" if name.startswith("val_") else "train"
            tag = name.removeprefix("val_").replace("@", "_at_")
            self._writer.add_scalar(f"{part}/{tag}", float(value), epoch + 1)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._writer is not None:
            self._writer.close()
