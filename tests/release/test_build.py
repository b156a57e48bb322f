"""The whole build: what it measures, what it makes, and what stays when it fails."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candidfeed.cli.build import N_STEPS
from candidfeed.data.tables import Dataset
from candidfeed.errors import DataError, ReleaseError
from candidfeed.feed.served import Served
from candidfeed.release import build
from candidfeed.release.build import Built, build_release
from candidfeed.release.bundle import encode, read_release
from candidfeed.release.storage import read_directory, write_directory
from candidfeed.training.two_stage import TwoStage, TwoStageSettings


@pytest.fixture
def trained(tiny_parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both fits are done already."""
    monkeypatch.setattr(build, "evaluate_once", lambda *_, **__: tiny_parts["evaluate_once"])
    monkeypatch.setattr(build, "refit_on_all", lambda *_, **__: tiny_parts["refit_on_all"])


@pytest.fixture
def old_release(tmp_path: Path, tiny_exported: Served) -> Path:
    """A release that stays in force when a build fails."""
    target = tmp_path / "release"
    write_directory(target, encode(tiny_exported), {"old": True})
    return target


def is_old(target: Path) -> bool:
    """Whether the old release is whole, in force, and alone."""
    assert len(read_release(target).items) == 40
    assert len(list(target.iterdir())) == 2
    return read_directory(target).manifest == {"old": True}


def build_again(dataset: Dataset, target: Path, settings: TwoStageSettings) -> Built:
    return build_release(dataset, target, protocol=None, seed=7, settings=settings)


# What it makes


def test_every_step_is_told_and_timed(tiny_parts: dict[str, Any], tiny_built: Built) -> None:
    assert tiny_parts["steps"] == list(tiny_built.seconds)
    assert len(tiny_parts["steps"]) == N_STEPS
    assert tiny_parts["steps"][-2:] == ["export", "write"]


def test_the_report_is_in_the_release_and_is_of_models_that_did_not_see_the_test_rows(
    tiny_parts: dict[str, Any], tiny_built: Built, tiny_whole: TwoStage
) -> None:
    opened = tiny_built.opened
    report = json.loads((opened.path / "report.json").read_bytes())
    assert report == json.loads(json.dumps(tiny_built.report.to_json()))
    assert {"two-stage", "retrieval", "popular", "ease"} <= report["models"].keys()
    measured = tiny_parts["evaluate_once"].pair.split
    assert opened.manifest["protocol"] == report["protocol"] == "temporal"
    assert opened.manifest["test_rows_sha256"] == measured.test_rows_sha256
    # The released pair learned from every row, the measured one from those of train.
    assert len(tiny_whole.split.train) == len(measured.train) + len(measured.history) + len(
        measured.test
    )
    assert len(tiny_whole.split.test) == 0


def test_the_release_knows_every_event_and_its_size(tiny_built: Built, tiny: Dataset) -> None:
    served = read_release(tiny_built.opened.path.parent)
    assert len(served.pasts.items) == len(tiny.events)
    assert served.settings.value_weights == {"engaged": 1.0, "liked": 0.1}
    sizes = [path.stat().st_size for path in tiny_built.opened.path.iterdir()]
    assert tiny_built.size_bytes == sum(sizes)


def test_the_curves_of_both_stages_are_kept(tiny_built: Built) -> None:
    assert tiny_built.curves.keys() == {"retrieval", "ranker", "engagement"}
    for curves in tiny_built.curves.values():
        assert len(curves["loss"]) == 3
        assert all(np.isfinite(values).all() for values in curves.values())


# What it refuses, before it trains


def test_a_foreign_folder_is_refused_before_training(
    tiny: Dataset, tiny_settings: TwoStageSettings, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ReleaseError, match=r"is no release and not empty"):
        build_again(tiny, tmp_path, tiny_settings)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_protocol_that_the_log_does_not_allow_is_refused_before_training(
    tiny: Dataset, tiny_settings: TwoStageSettings, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="protocol 'given' is not possible"):
        build_release(tiny, tmp_path / "r", protocol="given", seed=0, settings=tiny_settings)
    assert list(tmp_path.iterdir()) == []


