"""`candidfeed reference`: what it prints, writes and refuses."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import typer
from rich.cells import cell_len

from candidfeed import cli
from candidfeed.cli.reference import _sparkline, reference
from candidfeed.reference.published import REFERENCES

# Keras' own variables answer NumPy 2 in the way of NumPy 1 when weights are read.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't:DeprecationWarning"
)

Typed = Callable[..., tuple[int, str, str]]

RATED = """
name = "tiny"

[events]
path = "ratings.csv"
user_id = "who"
item_id = "what"
value = "stars"
like_at = 4

[items]
path = "items.csv"
item_id = "what"
title = "name"

[items.features.genre]
kind = "category"
"""


@pytest.fixture
def typed(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Types `candidfeed reference ...`."""
    app = typer.Typer()
    app.command()(reference)
    app.callback()(lambda: None)

    def run(arguments: list[str]) -> None:
        command = typer.main.get_command(app)
        with command.make_context("candidfeed", arguments) as context:
            command.invoke(context)

    monkeypatch.setattr(cli, "_run", run)
    return partial(typed, "reference")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Eight users and six films with emoji, commas and brackets in their names."""
    rows = [f"u{u},{i},{1 + (u * i) % 5}" for u in range(8) for i in range(6) if (u + i) % 4]
    (tmp_path / "ratings.csv").write_text("\n".join(["who,what,stars", *rows]), encoding="utf-8")
    names = ["Alien", "Up, up", "[bold]", "🎬", "Up", "A very long title " + "x" * 90]
    films = [f'{i},"{name}",{"old" if i < 3 else "new"}' for i, name in enumerate(names)]
    (tmp_path / "items.csv").write_text("\n".join(["what,name,genre", *films]), encoding="utf-8")
    path = tmp_path / "tiny.toml"
    path.write_text(RATED, encoding="utf-8")
    return path


def on(dataset: Path) -> tuple[str, ...]:
    return ("--dataset", str(dataset), "--protocol", "random", "--epochs", "2")


@pytest.mark.parametrize("name", REFERENCES)
def test_a_run_prints_curves_figures_and_an_example(typed: Typed, tiny: Path, name: str) -> None:
    exit_code, out, err = typed(name, *on(tiny))
    assert exit_code == 0, err
    assert REFERENCES[name].source.split("'")[1] in " ".join(out.split())
    assert "val_loss" in out
    for metric in ("top@100/seen", "ndcg@10") if name == "tfrs-retrieval" else ("mse", "mae"):
        assert f"\n{metric}" in out
    if name == "tfrs-retrieval":
        assert "First titles for user u0:" in out
    else:
        assert "\nUser u0, " in out
        assert "expected" in out
        assert "Best for user u0 among what they have not rated:" in out
    # Figures of other data are no measure for these.
    assert "What was published is of ml-100k" in " ".join(out.split())


def test_what_is_printed_fits_eighty_columns(
    typed: Typed, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("tfrs-retrieval", "keras-hybrid"):
        _, out, _ = typed(name, *on(tiny))
        assert max(map(len, out.splitlines())) <= 80


def test_the_json_file_has_the_shape_of_evaluate_and_the_curves(
    typed: Typed, tiny: Path, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "figures.json"
    assert typed("keras-deep", *on(tiny), "--seeds", 2, "--seed", 5, "--json", path)[0] == 0
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["dataset"], content["protocol"], content["seed"]) == ("tiny", "random", 5)
    assert len(content["test_rows_sha256"]) == 64
    assert {"rmse", "mse", "mae"} <= set(content["models"]["keras-deep"])
    assert content["models"]["keras-deep"]["mae"].keys() == {"mean", "low", "high"}
    assert set(content["seconds"]) == {"keras-deep"}
    assert len(content["curves"]["keras-deep"]["val_loss"]) == 2


def test_logs_are_written_for_tensorboard(typed: Typed, tiny: Path, tmp_path: Path) -> None:
    assert typed("tfrs-ranking", *on(tiny), "--logs", tmp_path / "logs")[0] == 0
    assert list(tmp_path.glob("logs/tfrs-ranking-seed42/events.out.tfevents.*"))


def test_the_rating_of_a_title_is_predicted_for_a_user(typed: Typed, tiny: Path) -> None:
    exit_code, out, _ = typed("keras-dot", *on(tiny), "--user", "u3", "--title", "[bold]")
    assert exit_code == 0
    assert "User u3, [bold]:\n" in out
    assert "expected; they gave 2 (in t" in out


def test_names_of_any_length_and_letters_stand_on_one_line(
    typed: Typed, tiny: Path, tmp_path: Path
) -> None:
    names = ["🎬" * 90, "a\x1b[2Jb", *("x" * 10_000 + str(i) for i in range(4))]
    films = [f'{i},"{name}",old' for i, name in enumerate(names)]
    (tmp_path / "items.csv").write_text("\n".join(["what,name,genre", *films]), encoding="utf-8")
    exit_code, out, err = typed("tfrs-retrieval", *on(tiny))
    assert exit_code == 0, err
    assert "\x1b" not in out
    assert max(map(cell_len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keras-dott"], "no classic model 'keras-dott'; did you mean 'keras-dot'?"),
        (["keras-dot", "--user", "nobody"], "no user 'nobody' in tiny; it has 8, such as 'u0'"),
        (["keras-dot", "--title", "Alein"], "no title 'Alein' in tiny; did you mean 'Alien'?"),
        (["tfrs-retrieval", "--title", "Alien"], "tfrs-retrieval predicts no ratings"),
        (["keras-dot", "--protocol", "randm"], "did you mean 'random'?"),
        (["keras-dot", "--protocol", "temporal"], "the log has none"),
        (["keras-dot", "--epochs", "0"], "should be greater than or equal to 1"),
        (["keras-dot", "--seeds", "0"], "should be greater than or equal to 1"),
    ],
)
def test_a_wrong_wish_ends_with_two_and_says_what_to_do(
    typed: Typed, tiny: Path, arguments: list[str], message: str
) -> None:
    exit_code, out, err = typed(*arguments, "--dataset", tiny)
    assert (exit_code, out) == (2, "")
    assert message in " ".join(err.split())


def test_a_rating_model_on_a_log_without_ratings_ends_with_two(
    typed: Typed, tiny: Path, tmp_path: Path
) -> None:
    clicks = RATED.replace('value = "stars"\nlike_at = 4\n', "")
    tiny.write_text(clicks, encoding="utf-8")
    exit_code, _, err = typed("keras-dot", *on(tiny), "--json", tmp_path / "figures.json")
    assert exit_code == 2
    assert "keras-dot predicts ratings, and tiny has none; use tfrs-retrieval" in err
    assert not (tmp_path / "figures.json").exists()
    assert typed("tfrs-retrieval", *on(tiny))[0] == 0


def test_the_help_names_every_model() -> None:
    app = typer.Typer()
    app.command()(reference)
    command = typer.main.get_command(app)
    (argument,) = [one for one in command.params if one.name == "name"]
    assert [name for name in REFERENCES if name not in str(getattr(argument, "help", ""))] == []


def test_a_sparkline_runs_from_the_least_to_the_greatest() -> None:
    assert _sparkline([1.0, 8.0, 4.5]) == "▁█▅"
    assert _sparkline([3.0, 3.0]) == "▁▁"
    # Of many epochs every other is shown, the last always.
    assert _sparkline([*range(39), 100.0]) == "▁" * 4 + "▂" * 7 + "▃" * 7 + "▄█"
