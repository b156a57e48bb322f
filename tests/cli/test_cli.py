"""The frame around the commands: help that comes at once, errors that a person can read."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from rich.console import Console

from candidfeed import __version__, cli
from candidfeed.cli.output import cache_folder, console, progress, write_json
from candidfeed.errors import CandidfeedError, DataError

COMMANDS = ("fetch", "describe", "evaluate", "reference", "build", "recommend", "synth")
HEAVY = {"faiss", "implicit", "jax", "keras", "numpy", "polars", "scipy", "sklearn"}
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed_and_failing(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Types a command that ends in the given error."""

    def type_command(error: BaseException, *arguments: str) -> tuple[int, str, str]:
        def fail(_: object) -> None:
            raise error

        monkeypatch.setattr(cli, "_run", fail)
        return typed(*arguments)

    return type_command


# Help


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = """
import sys
from candidfeed.cli import main
sys.argv = ["candidfeed", *sys.argv[1:], "--help"]
exit_code = main()
print(exit_code, *sys.modules, file=sys.stderr)
"""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    exit_code, *modules = done.stderr.split()
    assert exit_code == "0"
    assert " ".join(["Usage: candidfeed", *arguments]) in done.stdout
    assert {module.partition(".")[0] for module in modules} & HEAVY == set()


def test_help_names_every_command_in_80_columns(typed: Typed) -> None:
    exit_code, output, errors = typed("--help")
    assert (exit_code, errors) == (0, "")
    assert all(f" {command} " in output for command in COMMANDS)
    assert max(map(len, output.splitlines())) <= 80


def test_the_version_is_that_of_the_package(typed: Typed) -> None:
    assert typed("--version") == (0, f"candidfeed {__version__}\n", "")


def test_nothing_typed_shows_the_help_and_is_wrong_usage(typed: Typed) -> None:
    exit_code, output, errors = typed()
    assert exit_code == 2
    assert "Usage: candidfeed" in output + errors
    assert "error:" not in errors


@pytest.mark.parametrize(
    "command",
    [[Path(sys.executable).with_name("candidfeed")], [sys.executable, "-m", "candidfeed"]],
    ids=["installed", "python -m"],
)
def test_the_installed_command_runs(command: list[str | Path]) -> None:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"candidfeed {__version__}\n"


# Wrong usage


def test_an_unknown_command_suggests_the_nearest(typed: Typed) -> None:
    exit_code, output, errors = typed("recomend", "releases/demo")
    assert (exit_code, output) == (2, "")
    assert errors == (
        "error: no such command 'recomend'. Did you mean 'recommend'? (see 'candidfeed --help')\n"
    )


def test_a_missing_argument_names_it_and_where_to_read(typed: Typed) -> None:
    exit_code, _, errors = typed("describe")
    assert exit_code == 2
    assert errors == "error: missing argument 'dataset' (see 'candidfeed describe --help')\n"


def test_an_unknown_option_is_wrong_usage(typed: Typed) -> None:
    exit_code, _, errors = typed("describe", "ml-100k", "--jsn", "x")
    assert exit_code == 2
    assert errors.startswith("error: no such option: --jsn")
    assert "--json" in errors


# Errors become words


def test_an_error_on_purpose_is_one_line_and_its_exit_code(typed_and_failing: Typed) -> None:
    error = DataError("events.csv: row 3: rating 'x' is no number;\n mend the row")
    assert typed_and_failing(error, "describe", "mine.toml") == (
        2,
        "",
        "error: events.csv: row 3: rating 'x' is no number; mend the row\n",
    )


def test_the_exit_code_is_the_errors_own(typed_and_failing: Typed) -> None:
    class GateError(CandidfeedError):
        exit_code = 1

    assert typed_and_failing(GateError("worse than popular"))[0] == 1


def test_an_id_with_markup_newlines_and_escape_codes_is_shown_harmlessly(
    typed_and_failing: Typed,
) -> None:
    _, _, errors = typed_and_failing(DataError("id '[red]a\x1b[31m\r\nb😀\ud800' is unknown"))
    assert errors == "error: id '[red]a?[31m b😀?' is unknown\n".replace("?", "\ufffd")


def test_a_very_long_message_keeps_its_beginning_and_its_end(typed_and_failing: Typed) -> None:
    _, _, errors = typed_and_failing(DataError(f"user '{'x' * 10_000}' is unknown; name another"))
    assert errors.startswith("error: user 'xxx")
    assert errors.endswith("xxx' is unknown; name another\n")
    assert len(errors) < 2_100


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/weights"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_told_as_such_whoever_found_out(
    typed_and_failing: Typed, error: Exception
) -> None:
    exit_code, _, errors = typed_and_failing(error)
    assert exit_code == 2
    assert errors.startswith("error: the disk is full")
    assert errors.endswith("; free some space and run the command again\n")
    assert ("/data/weights" in errors) == isinstance(getattr(error, "filename", None), str)