# What a killed one leaves


def test_what_is_trained_is_kept_in_the_releases_folder_and_the_person_is_told_of_it(
    tiny: Dataset, tiny_settings: TwoStageSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_dataset: Dataset, _split: Any, *, settings: TwoStageSettings, **_: Any) -> None:
        resume = settings.stage_one.resume
        assert resume is not None
        assert resume.folder == tmp_path / "r" / ".candidfeed-training"
        resume.note("going on")
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "evaluate_once", stop)
    told = list[str]()
    with pytest.raises(KeyboardInterrupt):
        build_release(
            tiny, tmp_path / "r", protocol=None, seed=0, settings=tiny_settings, note=told.append
        )
    assert told == ["going on"]
    assert list(tmp_path.iterdir()) == []


# What stays when it fails


@pytest.mark.parametrize("step", ["evaluate_once", "refit_on_all", "export_pair", "encode"])
def test_the_old_release_stays_when_a_step_fails(
    step: str,
    trained: None,
    old_release: Path,
    tiny: Dataset,
    tiny_settings: TwoStageSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FloatingPointError(step)

    monkeypatch.setattr(build, step, fail)
    with pytest.raises(FloatingPointError, match=step):
        build_again(tiny, old_release, tiny_settings)
    assert is_old(old_release)


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """The system refuses to write past this size, as it does where the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("n_bytes", [0, 1_000, 20_000])
def test_the_old_release_stays_when_a_file_cannot_be_written(
    n_bytes: int,
    trained: None,
    old_release: Path,
    tiny: Dataset,
    tiny_settings: TwoStageSettings,
) -> None:
    with largest_file(n_bytes), pytest.raises(ReleaseError, match=r"writing '.*' failed") as caught:
        build_again(tiny, old_release, tiny_settings)
    assert caught.value.exit_code == 2
    assert is_old(old_release)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_is_told_as_such(
    trained: None,
    old_release: Path,
    tiny: Dataset,
    tiny_settings: TwoStageSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fill(path: Path) -> None:
        with path.open("wb") as file, open("/dev/full", "wb") as full:
            file.write(b"half")
            full.write(b"x" * 10_000)

    monkeypatch.setattr(build, "encode", lambda served: {**encode(served), "zz": fill})
    with pytest.raises(ReleaseError, match="the disk is full; free some space and build again"):
        build_again(tiny, old_release, tiny_settings)
    assert is_old(old_release)


@pytest.mark.parametrize("last", ["config.json", "ranker.safetensors"])
def test_the_old_release_stays_when_the_build_is_killed(last: str, old_release: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from candidfeed.release.bundle import encode, read_release
from candidfeed.release.storage import write_directory
target, last = Path(sys.argv[1]), sys.argv[2]
files = encode(read_release(target))
def die(path):
    path.write_bytes(files[last][:100])
    os.kill(os.getpid(), signal.SIGKILL)
write_directory(target, {**files, last: die}, {})
"""
    command = [sys.executable, "-c", script, str(old_release), last]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    served = read_release(old_release)
    assert read_directory(old_release).manifest == {"old": True}
    # What the killed build left is removed by the next one.
    assert any(name.startswith(".candidfeed-unfinished") for name in os.listdir(old_release))
    write_directory(old_release, encode(served), {"new": True})
    assert not any(name.startswith(".") for name in os.listdir(old_release))


def test_a_second_build_keeps_the_one_before_for_rollback(
    trained: None, old_release: Path, tiny: Dataset, tiny_settings: TwoStageSettings
) -> None:
    built = build_again(tiny, old_release, tiny_settings)
    assert built.opened.release_id.startswith("0002-")
    assert read_release(old_release).release_id == built.opened.release_id
    assert len(list(old_release.glob("000*"))) == 2
