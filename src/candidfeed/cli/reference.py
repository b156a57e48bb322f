"""`candidfeed reference`: fit a classic model and compare it with what was published of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from candidfeed.cli.datasets import CacheFolder, open_dataset
from candidfeed.cli.output import LogsFolder, console, progress, require_writable, write_json

if TYPE_CHECKING:
    from candidfeed.data.tables import Dataset
    from candidfeed.evaluation.reference_run import ReferenceRun
    from candidfeed.reference.published import Reference

_PUBLISHED_ON = "ml-100k"
_MAX_EPOCHS_SHOWN = 20
_TITLE_WIDTH = 56
_SPARKS = "▁▂▃▄▅▆▇█"
_SHOWN = {
    "retrieval": (
        *(f"top@{k}/seen" for k in (1, 5, 10, 50, 100)),
        "top@100",
        "recall@20",
        "ndcg@10",
    ),
    "rating": ("rmse", "mse", "mae"),
}


def reference(
    name: Annotated[
        str,
        typer.Argument(
            help="tfrs-retrieval, tfrs-ranking, keras-dot, keras-deep or keras-hybrid.",
            metavar="NAME",
        ),
    ],
    dataset: Annotated[
        str, typer.Option("--dataset", help="As for `describe`: a name, file or folder.")
    ] = _PUBLISHED_ON,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", help="How to split; without it as published."),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Repeat with so many seeds; give the mean.")
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The first seed.")] = 42,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Without it as published.")
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", help="Whose titles to show; without it 42, else the first user."),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option("--title", help="Which title's rating to predict for the user."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
    logs: LogsFolder = None,
    cache: CacheFolder = None,
) -> None:
    """Fit a classic model by its published settings and compare the figures."""
    from candidfeed.reference.published import find_reference

    model = find_reference(name)
    if title is not None and model.kind == "retrieval":
        raise typer.BadParameter(f"{name} predicts no ratings", param_hint="--title")

    from candidfeed.data.checks import require_usable

    require_writable(files=[json], folders=[logs])
    data = open_dataset(dataset, cache=cache)
    require_usable(data)

    from candidfeed.evaluation.reference_examples import find_item, find_user
    from candidfeed.evaluation.reference_run import run_reference

    user_id = find_user(data, user)
    item_id = None if title is None else find_item(data, title)
    n_epochs = epochs or model.epochs
    with progress() as bar:
        task = bar.add_task(f"{name}: epochs", total=n_epochs * seeds)
        run = run_reference(
            data,
            model,
            protocol=protocol or model.protocol,
            seed=seed,
            n_seeds=seeds,
            epochs=n_epochs,
            logs=logs,
            on_epoch=lambda: bar.advance(task),
        )
    _print_head(run, seeds)
    _print_curves(run)
    _print_figures(run, as_published=n_epochs == model.epochs)
    _print_example(run, data, user_id, item_id)
    if json is not None:
        write_json(json, run.to_json())


def _print_head(run: "ReferenceRun", n_seeds: int) -> None:
    about, report = run.reference, run.report
    first = report.runs[0]
    seeds = (
        f"seed {first.seed}"
        if n_seeds == 1
        else f"mean of seeds {first.seed} to " + str(first.seed + n_seeds - 1)
    )
    console.print(Text(f"{about.name}: {about.summary}", style="bold"))
    console.print(
        f"{report.dataset}, protocol {report.protocol}, {seeds}; {first.n_test_rows:,} test rows"
    )
    console.print(
        f"{run.model.count_params():,} parameters, fitted in {report.seconds[about.name]:.1f} s"
    )
    console.print(Text(f"Published: {about.source}", style="dim"))


def _print_curves(run: "ReferenceRun") -> None:
    n_epochs = len(run.curves["loss"])
    step = -(-n_epochs // _MAX_EPOCHS_SHOWN)
    shown = [epoch for epoch in range(n_epochs) if (n_epochs - 1 - epoch) % step == 0]
    table = _table("epoch", *run.curves)
    for epoch in shown:
        table.add_row(str(epoch + 1), *(_number(values[epoch]) for values in run.curves.values()))
    table.add_section()
    table.add_row("", *(_sparkline(values) for values in run.curves.values()))
    console.print()
    console.print(table)
    console.print(Text(_what_is_watched(run.reference), style="dim"))


def _what_is_watched(about: "Reference") -> str:
    if about.kind == "retrieval":
        loss = "The loss is summed over a batch, as TFRS prints it. "
    else:
        loss = ""
    if about.validation_share:
        return f"{loss}val_: the last {about.validation_share:.0%} of the train rows, kept out."
    return f"{loss}val_: the test rows, watched only; the authors keep none of train out."


def _print_figures(run: "ReferenceRun", *, as_published: bool) -> None:
    about, report = run.reference, run.report
    comparable = (
        as_published and report.dataset == _PUBLISHED_ON and report.protocol == about.protocol
    )
    table = _table("test", "here", "95 % interval", "published", "difference")
    for metric in _SHOWN[about.kind]:
        found = report.models[about.name].get(metric)
        if found is None:
            continue
        published = about.figures.get(metric) if comparable else None
        table.add_row(
            metric,
            f"{found.mean:.3f}",
            f"{found.low:.3f} - {found.high:.3f}",
            "-" if published is None else f"{published:.3f}",
            "-" if published is None else f"{found.mean - published:+.3f}",
        )
    console.print()
    console.print(table)
    if not comparable:
        console.print(
            Text(
                f"What was published is of {_PUBLISHED_ON}, protocol {about.protocol}, "
                f"{about.epochs} epochs, and is no measure here.",
                style="dim",
            )
        )


def _print_example(
    run: "ReferenceRun", data: "Dataset", user: str | int, item: str | int | None
) -> None:
    from candidfeed.evaluation import reference_examples as examples

    console.print()
    if run.reference.kind == "retrieval":
        console.print(f"First titles for user {_plain(str(user))}:")
        titles = examples.first_titles(run, data, user)
    else:
        pair = examples.expected_rating(run, data, user, item)
        given = f"; they gave {pair.rating:g} (in {pair.part})" if pair.part else ""
        console.print(f"User {_plain(str(user))}, {_plain(pair.title)}:")
        console.print(f"  {pair.predicted:.2f} expected{given}.")
        console.print(f"Best for user {_plain(str(user))} among what they have not rated:")
        titles = examples.best_titles(run, data, user)
    for place, one in enumerate(titles, start=1):
        known = "  (known)" if one.is_known else ""
        console.print(f"{place:>3}  {one.score:7.3f}  {_plain(one.title)}{known}")


def _plain(text: str) -> str:
    """On one line, not too long, and without what would steer the terminal: ids may hold anything.

    Emoji that are joined fall apart, which is harmless.
    """
    kept = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    short = Text(kept)
    short.truncate(_TITLE_WIDTH, overflow="ellipsis")
    return short.plain


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


def _number(value: float) -> str:
    return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"


def _sparkline(values: Sequence[float]) -> str:
    """One block a value, from the least to the greatest; at most _MAX_EPOCHS_SHOWN of them."""
    step = -(-len(values) // _MAX_EPOCHS_SHOWN)
    shown = [values[i] for i in range(len(values)) if (len(values) - 1 - i) % step == 0]
    low, high = min(shown), max(shown)
    scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_SPARKS[round((value - low) * scale)] for value in shown)
