"""A training that was killed goes on as if it had not been."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from candidfeed.errors import DataError, TrainingError
from candidfeed.retrieval.sparse.any_towers import Retrieval
from candidfeed.retrieval.sparse.checkpoint import FILE_NAME, Checkpoint, position_in, restore

sys.path.insert(0, str(Path(__file__).parent))
try:
    import killed_training as killed
finally:
    sys.path.pop(0)

SCRIPT = Path(__file__).with_name("killed_training.py")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Retrieval:
    return killed.train(tmp_path_factory.mktemp("unbroken"))


def state_of(model: Retrieval) -> list[np.ndarray]:
    return [np.asarray(one) for one in [*model.variables, *model.optimizer.variables]]


def require_equal(found: Retrieval, expected: Retrieval) -> None:
    for one, same in zip(state_of(found), state_of(expected), strict=True):
        np.testing.assert_array_equal(one, same)
    assert found.history.history == expected.history.history
    assert found.history.epoch == expected.history.epoch == [0, 1, 2, 3]


# 43: in the second epoch, between two checkpoints; 60: at the end of an epoch, before it is saved.
@pytest.mark.parametrize(("step", "how"), [(43, []), (60, []), (70, ["WRITE"])])
def test_a_killed_training_ends_with_the_curves_and_weights_of_an_unbroken_one(
    step: int, how: list[str], tmp_path: Path, unbroken: Retrieval
) -> None:
    done = subprocess.run([sys.executable, SCRIPT, tmp_path, str(step), *how], check=False)
    assert done.returncode == -signal.SIGKILL
    unfinished = [one.name for one in tmp_path.iterdir() if one.name != FILE_NAME]
    assert len(unfinished) == len(how)
    require_equal(killed.train(tmp_path), unbroken)
    assert [one.name for one in tmp_path.iterdir()] == [FILE_NAME]


def test_a_training_that_was_stopped_between_epochs_goes_on(
    tmp_path: Path, unbroken: Retrieval
) -> None:
    killed.train(tmp_path, epochs=2)
    require_equal(killed.train(tmp_path), unbroken)


def test_tables_that_are_read_in_parts_are_the_same(
    tmp_path: Path, unbroken: Retrieval, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed.train(tmp_path, epochs=1)
    monkeypatch.setattr(killed.module, "_ROWS_AT_ONCE", 16)
    require_equal(killed.train(tmp_path), unbroken)


def test_a_training_that_is_over_is_not_trained_again(tmp_path: Path, unbroken: Retrieval) -> None:
    killed.train(tmp_path)
    require_equal(killed.train(tmp_path), unbroken)


def test_checkpoints_change_nothing_in_the_training(unbroken: Retrieval) -> None:
    plain = killed.model()
    plain.fit(killed.batches(), epochs=killed.EPOCHS, verbose=0)
    require_equal(plain, unbroken)


def test_the_file_is_one_that_safetensors_reads(tmp_path: Path) -> None:
    model = killed.train(tmp_path, epochs=1)
    arrays = load_file(tmp_path / FILE_NAME)
    tables = [one for one in arrays.values() if one.shape == (killed.N, killed.DIM)]
    assert len(tables) == 2
    expected = {np.asarray(one.table).tobytes() for one in model.sparse_layers}
    assert {one.tobytes() for one in tables} == expected


def test_after_a_loss_that_is_not_a_number_the_last_checkpoint_is_a_good_one(
    tmp_path: Path,
) -> None:
    model, events = killed.model(), killed.batches()
    saves = Checkpoint(tmp_path, events, every_n_steps=4)

    class Spoil(killed.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                model.trainable_variables[0].assign(np.full((4, 4), np.nan))

    with pytest.raises(TrainingError, match="at step 30 "):
        model.fit(events, epochs=3, verbose=0, callbacks=[saves, Spoil()])
    other = killed.model()
    other.fit(events, epochs=1, verbose=0)
    position = restore(tmp_path / FILE_NAME, other)
    assert (position.epoch, position.step) == (1, 0)
    assert all(np.isfinite(one).all() for one in state_of(other))


def test_a_disk_that_fills_up_keeps_the_checkpoint_before_and_the_training_goes_on_from_it(
    small_disk: Callable[[int], Path], tmp_path: Path, unbroken: Retrieval
) -> None:
    killed.train(tmp_path / "elsewhere", epochs=1)
    n_pages = -(-(tmp_path / "elsewhere" / FILE_NAME).stat().st_size // 4_096)
    # Room for one and a half: the second is written beside the first.
    folder = small_disk(4 * (n_pages + n_pages // 2))
    with pytest.raises(DataError, match=f"{FILE_NAME}: .*the disk is full; free some space"):
        killed.train(folder)
    assert [one.name for one in folder.iterdir()] == [FILE_NAME]
    position = position_in(folder)
    assert position is not None
    assert (position.epoch, position.step) == (0, 8)
    shutil.copy(folder / FILE_NAME, tmp_path)
    require_equal(killed.train(tmp_path), unbroken)


def test_a_checkpoint_of_other_batches_or_of_another_model_is_refused(tmp_path: Path) -> None:
    killed.train(tmp_path, epochs=1)
    other = killed.batches(seed=5)
    with pytest.raises(DataError, match="saved with seed = 0, now it is 5"):
        killed.model().fit(other, epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path, other)])
    same = killed.batches()
    with pytest.raises(DataError, match=r"kernel \(4, 4\), now it is kernel \(3, 3\)"):
        killed.model(3).fit(same, epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path, same)])


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_damaged_checkpoint_is_refused_with_its_name(damage: str, tmp_path: Path) -> None:
    killed.train(tmp_path, epochs=1)
    path = tmp_path / FILE_NAME
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-10], "other": b"x" * 5000, "empty": b""}[damage])
    with pytest.raises(DataError, match=f"{FILE_NAME}: .*remove it to start anew"):
        killed.train(tmp_path)


def test_a_folder_that_can_not_be_made_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="the checkpoint can't be used: "):
        killed.train(tmp_path / "file" / "folder", epochs=1)


def test_a_model_that_is_not_sparse_is_refused(tmp_path: Path) -> None:
    plain = killed.keras.Sequential([killed.keras.layers.Dense(1)])
    plain.compile(loss="mse")
    with pytest.raises(TypeError, match="needs a SparseModel, not Sequential"):
        plain.fit(
            np.ones((4, 2)), np.ones((4, 1)), verbose=0,
            callbacks=[Checkpoint(tmp_path, killed.batches())],
        )  # fmt: skip
