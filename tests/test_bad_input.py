"""What a person can get wrong, typed at the command line: one clear line, exit code 2, no trace.

Each log below is as it should be but for one fault. No command that trains may begin to.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from candidfeed.release import build as build_module
from candidfeed.release.storage import read_directory

HEADER = "user,item,stars,when"
CONFIG = """
[events]
path = "events.csv"
user_id = "user"
item_id = "item"
value = "stars"
like_at = 4
timestamp = "when"
timestamp_unit = "s"
"""
START = 1_700_000_000
GOOD = [
    [f"u{u}", f"i{i}", str(1 + (u * i) % 5), str(START + 1_000 * u + i)]
    for u in range(8)
    for i in range(6)
    if (u + i) % 3
]
TRAINING = (
    ("evaluate", "LOG"),
    ("build", "LOG", "-o", "release"),
    ("reference", "keras-dot", "--dataset", "LOG"),
)
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(here: Path, typed: Typed) -> Typed:
    """Types `candidfeed ...` in an empty folder."""
    return typed


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A folder with a log that nothing is wrong with."""
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "candidfeed.toml").write_text(CONFIG)
    write_events(folder, GOOD)
    return folder


def write_events(folder: Path, rows: Sequence[Sequence[str]], header: str = HEADER) -> None:
    lines = [header, *(",".join(row) for row in rows)]
    (folder / "events.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def with_cell(column: int, cell: str) -> list[list[str]]:
    """GOOD with another cell in its fourth row, line 5 of the file."""
    rows = [list(row) for row in GOOD]
    rows[3][column] = cell
    return rows


def with_column(column: int, cell: Callable[[str], str]) -> list[list[str]]:
    return [[*row[:column], cell(row[column]), *row[column + 1 :]] for row in GOOD]


def is_refused(typed: Typed, log: Path, *said: str) -> None:
    """Every command that trains refuses the log in one line that says all of this."""
    for command in TRAINING:
        exit_code, output, errors = typed(*(str(log) if a == "LOG" else a for a in command))
        assert (exit_code, output) == (2, ""), errors
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1, errors
        assert len(errors) < 1_000
        for part in said:
            assert part in errors
    left = [path.name for path in Path().iterdir()]
    assert left in ([], [f"{log.name}.quarantine.csv"])


def quarantined() -> list[tuple[int, str]]:
    """The rows of the quarantine file that the last command wrote: line and reason."""
    return pl.read_csv("log.quarantine.csv").select("row", "reason").rows()


def test_a_log_that_nothing_is_wrong_with_is_read(typed: Typed, log: Path) -> None:
    exit_code, output, errors = typed("describe", str(log))
    assert (exit_code, errors) == (0, "")
    assert "every row can be used" in output


# The file as a whole


def test_a_missing_column_is_named_with_those_that_are_there(typed: Typed, log: Path) -> None:
    write_events(log, GOOD, header="user,item,rating,when")
    is_refused(typed, log, "has no column 'stars' (events.value)", "'user', 'item', 'rating'")


def test_an_empty_file_is_told_as_such(typed: Typed, log: Path) -> None:
    (log / "events.csv").write_bytes(b"")
    is_refused(typed, log, "events.csv: is empty (0 bytes)")


def test_a_header_without_a_row_is_told_as_such(typed: Typed, log: Path) -> None:
    write_events(log, [])
    is_refused(typed, log, "events.csv: has a header but no row")


def test_a_file_that_is_not_there_is_named_with_what_is(typed: Typed, log: Path) -> None:
    (log / "events.csv").rename(log / "clicks.csv")
    is_refused(typed, log, "events.csv: no such file", "'clicks.csv'")


def test_text_in_another_encoding_is_told_with_its_line(typed: Typed, log: Path) -> None:
    (log / "events.csv").write_bytes(f"{HEADER}\nJos\xe9,i1,3,{START}\n".encode("latin-1"))
    is_refused(typed, log, "events.csv, line 2", "UTF-8")


def test_what_is_no_parquet_is_told_as_such(typed: Typed, log: Path) -> None:
    (log / "events.parquet").write_bytes(b"PAR1" + b"x" * 100)
    (log / "candidfeed.toml").write_text(CONFIG.replace("events.csv", "events.parquet"))
    is_refused(typed, log, "events.parquet: can't be read as Parquet")


def test_times_without_a_zone_are_refused_with_the_mend(typed: Typed, log: Path) -> None:
    write_events(log, with_column(3, lambda _: "2024-01-02 10:00:00"))
    (log / "candidfeed.toml").write_text(CONFIG.replace('timestamp_unit = "s"', ""))
    is_refused(typed, log, "times without a zone", "'2024-01-02 10:00:00'", 'timezone = "UTC"')


def test_times_in_milliseconds_are_refused_with_the_mend(typed: Typed, log: Path) -> None:
    write_events(log, with_column(3, lambda time: f"{time}000"))
    is_refused(typed, log, "'when' (events.timestamp) is not in 's'", 'timestamp_unit = "ms"')


# Single rows


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("great", "'stars' is not a number"),
        ("NaN", "'stars' is NaN or infinite"),
        ("inf", "'stars' is NaN or infinite"),
        ("-Infinity", "'stars' is NaN or infinite"),
        ("1e39", "'stars' is NaN or infinite"),
        ("-2e12", "'stars' is beyond 1e+12 in size"),
        ("", "'stars' is empty"),
    ],
)
def test_a_rating_that_is_none_is_told_with_its_line(
    typed: Typed, log: Path, cell: str, reason: str
) -> None:
    write_events(log, with_cell(2, cell))
    is_refused(typed, log, "1 row can't be used", reason, "events.csv, line 5", "max_bad_share")
    assert [row for row, _ in quarantined()] == [5]


