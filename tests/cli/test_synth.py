"""`candidfeed synth`: what a person types and sees."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from candidfeed.cli.synth import read_count

Typed = Callable[..., tuple[int, str, str]]
SMALL = ("--users", "50", "--items", "3e1", "--events", "2_000")


def test_a_small_world_is_made_and_described(typed: Typed, tmp_path: Path) -> None:
    world, figures = tmp_path / "my world", tmp_path / "out" / "figures.json"
    exit_code, output, errors = typed("synth", "-o", str(world), *SMALL, "--json", str(figures))
    assert (exit_code, errors) == (0, "")
    assert "  users 50, items 30 (clusters 2), seed 0\n  events 2,000: impression 1," in output
    assert f"  candidfeed describe '{world}'\n" in output
    assert max(len(line) for line in output.splitlines() if str(world) not in line) <= 80
    told = json.loads(figures.read_text())
    assert (told["n_users"], told["n_items"], told["n_events"], told["n_parts"]) == (
        50,
        30,
        2000,
        1,
    )
    assert sum(told["kinds"].values()) == 2_000
    assert told["size_bytes"] == sum(f.stat().st_size for f in world.rglob("*") if f.is_file())
    assert told["events_per_s"] == pytest.approx(2_000 / told["seconds"], rel=0.05)

    for dataset in (world, world / "candidfeed.toml"):
        exit_code, output, errors = typed("describe", str(dataset))
        assert (exit_code, errors) == (0, "")
        assert output.startswith("my world\n   rows read                             2,000\n")
        assert "Quarantine: empty" in output


@pytest.mark.parametrize(
    ("written", "number"),
    [("12", 12), ("1e6", 10**6), ("2.5e3", 2_500), ("1_000", 1_000), ("-3", -3), (7, 7)],
)
def test_a_count_may_be_written_in_several_ways(written: str, number: int) -> None:
    assert read_count(written) == number


@pytest.mark.parametrize("written", ["1.5", "", "x", "inf", "nan", "1e400", "0.1e0", "five", "1k"])
def test_what_is_no_whole_number_is_refused(typed: Typed, tmp_path: Path, written: str) -> None:
    with pytest.raises(typer.BadParameter):
        read_count(written)
    exit_code, output, errors = typed("synth", "-o", str(tmp_path / "w"), "--users", written)
    assert (exit_code, output) == (2, "")
    assert f"{written!r} is no whole number; write one such as 1000000 or 1e6" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--users", "0"), "users should be 1 or more, but 0 came"),
        (("--items", "-4"), "items should be 1 or more, but -4 came"),
        (("--events", "0"), "events should be 1 or more, but 0 came"),
        (("--seed", "-1"), "seed should be 0 or more, but -1 came"),
        (("--events", "1e17"), "MB on disk"),
        (("--users", "1e10"), "users should be 2,147,483,647 or fewer, but 10,000,000,000 came"),
    ],
)
def test_impossible_sizes_end_in_one_line_and_exit_code_2(
    typed: Typed, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    world = tmp_path / "deep" / "w"
    exit_code, output, errors = typed("synth", "-o", str(world), *arguments)
    assert (exit_code, output) == (2, "")
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else_is_refused(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    exit_code, _, errors = typed("synth", "-o", str(tmp_path), *SMALL)
    assert exit_code == 2
    assert "holds something else than a world ('thesis.txt'); nothing was touched" in errors


def test_where_nothing_can_be_written_it_says_so_at_once(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    exit_code, _, errors = typed("synth", "-o", str(tmp_path / "file"))
    assert exit_code == 2
    assert "is a file; name a folder to write to" in errors
    exit_code, _, errors = typed("synth", "-o", str(tmp_path / "w"), "--json", str(tmp_path))
    assert exit_code == 2
    assert "is a folder; name a file to write" in errors
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
