"""`candidfeed build`: what a person sees while and after a release is made."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from candidfeed.release import build as build_module
from candidfeed.release.bundle import read_release
from candidfeed.release.storage import read_directory

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(
    typed: Typed, tiny_log: Path, tiny_parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Typed:
    """Types `candidfeed build LOG ...` where the training is done already."""

    def evaluate_once(*_: object, report: Callable[[str], None], **__: object) -> object:
        report("fit everything")
        return tiny_parts["evaluate_once"]

    monkeypatch.setattr(build_module, "evaluate_once", evaluate_once)
    monkeypatch.setattr(build_module, "refit_on_all", lambda *_, **__: tiny_parts["refit_on_all"])

    def type_command(*arguments: str, log: Path = tiny_log) -> tuple[int, str, str]:
        return typed("build", log, *arguments)

    return type_command


def test_the_report_the_verdict_and_the_release_are_shown(typed: Typed, tmp_path: Path) -> None:
    target = tmp_path / "my releases" / "demo"
    exit_code, output, errors = typed("-o", str(target))
    assert exit_code == 0
    assert "two-stage" in output
    assert "on ndcg@10" in " ".join(output.split())
    release_id = read_directory(target).release_id
    assert f"Release {target}\n  {release_id}, 0." in output
    assert f"candidfeed recommend '{target}' --user ID" in output
    steps = [line.split(" s  ")[1] for line in errors.splitlines() if " s  " in line]
    assert steps == ["fit everything", "export", "write"]
    narrow = [line for line in output.splitlines() if str(target) not in line]
    assert max(map(len, narrow)) <= 80


def test_json_and_tensorboard_files_are_written_where_asked(
    typed: Typed, tmp_path: Path, tiny_parts: dict[str, Any]
) -> None:
    report, logs = tmp_path / "report.json", tmp_path / "logs"
    typed("-o", str(tmp_path / "r"), "--json", str(report), "--logs", str(logs))
    opened = read_directory(tmp_path / "r")
    assert json.loads(report.read_bytes()) == json.loads((opened.path / "report.json").read_bytes())
    for stage in ("retrieval", "ranker"):
        [events] = (logs / stage).iterdir()
        assert b"train/loss" in events.read_bytes()
    curves = tiny_parts["evaluate_once"].pair.tower.curves
    assert "val_ndcg" in curves
    assert b"validation/ndcg" in next((logs / "retrieval").iterdir()).read_bytes()


# What is refused


def test_without_an_output_nothing_is_done(typed: Typed) -> None:
    exit_code, output, errors = typed()
    assert (exit_code, output) == (2, "")
    assert "missing option '--output'" in errors


def test_a_foreign_folder_is_refused_and_not_touched(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    exit_code, output, errors = typed("-o", str(tmp_path))
    assert (exit_code, output) == (2, "")
    assert "is no release and not empty" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_log_that_cannot_be_used_leaves_the_release_that_was_there(
    typed: Typed, tmp_path: Path
) -> None:
    target = tmp_path / "release"
    typed("-o", str(target))
    release_id = read_directory(target).release_id
    log = tmp_path / "log"
    log.mkdir()
    (log / "train.txt").write_text("1 2 3\n")
    (log / "test.txt").write_text("1 4\n")
    exit_code, output, errors = typed("-o", str(target), log=log)
    assert (exit_code, output) == (2, "")
    assert errors.startswith("error: ")
    assert read_release(target).release_id == release_id


def test_a_model_that_is_not_finite_makes_no_release(
    typed: Typed,
    tmp_path: Path,
    tiny_parts: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = tiny_parts["refit_on_all"]

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(whole.tower.model, name)

        def item_vectors(self) -> Any:
            return whole.tower.model.item_vectors() * float("nan")

    broken = replace(whole, tower=replace(whole.tower, model=Broken()))
    monkeypatch.setattr(build_module, "refit_on_all", lambda *_, **__: broken)
    exit_code, output, errors = typed("-o", str(tmp_path / "r"))
    assert (exit_code, output) == (2, "")
    assert "is not finite after training; the release was not made" in errors
    assert list(tmp_path.iterdir()) == []
