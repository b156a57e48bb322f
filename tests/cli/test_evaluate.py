"""`candidfeed evaluate`: what it prints, writes and refuses."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from candidfeed.cli.evaluate import N_STEPS
from candidfeed.data.tables import Dataset
from candidfeed.evaluation import run as module
from candidfeed.training.two_stage import TwoStage

Typed = Callable[..., tuple[int, str, str]]
DEEP_STEPS = 6


@pytest.fixture
def typed(here: Path, typed: Typed) -> Typed:
    """Types `candidfeed evaluate ...` in an empty folder."""
    return partial(typed, "evaluate")


@pytest.fixture
def already_fitted(tiny_parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny log's stages come as they are; the steps of fitting are told."""
    pair: TwoStage = tiny_parts["evaluate_once"].pair

    def fit(_dataset: Dataset, _split: Any, *, report: Callable[[str], None], **_: Any) -> TwoStage:
        for step in list(pair.seconds)[:DEEP_STEPS]:
            report(step)
        return pair

    monkeypatch.setattr(module, "fit_two_stage", fit)


@pytest.fixture
def never_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module, "fit_two_stage")


def only_line(errors: str) -> str:
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in errors
    return line


def test_it_prints_a_table_in_80_columns_and_writes_the_json(
    typed: Typed, tiny_log: Path, tmp_path: Path, already_fitted: None
) -> None:
    target = tmp_path / "new folder" / "figures.json"
    exit_code, output, errors = typed(tiny_log, "--seed", 7, "--json", target)
    assert exit_code == 0, errors
    assert max(map(cell_len, output.splitlines())) <= 80
    assert "protocol temporal, seed 7" in output
    for name in ("two-stage", "retrieval", "ranker", "popular", "ease", "ials", "bias-rating"):
        assert f"\n{name} " in output
    content = json.loads(target.read_bytes())
    assert content["protocol"] == "temporal"
    assert {"two-stage", "retrieval", "ranker", "popular-recent"} <= content["models"].keys()
    assert [path.name for path in target.parent.iterdir()] == ["figures.json"]
    # One line a step on the other output, as many as the bar counts.
    told = [line for line in errors.splitlines() if line.strip()]
    assert len(told) == N_STEPS


def test_the_pair_and_its_calibration_are_shown_and_plotted(
    typed: Typed, tiny_log: Path, tmp_path: Path, already_fitted: None
) -> None:
    plots, target = tmp_path / "plots", tmp_path / "figures.json"
    exit_code, output, errors = typed(tiny_log, "--plots", plots, "--json", target)
    assert exit_code == 0, errors
    shown = " ".join(output.split())
    assert "The two stages as one system" in shown
    assert "P(liked), as is: ECE 0." in shown
    assert "no segment has 500 rows: no claim is made of any." in shown
    content = json.loads(target.read_bytes())
    everybody = content["pair"]["cohorts"]["all"]
    assert everybody["figures"]["final"] == content["models"]["two-stage"]["ndcg@10"]
    assert everybody["figures"]["retrieval"]["mean"] <= everybody["figures"]["oracle"]["mean"]
    assert content["calibration"].keys() == {"engaged", "liked"}
    logloss = content["models"]["ranker"]["logloss"]["mean"]
    assert content["calibration"]["liked"]["all"]["logloss"] == pytest.approx(logloss, rel=1e-6)
    names = sorted(path.name for path in plots.iterdir())
    assert names == ["reliability-engaged.svg", "reliability-liked.svg"]


def test_plots_of_retrieval_alone_are_refused(
    typed: Typed, tiny_log: Path, tmp_path: Path, never_fitted: None
) -> None:
    exit_code, _, errors = typed(tiny_log, "--stage", "retrieval", "--plots", tmp_path / "p")
    assert exit_code == 2
    assert "--plots are of the ranker's heads; drop --stage retrieval" in only_line(errors)


def test_a_figures_file_that_cannot_be_written_is_refused_before_anything_is_fitted(
    typed: Typed, tiny_log: Path, tmp_path: Path, never_fitted: None
) -> None:
    (tmp_path / "file").write_text("")
    exit_code, output, errors = typed(tiny_log, "--json", tmp_path / "file" / "figures.json")
    assert (exit_code, output) == (2, "")
    assert str(tmp_path / "file") in only_line(errors)


