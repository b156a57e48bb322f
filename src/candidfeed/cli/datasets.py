"""How a command gets its data set, with progress and the terms of use, and its settings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from candidfeed.cli.output import cache_folder, notes

if TYPE_CHECKING:
    from candidfeed.data.tables import Dataset
    from candidfeed.training.two_stage import TwoStageSettings

Report = Callable[[str, int, int | None], None]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", help="Settings of both stages, a TOML file that `tune` wrote."),
]
CacheFolder = Annotated[Path | None, typer.Option("--cache", help="Folder of fetched data sets.")]


def open_dataset(source: str, *, cache: Path | None) -> "Dataset":
    """Load what the person named; `cache` is the user's own where it is None.

    Raises:
        CandidfeedError: see `data.load.load_dataset`.
    """
    from candidfeed.data.load import claim_licence_notice, load_dataset

    folder = cache or cache_folder()
    with reading(f"reading {source}") as report:
        dataset = load_dataset(source, cache=folder, now=datetime.now(UTC), progress=report)
    if terms := claim_licence_notice(dataset.name, dataset.licence, cache=folder):
        notes.print(terms)
    return dataset


def open_settings(path: Path | None) -> "TwoStageSettings":
    """What the file says, or the defaults where there is none.

    Raises:
        ConfigError: see `training.settings_file.load_settings`.
    """
    from candidfeed.training.settings_file import load_settings
    from candidfeed.training.two_stage import TwoStageSettings

    return TwoStageSettings() if path is None else load_settings(path)


@contextmanager
def reading(label: str) -> Iterator[Report]:
    """A line on standard error while something is read or downloaded, where that is a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[size]}", markup=False),
        TimeElapsedColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    ) as bar:
        task = bar.add_task(label, total=None, size="")

        def report(what: str, done: int, total: int | None) -> None:
            of_all = "" if total is None else f" of {total / 1e6:.1f}"
            size = f"{done / 1e6:.1f}{of_all} MB" if done else ""
            bar.update(task, description=what, completed=done, total=total, size=size)

        yield report
