"""The command line: it runs the command that was typed and turns errors into words."""

import errno
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence

import typer
from rich.text import Text

from candidfeed.cli.output import notes
from candidfeed.errors import CandidfeedError

_INTERRUPTED = 130
_LONGEST_MESSAGE = 2_000


def main() -> int:
    """Run the command that was typed; the exit code.

    0: done. 1: a check failed, nobody reads the output any more, or candidfeed has a bug.
    2: wrong usage or input, or the disk is full. 130: interrupted.
    """
    _tolerate_unprintable_characters()
    arguments, debug = _take_debug(sys.argv[1:])
    try:
        _run(arguments)
        sys.stdout.flush()
    except typer.Exit as ending:
        return ending.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return 1
    except Exception as error:  # noqa: BLE001 - the one place where any error becomes words
        if debug:
            traceback.print_exception(error)
        message, exit_code = _explain(error, arguments)
        _print_error(message)
        return exit_code
    return 0


def _run(arguments: Sequence[str]) -> None:
    # Here, so that a command's module can be imported without all the others.
    from candidfeed.cli.app import app

    command = typer.main.get_command(app)
    with command.make_context("candidfeed", list(arguments)) as context:
        command.invoke(context)


def _take_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without `--debug`, which may stand before or after the command's name."""
    without = [argument for argument in arguments if argument != "--debug"]
    return without, len(without) < len(arguments)


def _explain(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    """What a person is told of an error, and the exit code."""
    if isinstance(error, CandidfeedError):
        return str(error), error.exit_code
    if isinstance(error, typer.TyperException):
        return _usage_message(error), error.exit_code
    if any(map(_says_disk_full, _causes(error))):
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        return f"the disk is full{where}; free some space and run the command again", 2
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}", 2
    again = shlex.join(["candidfeed", "--debug", *arguments])
    return (
        f"unexpected {type(error).__name__}: {error}; this is a bug in candidfeed,"
        f" please report what this prints: {again}",
        1,
    )


def _usage_message(error: typer.TyperException) -> str:
    """Empty where nothing at all was typed: then the help has been printed already."""
    message = error.format_message().strip().rstrip(".")
    if not message:
        return ""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "candidfeed"
    return f"{message[:1].lower()}{message[1:]} (see '{path} --help')"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _says_disk_full(error: BaseException) -> bool:
    """Whether it is the system's "disk full", also as a library written in C or Rust words it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return os.strerror(errno.ENOSPC) in str(error)


def _print_error(message: str) -> None:
    """One line where a program reads it; wrapped at words where a person sits."""
    line = " ".join(message.split())
    if not line:
        return
    if len(line) > _LONGEST_MESSAGE:
        # What to do stands at the end; what is long stands between.
        line = f"{line[: _LONGEST_MESSAGE // 2]} … {line[-_LONGEST_MESSAGE // 2 :]}"
    # An id may hold what would steer the terminal.
    shown = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line
    )
    text = Text.assemble(("error: ", "bold red"), shown)
    notes.print(text, soft_wrap=not notes.is_terminal)


def _tolerate_unprintable_characters() -> None:
    """Ids may hold what the terminal's encoding has no letter for: print a mark and go on."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="replace")


def _forget_output() -> None:
    """Nobody reads standard output any more: what is left in its buffer goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
