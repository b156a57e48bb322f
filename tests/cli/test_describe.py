"""`candidfeed describe`: what a person sees."""

import json as json_module
import shutil
from pathlib import Path

import pytest

from candidfeed.cli.describe import describe
from candidfeed.cli.output import cache_folder
from candidfeed.data.tables import Dataset
from candidfeed.errors import DataError

CONFIG = """
[events]
path = "events.csv"
user_id = "uid"
item_id = "sku"
timestamp = "ts"
timestamp_unit = "s"
"""
GOOD = "".join(f"{n % 3},item {n % 4},{1700000000 + n}\n" for n in range(12))


@pytest.fixture
def shop(here: Path) -> Path:
    """A folder with `shop.toml`, and the current folder, empty, in it."""
    (here.parent / "shop.toml").write_text(CONFIG)
    return here.parent


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())


def test_a_clean_data_set_is_shown_and_nothing_is_written(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "events.csv").write_text("uid,sku,ts\n" + GOOD)
    describe(str(shop / "shop.toml"))
    lines = [" ".join(line.split()) for line in shown(capsys).splitlines()]
    for line in (
        "rows read 12",
        "users 3",
        "density 100.000%",
        "first event 2023-11-14 22:13:20 UTC",
        "Events per user: mean 4.0, median 4, 4 to 4",
        "4 - 7 ████████████████████████████████████ 3",
        "3 25.00% item 0 item 0",
        "Cold at the default split: temporal, seed 42",
        "Quarantine: empty, every row can be used",
    ):
        assert line in lines
    assert list(Path().iterdir()) == []


def test_no_line_is_wider_than_80_columns(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = "word " * 60
    (shop / "events.csv").write_text(f"uid,sku,ts\n{GOOD}1,{wide},1700000100\n1,{wide}2,x\n")
    with pytest.raises(DataError):
        describe(str(shop / "shop.toml"))
    assert max(map(len, shown(capsys).splitlines())) <= 80


def test_bad_rows_are_shown_and_written_and_end_the_command(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "events.csv").write_text(f"uid,sku,ts\n{GOOD}9,x,soon\n")
    with pytest.raises(DataError) as caught:
        describe(str(shop / "shop.toml"))
    assert caught.value.exit_code == 2
    assert "all are in shop.quarantine.csv" in str(caught.value)
    text = shown(capsys)
    assert "Quarantine: 1 row can't be used" in text
    assert "      1  'ts' is not a time  events.csv:14  'soon'" in text
    assert Path("shop.quarantine.csv").read_text() == (
        "file,row,reason,received\nevents.csv,14,'ts' is not a time,'soon'\n"
    )


def test_bad_rows_that_are_allowed_are_written_where_the_person_says(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "shop.toml").write_text(CONFIG + "max_bad_share = 0.1\n")
    (shop / "events.csv").write_text(f"uid,sku,ts\n{GOOD}9,x,soon\n")
    describe(str(shop / "shop.toml"), quarantine=Path("bad.csv"))
    assert shown(capsys).endswith("All of them are in bad.csv.")
    assert [one.name for one in Path().iterdir()] == ["bad.csv"]


def test_where_no_split_is_possible_the_reason_is_shown(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "events.csv").write_text("uid,sku,ts\n1,a,1700000000\n1,b,1700000001\n")
    with pytest.raises(DataError, match=r"all 2 events are of one user \(1\)"):
        describe(str(shop / "shop.toml"))
    assert "No split\n  shop: all 2 positive events have one user_id (1)" in shown(capsys)


def test_ids_that_would_steer_the_terminal_or_look_like_markup_are_shown_as_they_are(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(
        f"{n},\x1b[31m[bold]red😀,{1700000000 + n}\n{n},b,1700000050\n" for n in range(9)
    )
    (shop / "events.csv").write_text("uid,sku,ts\n" + rows)
    describe(str(shop / "shop.toml"))
    text = shown(capsys)
    assert "\x1b" not in text
    assert "\ufffd[31m[bold]red😀" in text


def test_json_has_the_same_figures_even_where_the_data_set_cannot_be_used(shop: Path) -> None:
    (shop / "events.csv").write_text("uid,sku,ts\n1,a,1700000000\n1,b,1700000001\n,b,1700000001\n")
    with pytest.raises(DataError):
        describe(str(shop / "shop.toml"), json=shop / "figures.json")
    figures = json_module.loads((shop / "figures.json").read_text())
    assert figures["n_events"] == 2
    assert figures["cold"] is None
    assert figures["no_split"].startswith("shop: all 2 positive events have one user_id")
    assert figures["quarantine"] == [
        {
            "reason": "'uid' is empty",
            "n": 1,
            "file": "events.csv",
            "row": 4,
            "received": "(nothing)",
        }
    ]


def test_ml_100k_has_no_quarantine_and_its_terms_are_told_once(
    ml_100k: Dataset, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(cache_folder() / ml_100k.name, shop / "cache" / ml_100k.name)
    describe("ml-100k", cache=shop / "cache")
    first = capsys.readouterr()
    assert "      583  0.58%  50    Star Wars (1977)" in first.out
    assert "   users.gender        category  sensitive        0  0.0%" in first.out
    assert "Quarantine: empty, every row can be used" in first.out
    assert "do not redistribute it without separate permission" in first.err
    assert list(Path().iterdir()) == []
    describe("ml-100k", cache=shop / "cache")
    assert capsys.readouterr() == (first.out, "")