def test_duplicate_events_are_counted_and_written_down(typed: Typed, log: Path) -> None:
    write_events(log, [*GOOD, GOOD[0], GOOD[1]])
    is_refused(typed, log, "2 rows can't be used", "2 x duplicate event", "max_bad_share")
    assert [row for row, _ in quarantined()] == [len(GOOD) + 2, len(GOOD) + 3]


def test_an_id_of_ten_kilobytes_is_refused_in_a_short_line(typed: Typed, log: Path) -> None:
    write_events(log, with_cell(0, "x" * 10_240))
    is_refused(typed, log, "'user' is longer than 1,024 bytes", "line 5", "(10,240 characters)")


def test_an_id_that_would_steer_the_terminal_does_not(typed: Typed, log: Path) -> None:
    rows = with_cell(0, "\x1b[31mred[/bold]")
    rows[3][2] = "NaN"
    write_events(log, rows)
    is_refused(typed, log, "'stars' is NaN or infinite")
    assert "\x1b" not in typed("describe", str(log))[1]


# Too little to learn from


def test_one_user_is_too_few(typed: Typed, log: Path) -> None:
    write_events(log, with_column(0, lambda _: "u0")[:4])
    is_refused(typed, log, "of one user ('u0'); at least 2 users and 2 items are needed")


def test_one_item_is_too_few(typed: Typed, log: Path) -> None:
    write_events(log, [["u0", "i0", "3", f"{START}"], ["u1", "i0", "4", f"{START + 1}"]])
    is_refused(typed, log, "of one item ('i0'); at least 2 users and 2 items are needed")


def test_a_protocol_that_the_log_does_not_allow_is_told_with_one_that_it_does(
    typed: Typed, log: Path
) -> None:
    write_events(log, with_column(3, lambda _: f"{START}"))
    exit_code, output, errors = typed("evaluate", str(log))
    assert (exit_code, output) == (2, "")
    assert "protocol 'temporal' is not possible" in errors
    assert "use 'per-user-last'" in errors


# The TOML file, and what is typed


def test_an_unknown_key_is_named_with_the_nearest(typed: Typed, log: Path) -> None:
    (log / "candidfeed.toml").write_text(CONFIG + 'tiemstamp_unit = "s"\n')
    is_refused(typed, log, "'events.tiemstamp_unit' is not a key", "did you mean 'timestamp_unit'?")


