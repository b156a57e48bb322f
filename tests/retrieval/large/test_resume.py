"""A fit of the large model that was killed goes on as if it had not been."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from candidfeed.errors import DataError
from candidfeed.retrieval.large.resume import Resume
from candidfeed.retrieval.large.training import FittedLarge
from candidfeed.retrieval.sparse import checkpoint

sys.path.insert(0, str(Path(__file__).parent))
try:
    import killed_fit as killed
finally:
    sys.path.pop(0)

SCRIPT = Path(__file__).with_name("killed_fit.py")
GOING_ON = "going on after epoch {} of a training that was stopped"


def require_equal(found: FittedLarge, expected: FittedLarge) -> None:
    assert found.curves == expected.curves
    assert found.settings == expected.settings
    for one, same in zip(found.model.weights, expected.model.weights, strict=True):
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("is_judged", [True, False])
def test_a_killed_fit_ends_with_the_curves_and_weights_of_an_unbroken_one(
    is_judged: bool, tmp_path: Path
) -> None:
    folder, told = tmp_path / ("judged" if is_judged else "unjudged"), []
    done = subprocess.run([sys.executable, SCRIPT, folder, "epoch 2"], check=False)
    assert done.returncode == -signal.SIGKILL
    resumed = killed.fit(Resume(folder, told.append), is_judged=is_judged)
    assert told == [GOING_ON.format(1)]
    require_equal(resumed, killed.fit(None, is_judged=is_judged))


def test_what_was_mined_is_learned_from_in_the_epochs_after_it() -> None:
    found, plain = (killed.fit(None, hard_share=share).curves["loss"] for share in (0.2, 0.0))
    assert found[0] == plain[0]
    assert found[1] != plain[1]


def test_a_fit_that_had_ended_is_not_trained_again_however_it_ended(tmp_path: Path) -> None:
    told, steps = list[str](), list[str]()
    first = killed.fit(Resume(tmp_path, told.append))
    # Stopped by its validation part, or else there is nothing to see here.
    assert len(first.curves["loss"]) < killed.EPOCHS
    again = killed.fit(Resume(tmp_path, told.append), report=steps.append)
    assert told == ["a training that was stopped had ended: its model is taken as it is"]
    assert steps == []
    require_equal(again, first)


def test_a_fit_on_other_data_or_with_another_seed_takes_no_checkpoint_of_another(
    tmp_path: Path,
) -> None:
    told = list[str]()
    killed.fit(Resume(tmp_path, told.append))
    killed.fit(Resume(tmp_path, told.append), seed=1)
    killed.fit(Resume(tmp_path, told.append), is_judged=False)
    assert told == []
    assert len(list(tmp_path.iterdir())) == 3


def test_a_checkpoint_that_was_cut_short_is_refused_with_its_name(tmp_path: Path) -> None:
    killed.fit(Resume(tmp_path, print))
    (path,) = tmp_path.glob(f"*/{checkpoint.FILE_NAME}")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"{checkpoint.FILE_NAME}: .*remove it to start anew"):
        killed.fit(Resume(tmp_path, print))
