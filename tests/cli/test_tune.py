"""`candidfeed tune`: what it writes, says and refuses."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from candidfeed.cli.tune import _sentence
from candidfeed.evaluation.bootstrap import Difference
from candidfeed.evaluation.tuning import Tuned
from candidfeed.training.settings_file import load_settings
from candidfeed.training.two_stage import TwoStageSettings

Typed = Callable[..., tuple[int, str, str]]


def found(gain: Difference | None) -> Tuned:
    return Tuned(TwoStageSettings(), gain, 0.4321, n_trials=12, n_users=300)


def test_with_no_budget_the_defaults_are_tried_and_written(
    typed: Typed, here: Path, tiny_log: Path
) -> None:
    exit_code, output, errors = typed(
        "tune", tiny_log, "-o", "new/settings.toml", "--minutes", 0, "--protocol", "random",
        "--json", "found.json",
    )  # fmt: skip
    assert exit_code == 0, errors
    assert "no trial of 1 is better than the defaults" in output
    assert load_settings(here / "new" / "settings.toml") == TwoStageSettings()
    content = json.loads((here / "found.json").read_bytes())
    assert (content["n_trials"], content["gain"], content["is_gain"]) == (1, None, False)
    assert 0 < content["defaults"] < 1


def test_a_gain_is_told_with_its_interval() -> None:
    told = _sentence(found(Difference(0.0123, 0.0042, 0.0204, p=0.002, n_users=300)))
    assert told.startswith("nDCG@10 +0.0123 [+0.0042, +0.0204] over the defaults' 0.4321")


@pytest.mark.parametrize(("low", "p"), [(-0.001, 0.08), (0.0001, 0.049_9)])
def test_a_gain_that_chance_would_make_is_told_as_none(low: float, p: float) -> None:
    told = _sentence(found(Difference(0.004, low, 0.009, p=p, n_users=300)))
    assert told.startswith("no gain over the defaults beyond chance") == (low < 0)


def test_optuna_that_is_not_installed_is_told_at_once(
    typed: Typed, here: Path, tiny_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    exit_code, output, errors = typed("tune", tiny_log, "-o", "settings.toml")
    assert (exit_code, output) == (2, "")
    assert "pip install 'candidfeed[tune]'" in errors
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("command", [("evaluate",), ("build", "-o", "release")])
def test_a_settings_file_with_an_unknown_key_is_refused(
    typed: Typed, here: Path, tiny_log: Path, command: tuple[Any, ...]
) -> None:
    (here / "settings.toml").write_text("[ranker]\nepochs = 3\n")
    name, *rest = command
    exit_code, _, errors = typed(name, tiny_log, *rest, "--settings", "settings.toml")
    assert exit_code == 2
    assert "settings.toml: 'ranker.epochs' is not a key here; did you mean 'n_epochs'" in errors
