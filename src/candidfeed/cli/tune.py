"""`candidfeed tune`: settings of the ranker, searched on a part of train."""

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from candidfeed.cli.datasets import CacheFolder, open_dataset
from candidfeed.cli.output import console, notes, require_writable, write_json
from candidfeed.extras import import_extra

if TYPE_CHECKING:
    from candidfeed.evaluation.tuning import Tuned


def tune(
    dataset: Annotated[
        str,
        typer.Argument(
            help="ml-100k, a .toml file, or a folder with candidfeed.toml or train.txt."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The file of settings; the study lies beside it."),
    ],
    minutes: Annotated[
        float, typer.Option(min=0, help="Budget of all trials; the one in hand is ended.")
    ] = 10.0,
    protocol: Annotated[
        str | None,
        typer.Option(help="As for `evaluate`; its train part is cut again, its test part unread."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31, help="Seed of the cuts, the models and the search.")
    ] = 42,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write what was found to this file as JSON.")
    ] = None,
    cache: CacheFolder = None,
) -> None:
    """Search better settings of the ranker, and write them for `evaluate` and `build`.

    A study that was killed goes on when the same command is typed again. Where
    nothing is better beyond chance, the file holds the defaults.
    """
    study_file = output.with_name(output.name + ".study")
    require_writable(files=[output, study_file, json])
    import_extra("optuna", extra="tune")
    opened = open_dataset(dataset, cache=cache)
    output.parent.mkdir(parents=True, exist_ok=True)
    with _trials(60 * minutes) as report:
        from candidfeed.data.checks import require_usable
        from candidfeed.evaluation.tuning import tune as search
        from candidfeed.release.storage import replace_file
        from candidfeed.training.settings_file import written

        require_usable(opened)
        found = search(
            opened,
            protocol=protocol,
            seed=seed,
            budget_s=60 * minutes,
            study_file=study_file,
            report=report,
        )
    sentence = _sentence(found)
    replace_file(output, f"# {sentence}\n{written(found.settings)}".encode())
    console.print(sentence)
    console.print(
        f"candidfeed evaluate {shlex.quote(dataset)} --settings {shlex.quote(str(output))}"
    )
    notes.print(f"{found.n_trials} trials, kept in {study_file}")
    if json is not None:
        write_json(json, found.to_json())


@contextmanager
def _trials(budget_s: float) -> Iterator[Callable[[str, float], None]]:
    """A bar of the budget on standard error; one line a trial where it is no terminal."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    started = time.monotonic()
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:3.0f} % of the budget"),
        TimeElapsedColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    ) as bar:
        task = bar.add_task("", total=max(budget_s, 1.0))

        def report(step: str, used_s: float) -> None:
            bar.update(task, description=step, completed=used_s)
            if not notes.is_terminal:
                notes.print(f"{time.monotonic() - started:6.1f} s  {step}")

        yield report


def _sentence(found: "Tuned") -> str:
    """What was gained, in one line."""
    told = f"on {found.n_users} validation users that chose nothing"
    if found.gain is None:
        return f"no trial of {found.n_trials} is better than the defaults"
    gain = found.gain
    interval = f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    if not found.is_gain:
        return f"no gain over the defaults beyond chance: nDCG@10 {interval} {told}"
    return f"nDCG@10 {interval} over the defaults' {found.defaults:.4f} {told}"
