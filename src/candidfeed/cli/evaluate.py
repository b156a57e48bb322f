"""`candidfeed evaluate`: how good both stages are, beside honest baselines."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from candidfeed.cli.datasets import CacheFolder, SettingsFile, open_dataset, open_settings
from candidfeed.cli.output import console, notes, require_writable, steps, write_json
from candidfeed.errors import ConfigError
from candidfeed.extras import import_extra

N_STEPS, N_RETRIEVAL_STEPS = 8, 4
TestUsers = Annotated[
    int,
    typer.Option(
        min=1, help="Test users to ask for; of more, this many are drawn. All items are ranked."
    ),
]


class Stage(StrEnum):
    both = "both"
    retrieval = "retrieval"


def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(
            help="ml-100k, a .toml file, or a folder with candidfeed.toml or train.txt."
        ),
    ],
    protocol: Annotated[
        str | None,
        typer.Option(
            help="temporal, given, random, keras-notebook, per-user-last, leave-last-one, "
            "item-cold, microsoft or recbole; the first of these that the data set allows, "
            "unless named."
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**31, help="First seed: of the split and of the models."),
    ] = 42,
    seeds: Annotated[
        int, typer.Option(min=1, help="Repeat with this many seeds and give the mean.")
    ] = 1,
    stage: Annotated[
        Stage,
        typer.Option(help="retrieval: stage one and its baselines only, which is far quicker."),
    ] = Stage.both,
    settings: SettingsFile = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            min=1, help="Items that retrieval hands to the ranker; 500, or what --settings says."
        ),
    ] = None,
    users: TestUsers = 50_000,
    references: Annotated[
        bool,
        typer.Option(
            "--references",
            help="Also fit LightGBM and myFM, which the extra candidfeed[references] brings.",
        ),
    ] = False,
    plots: Annotated[
        Path | None,
        typer.Option("--plots", help="Write a reliability plot (SVG) of each head to this folder."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file as JSON.")
    ] = None,
    cache: CacheFolder = None,
) -> None:
    """Train both stages and all baselines, and measure them on the same held-out rows."""
    require_writable(files=[json], folders=[plots])
    _check_references(references, stage)
    if plots is not None and stage is Stage.retrieval:
        raise ConfigError("--plots are of the ranker's heads; drop --stage retrieval")
    opened = open_dataset(dataset, cache=cache)
    n_steps = N_RETRIEVAL_STEPS if stage is Stage.retrieval else N_STEPS + references
    with steps(n_steps * seeds) as report:
        from candidfeed.data.checks import require_usable
        from candidfeed.evaluation.report import report_view
        from candidfeed.evaluation.run import evaluate as run
        from candidfeed.evaluation.run import evaluate_retrieval

        wanted = open_settings(settings)
        if candidates is not None:
            wanted = replace(wanted, n_candidates=candidates)
        require_usable(opened)
        asked = {
            "protocol": protocol, "seed": seed, "n_seeds": seeds, "max_users": users,
            "report": report,
        }  # fmt: skip
        if stage is Stage.retrieval:
            summary, left_out = evaluate_retrieval(opened, settings=wanted.stage_one, **asked)
        else:
            summary, evaluations = run(opened, settings=wanted, references=references, **asked)
            left_out = evaluations[0].left_out
    console.print(report_view(summary))
    for name, why in left_out.items():
        notes.print(f"{name} is left out: {why}")
    # Last: what took minutes is on the screen even where the file can't be written.
    if json is not None:
        write_json(json, summary.to_json())
    if plots is not None:
        from candidfeed.evaluation.plots import write_reliability_plots

        for path in write_reliability_plots(plots, summary.calibration):
            notes.print(f"plot: {path}")


def _check_references(references: bool, stage: Stage) -> None:
    """Refuse before the work of minutes what it would end in.

    Raises:
        ConfigError: a package is missing, or there is nothing to stand beside.
    """
    if not references:
        return
    if stage is Stage.retrieval:
        raise ConfigError("--references stand beside the ranker; drop --stage retrieval")
    import_extra("lightgbm", extra="references")
    import_extra("myfm", extra="references")