def test_a_full_disk_behind_another_error_is_found(typed_and_failing: Typed) -> None:
    error = ValueError("could not save")
    error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert typed_and_failing(error)[2].startswith("error: the disk is full;")


def test_a_file_that_the_system_refuses_is_named(typed_and_failing: Typed) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/data/x.csv")
    assert typed_and_failing(error) == (2, "", "error: /data/x.csv: Permission denied\n")


def test_a_bug_is_told_as_a_bug_with_the_command_that_shows_more(typed_and_failing: Typed) -> None:
    exit_code, output, errors = typed_and_failing(KeyError("user"), "describe", "my log.csv")
    assert (exit_code, output) == (1, "")
    assert errors == (
        "error: unexpected KeyError: 'user'; this is a bug in candidfeed, please report what this"
        " prints: candidfeed --debug describe 'my log.csv'\n"
    )


@pytest.mark.parametrize("arguments", [["--debug", "describe"], ["describe", "--debug"]])
def test_debug_shows_the_traceback_before_the_line(
    typed_and_failing: Typed, arguments: list[str]
) -> None:
    exit_code, _, errors = typed_and_failing(DataError("bad row"), *arguments)
    assert exit_code == 2
    assert errors.startswith("Traceback (most recent call last):\n")
    assert errors.endswith("\nerror: bad row\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_an_interrupt_ends_quietly(typed_and_failing: Typed, error: BaseException) -> None:
    assert typed_and_failing(error) == (130, "", "")


def test_an_output_that_nobody_reads_ends_quietly() -> None:
    script = """
import sys
from candidfeed import cli
from candidfeed.cli.output import console
def talk(arguments):
    for _ in range(100_000):
        console.print("a line")
cli._run = talk
sys.exit(cli.main())
"""
    talker = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert talker.stdout is not None
    assert talker.stderr is not None
    with talker:
        assert talker.stdout.readline() == b"a line\n"
        talker.stdout.close()
        assert talker.stderr.read() == b""
    assert talker.returncode == 1


def test_an_error_line_is_wrapped_at_words_on_a_terminal(
    typed_and_failing: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "notes", Console(stderr=True, width=20, force_terminal=True))
    monkeypatch.setenv("TERM", "xterm")
    _, _, errors = typed_and_failing(DataError("one two three four five six"))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", errors)
    assert [line.rstrip() for line in plain.splitlines()] == [
        "error: one two three",
        "four five six",
    ]


# What commands share


def test_ids_and_titles_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.print("[bold]x[/bold] :smile: [/]")
    assert capsys.readouterr().out == "[bold]x[/bold] :smile: [/]\n"


def test_a_progress_bar_leaves_no_trace_where_no_person_sits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress() as bar:
        task = bar.add_task("training", total=3)
        bar.advance(task, 3)
    assert capsys.readouterr() == ("", "")


def test_written_json_is_read_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    content = {"models": {"ease": {"ndcg@10": {"mean": 0.25, "low": None}}}, "name": "é😀"}
    path = tmp_path / "results" / "run.json"
    write_json(path, content)
    assert json.loads(path.read_bytes()) == content
    write_json(path, [1])
    assert json.loads(path.read_bytes()) == [1]
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


def test_json_with_nan_is_refused_with_its_place_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match=r"run\.json: JSON can't hold nan at /models/1/mean"):
        write_json(path, {"models": [{"mean": 1.0}, {"mean": float("nan")}]})
    with pytest.raises(ValueError, match="JSON can't hold -inf at the top"):
        write_json(path, float("-inf"))
    assert json.loads(path.read_bytes()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_json_goes_through_a_link_and_into_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert json.loads((tmp_path / "real.json").read_bytes()) == {"a": 1}
    assert (tmp_path / "link.json").is_symlink()
    reading, writing = os.pipe()
    write_json(Path(f"/dev/fd/{writing}"), {"b": 2})
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert json.loads(pipe.read()) == {"b": 2}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"CANDIDFEED_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, Path("/c")),
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/candidfeed")),
        ({"XDG_CACHE_HOME": ""}, Path.home() / ".cache" / "candidfeed"),
        ({}, Path.home() / ".cache" / "candidfeed"),
    ],
)
def test_the_cache_is_where_the_environment_says(environ: dict[str, str], expected: Path) -> None:
    assert cache_folder(environ) == expected