def test_what_is_no_toml_is_told_with_its_line(typed: Typed, log: Path) -> None:
    (log / "candidfeed.toml").write_text("[events\n")
    is_refused(typed, log, "candidfeed.toml: is not valid TOML", "line 1")


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ("0 1 2\n1 x 3\n", "0 3\n", "train.txt, line 2: 'x' is no user or item number"),
        ("0 1 2\n1 2 3\n", "", "test.txt: is empty"),
        ("0 1 2\n1 2 3\n", "0 1\n", "leak: train.txt has this user and item too"),
    ],
)
def test_a_folder_of_one_line_a_user_is_checked_too(
    typed: Typed, tmp_path: Path, train: str, test: str, said: str
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text(test)
    is_refused(typed, folder, said)


@pytest.mark.parametrize("name", ["nowhere", "ml-100", ""])
def test_a_data_set_that_is_not_there_is_told_with_what_could_be(typed: Typed, name: str) -> None:
    exit_code, output, errors = typed("describe", name)
    assert (exit_code, output) == (2, "")
    assert "ml-100k" in errors
    assert "train.txt and test.txt" in errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("evaluate", "LOG", "--json", "FOLDER"), "is a folder; name a file"),
        (("evaluate", "LOG", "--json", "FILE/x.json"), "is a file; name another place"),
        (("build", "LOG", "-o", "FILE"), "is a file; name a folder"),
        (("build", "LOG", "-o", "FILE/release"), "is a file; name another place"),
        (("build", "LOG", "-o", "r", "--json", "FOLDER"), "is a folder; name a file"),
        (("build", "LOG", "-o", "r", "--logs", "FILE"), "is a file; name a folder"),
        (("reference", "keras-dot", "--dataset", "LOG", "--json", "FOLDER"), "is a folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_training(
    typed: Typed, log: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "file").write_text("kept")
    places = {"LOG": log, "FOLDER": tmp_path, "FILE": tmp_path / "file"}
    for word, place in places.items():
        arguments = tuple(one.replace(word, str(place)) for one in arguments)
    exit_code, output, errors = typed(*arguments)
    assert (exit_code, output, errors.count("\n")) == (2, "", 1)
    assert said in errors
    assert (tmp_path / "file").read_text() == "kept"
    assert list(Path().iterdir()) == []


def test_a_pipe_is_a_place_that_can_be_written(typed: Typed, log: Path) -> None:
    exit_code, _, errors = typed(
        "evaluate", str(log), "--protocol", "none", "--json", "/dev/stdout"
    )
    assert exit_code == 2
    assert errors.startswith("error: no protocol 'none'")


# The release


def test_a_changed_byte_in_any_file_of_a_release_is_refused(
    typed: Typed, tiny_release: Path, tmp_path: Path
) -> None:
    for name in sorted(path.name for path in read_directory(tiny_release).path.iterdir()):
        copy = tmp_path / f"changed {name}"
        shutil.copytree(tiny_release, copy)
        changed = read_directory(copy).path / name
        content = bytearray(changed.read_bytes())
        content[len(content) // 2] ^= 1
        changed.write_bytes(content)
        exit_code, output, errors = typed("recommend", str(copy), "--user", "user 1, 🙂")
        assert (exit_code, output, errors.count("\n")) == (2, "", 1), name
        assert name in errors
        assert "build it again" in errors


def test_a_disk_that_fills_up_while_building_keeps_the_release_that_was_there(
    typed: Typed,
    tiny_log: Path,
    tiny_parts: dict[str, Any],
    small_disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for step in ("evaluate_once", "refit_on_all", "export_pair"):
        monkeypatch.setattr(build_module, step, lambda *_, step=step, **__: tiny_parts[step])
    disk = small_disk(3_072)
    target = disk / "release"
    assert typed("build", str(tiny_log), "-o", str(target))[0] == 0
    before = read_directory(target).release_id
    size_bytes = sum(path.stat().st_size for path in target.rglob("*"))
    free_bytes = shutil.disk_usage(disk).free
    (disk / "other").write_bytes(b"x" * (free_bytes - size_bytes // 2))
    exit_code, output, errors = typed("build", str(tiny_log), "-o", str(target))
    assert (exit_code, output) == (2, "")
    assert "the disk is full; free some space and build again" in errors.splitlines()[-1]
    assert read_directory(target).release_id == before
    assert len(list(target.iterdir())) == 2
    exit_code, output, _ = typed("recommend", str(target), "--user", "user 1, 🙂")
    assert exit_code == 0
    assert before in output
