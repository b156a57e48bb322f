"""What all commands share: how they print, show progress, write results and find the cache."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from candidfeed.errors import ConfigError
from candidfeed.release.storage import replace_file

# Ids and titles are printed as they are: "[bold]" in one of them is not markup.
console = Console(markup=False, emoji=False, highlight=False)
notes = Console(markup=False, emoji=False, highlight=False, stderr=True)

LogsFolder = Annotated[
    Path | None, typer.Option("--logs", help="Write TensorBoard files to this folder.")
]


def progress() -> Progress:
    """A bar on standard error with count and remaining time; nothing where that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    )


@contextmanager
def steps(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on standard error that names the step in hand; one line a step where it is no terminal.

    Yields a function to be called with the name of each step as it begins.
    """
    started = time.monotonic()
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    ) as bar:
        task = bar.add_task("", total=total)
        begun = 0

        def report(step: str) -> None:
            nonlocal begun
            bar.update(task, description=step, completed=begun)
            begun += 1
            if not notes.is_terminal:
                notes.print(f"{time.monotonic() - started:6.1f} s  {step}")

        yield report


def write_json(path: Path, content: object) -> None:
    """Write `content` to a file as one step, so that nobody finds half of it.

    Folders above the file are made. What is no plain file, such as `/dev/stdout`, is written to.

    Raises:
        ValueError: a number in `content` is NaN or infinite, which JSON has no word for.
        OSError: the file can't be written.
    """
    not_finite = _first_not_finite(content, "")
    if not_finite:
        raise ValueError(f"{path}: JSON can't hold {not_finite}")
    encoded = json.dumps(content, ensure_ascii=False, indent=2).encode() + b"\n"
    if path.exists() and not path.is_file():
        path.write_bytes(encoded)
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, encoded)


def require_writable(
    *, files: Sequence[Path | None] = (), folders: Sequence[Path | None] = ()
) -> None:
    """Refuse what could not be written in the end, before work of minutes; nothing is written.

    Args:
        files: to be written or replaced, each with the folders above it; None is passed over.
        folders: to be made or written to, likewise.

    Raises:
        ConfigError: a folder stands where a file should, or the reverse, or writing is not allowed.
    """
    for path in filter(None, files):
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; name a file to write")
        _require_writable_above(path)
    for path in filter(None, folders):
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path}: is a file; name a folder to write to")
        _require_writable_above(path)


def _require_writable_above(path: Path) -> None:
    """Looks at the path itself, or where it is not there at the nearest folder above that is."""
    # A pipe behind /dev/stdout has no path of its own.
    real = path if path.exists() else Path(os.path.realpath(path))
    there = next(one for one in (real, *real.parents) if one.exists())
    if there != real and not there.is_dir():
        raise ConfigError(f"{path}: can't be written, for {there} is a file; name another place")
    # A file is replaced as a whole: its folder must be open too.
    asked = [there, Path(os.path.realpath(there)).parent] if there.is_file() else [there]
    if not all(os.access(one, os.W_OK) for one in asked):
        raise ConfigError(f"{path}: can't be written (no permission); name another place")


def _first_not_finite(content: object, place: str) -> str | None:
    """Where the first NaN or infinity stands and what it is; None where all numbers are finite."""
    if isinstance(content, float) and not math.isfinite(content):
        return f"{content} at {place or 'the top'}"
    pairs = ()
    if isinstance(content, Mapping):
        pairs = content.items()
    elif isinstance(content, list | tuple):
        pairs = enumerate(content)
    found = (_first_not_finite(value, f"{place}/{key}") for key, value in pairs)
    return next((place for place in found if place), None)


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where fetched data sets are kept: by the XDG rules, or where `CANDIDFEED_CACHE` says."""
    if chosen := environ.get("CANDIDFEED_CACHE"):
        return Path(chosen)
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "candidfeed"
