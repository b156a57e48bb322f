"""Settings as TOML: what is written is what is read, and faults are named."""

from dataclasses import replace
from pathlib import Path

import pytest

from candidfeed.errors import ConfigError
from candidfeed.ranking.settings import RankerSettings
from candidfeed.retrieval.closed_forms import ClosedFormSettings
from candidfeed.retrieval.factorise import FactorSettings
from candidfeed.retrieval.training import TowerSettings
from candidfeed.training.settings_file import load_settings, written
from candidfeed.training.stage_one import StageOneSettings
from candidfeed.training.two_stage import TwoStageSettings

DEEP = StageOneSettings(
    tower=TowerSettings(closed=ClosedFormSettings(factors=FactorSettings(dim=32), n_members=8)),
    is_large=False,
)
CHANGED = TwoStageSettings(
    n_candidates=300,
    quotas={"tower": 200, "neighbours": 75, "trending": 25},
    stage_one=DEEP,
    ranker=RankerSettings(features="stage one", learning_rate=1e-05),
    value_weights={"engaged": 1.0, "liked": 0.25},
)


def read(tmp_path: Path, text: str) -> TwoStageSettings:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path)


@pytest.mark.parametrize("settings", [TwoStageSettings(), CHANGED])
def test_what_is_written_is_what_is_read(tmp_path: Path, settings: TwoStageSettings) -> None:
    assert read(tmp_path, written(settings)) == settings


def test_a_file_names_only_what_differs_from_the_defaults() -> None:
    usual = TwoStageSettings()
    assert written(usual) == ""
    longer = replace(usual, ranker=replace(usual.ranker, n_epochs=20))
    assert written(longer) == "[ranker]\nn_epochs = 20\n"


def test_a_whole_number_will_do_where_a_fraction_is_wanted(tmp_path: Path) -> None:
    assert read(tmp_path, "[ranker]\nl2 = 1\n").ranker.l2 == 1.0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[ranker]\nmember = 4\n", "'ranker.member' is not a key here; did you mean 'members'"),
        ("[rankers]\ndim = 4\n", "'rankers' is not a key here; did you mean 'ranker'"),
        ("ranker = 3\n", "'ranker': should be a table"),
        ("value_weights = 3\n", "'value_weights': should be a table"),
        ("[ranker]\ndim = 4.5\n", "'ranker.dim': should be a whole number, but 4.5 came"),
        ("[ranker]\ndim = true\n", "'ranker.dim': should be a whole number, but True came"),
        ("[ranker]\ndim = 0\n", "'ranker.dim': should be larger, but 0 came"),
        ("[ranker]\nl2 = -1.0\n", "'ranker.l2': should be finite and 0 or more"),
        ("[ranker]\nl2 = nan\n", "'ranker.l2': should be finite"),
        ("[value_weights]\nliked = 'much'\n", "'value_weights.liked': should be a number"),
        ("[stage_one]\nresume = 'x'\n", "'stage_one.resume' is not a key here"),
        ("[stage_one.tower.closed.factors]\nreg = 0.0\n", "each setting must be above 0"),
        ("[ranker\n", "is not valid TOML"),
    ],
)
def test_a_fault_is_named_with_its_place_and_what_came(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    assert told in str(refused.value)
    assert "settings.toml" in str(refused.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load_settings(tmp_path / "none.toml")


def test_weights_that_order_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("[value_weights]\nengaged = 0.0\n")
    with pytest.raises(ConfigError, match="would put a list in no order"):
        load_settings(path)


def test_a_weight_may_be_negative_and_nothing_else_may(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("[value_weights]\nengaged = 1.0\nhide = -5.0\n")
    assert load_settings(path).value_weights == {"engaged": 1.0, "hide": -5.0}
    path.write_text("[value_weights]\nhide = -inf\n")
    with pytest.raises(ConfigError, match=r"'value_weights\.hide': should be finite"):
        load_settings(path)
