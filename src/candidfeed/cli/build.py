"""`candidfeed build`: train both stages, measure them, and make a release."""

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from candidfeed.cli.datasets import CacheFolder, SettingsFile, open_dataset, open_settings
from candidfeed.cli.evaluate import N_STEPS as EVALUATE_STEPS
from candidfeed.cli.evaluate import TestUsers
from candidfeed.cli.output import LogsFolder, console, notes, require_writable, steps, write_json

if TYPE_CHECKING:
    from candidfeed.release.build import Built

# Those of `evaluate`; then candidates and both fits for the release, the export and the writing.
N_STEPS = EVALUATE_STEPS + 5
ReportProtocol = Annotated[
    str | None,
    typer.Option(
        help="How to split for the report, as for `evaluate`; the release itself learns from "
        "every row."
    ),
]


def build(
    dataset: Annotated[
        str,
        typer.Argument(
            help="ml-100k, a .toml file, or a folder with candidfeed.toml or train.txt."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder of the release; an older one there is kept."),
    ],
    protocol: ReportProtocol = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and of the models.")] = 42,
    settings: SettingsFile = None,
    users: TestUsers = 50_000,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Publish it even if it is significantly worse than the live release or "
            "popularity; its manifest says so.",
        ),
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file as JSON.")
    ] = None,
    logs: LogsFolder = None,
    cache: CacheFolder = None,
) -> None:
    """Train both stages, measure them beside honest baselines, and make a release.

    The report comes from models that never saw the test rows; the release is
    then fitted anew on all rows. Until it is whole, a release that was in the
    folder stays in force. A build that was killed while a large catalogue's
    model was trained goes on after its last epoch when it is started again.

    A release that is significantly worse than the one in the folder on the
    same test rows, or than popularity, is not published (exit code 1).
    """
    started = time.monotonic()
    require_writable(files=[json], folders=[output, logs])
    opened = open_dataset(dataset, cache=cache)
    with steps(N_STEPS) as report:
        from candidfeed.release.build import build_release

        built = build_release(
            opened,
            output,
            protocol=protocol,
            seed=seed,
            settings=open_settings(settings),
            max_users=users,
            force=force,
            report=report,
            note=notes.print,
        )
    print_built(built)
    if json is not None:
        write_json(json, built.report.to_json())
    if logs is not None:
        _write_curves(logs, built.curves)
    print_release(output, built, time.monotonic() - started)


def print_built(built: "Built") -> None:
    """The report of a release, and what is not in it."""
    from candidfeed.evaluation.report import report_view

    console.print(report_view(built.report))
    for name, why in built.left_out.items():
        notes.print(f"{name} is left out: {why}")


def print_release(output: Path, built: "Built", took_s: float) -> None:
    """Where it lies, and how to read it."""
    console.print()
    console.print(Text(f"Release {output}", style="bold"), soft_wrap=True)
    about = f"{built.opened.release_id}, {built.size_bytes / 1e6:.1f} MB"
    console.print(f"  {about}, built in {took_s:.0f} s")
    console.print(f"  candidfeed recommend {shlex.quote(str(output))} --user ID", soft_wrap=True)


def _write_curves(folder: Path, curves: Mapping[str, Mapping[str, list[float]]]) -> None:
    """One TensorBoard run a stage, with the figures of each epoch.

    A curve that is longer than the others begins before the first epoch, at 0.
    """
    from candidfeed.reference.logs import TensorBoardLogs

    for stage, figures in curves.items():
        n_epochs = min(map(len, figures.values()), default=0)
        n_before = max(map(len, figures.values()), default=0) - n_epochs
        written = TensorBoardLogs(folder / stage)
        written.on_train_begin()
        for epoch in range(-n_before, n_epochs):
            from_end = epoch - n_epochs
            known = {name: one[from_end] for name, one in figures.items() if len(one) >= -from_end}
            written.on_epoch_end(epoch, known)
        written.on_train_end()