def test_an_unknown_protocol_is_refused_with_the_nearest(
    typed: Typed, tiny_log: Path, tmp_path: Path, never_fitted: None
) -> None:
    target = tmp_path / "figures.json"
    exit_code, output, errors = typed(tiny_log, "--protocol", "temporel", "--json", target)
    assert (exit_code, output) == (2, "")
    assert "no protocol 'temporel'; did you mean 'temporal'?" in only_line(errors)
    assert not target.exists()


def test_a_log_of_one_user_is_refused(typed: Typed, tmp_path: Path, never_fitted: None) -> None:
    log = tmp_path / "log"
    log.mkdir()
    rows = [f"u,{i},{1_700_000_000 + i}" for i in range(20)]
    (log / "events.csv").write_text("\n".join(["user,item,when", *rows]))
    (log / "candidfeed.toml").write_text(
        '[events]\npath = "events.csv"\nuser_id = "user"\nitem_id = "item"\n'
        'timestamp = "when"\ntimestamp_unit = "s"\n'
    )
    target = tmp_path / "figures.json"
    exit_code, output, errors = typed(log, "--json", target)
    assert (exit_code, output) == (2, "")
    assert "at least 2 users and 2 items are needed" in only_line(errors)
    assert not target.exists()


def test_a_log_with_too_many_bad_rows_is_refused(
    typed: Typed, tiny_log: Path, tmp_path: Path, never_fitted: None
) -> None:
    log = tmp_path / "log"
    log.mkdir()
    for path in tiny_log.iterdir():
        if path.is_file():
            (log / path.name).write_bytes(path.read_bytes())
    text = (log / "events.csv").read_text(encoding="utf-8").splitlines()
    broken = [line.rsplit(",", 1)[0] + ",nan" for line in text[1:]]
    (log / "events.csv").write_text("\n".join([text[0], *broken]), encoding="utf-8")
    exit_code, output, errors = typed(log, "--cache", tmp_path / "cache")
    assert (exit_code, output) == (2, "")
    assert "events" in only_line(errors)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--seeds", 0), ("--candidates", 0), ("--seed", -1), ("--seed", 2**40)],
)
def test_numbers_out_of_range_are_wrong_usage(
    typed: Typed, tiny_log: Path, option: str, value: int, never_fitted: None
) -> None:
    exit_code, output, errors = typed(tiny_log, option, value)
    assert (exit_code, output) == (2, "")
    assert option in only_line(errors)


def test_references_stand_in_the_table_and_in_the_json(
    typed: Typed, tiny_log: Path, tmp_path: Path, already_fitted: None
) -> None:
    target = tmp_path / "figures.json"
    exit_code, output, errors = typed(tiny_log, "--references", "--json", target)
    assert exit_code == 0, errors
    assert max(map(cell_len, output.splitlines())) <= 80
    content = json.loads(target.read_bytes())
    for name in ("lgbm-binary", "lambdamart"):
        assert f"\n{name} " in output
        assert name in content["paired"]["two-stage"]["ndcg@10"]
        assert content["chosen"][name]["n_trees"] >= 1
        assert not any(metric.endswith("/seen") for metric in content["models"][name])
    for name in ("myfm-normal", "myfm-probit"):
        assert f"\n{name} " in output
        assert name in content["paired"]["ranker"]["mse"]
    told = [line for line in errors.splitlines() if line.strip()]
    assert len(told) == N_STEPS + 1


def test_references_that_are_not_installed_are_told_before_anything_is_fitted(
    typed: Typed, tiny_log: Path, never_fitted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "myfm", None)
    exit_code, output, errors = typed(tiny_log, "--references")
    assert (exit_code, output) == (2, "")
    assert "pip install 'candidfeed[references]'" in only_line(errors)


def test_references_beside_retrieval_alone_are_refused(
    typed: Typed, tiny_log: Path, never_fitted: None
) -> None:
    exit_code, _, errors = typed(tiny_log, "--references", "--stage", "retrieval")
    assert exit_code == 2
    assert "drop --stage retrieval" in only_line(errors)
