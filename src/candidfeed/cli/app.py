"""The commands of `candidfeed`, one module each, and the options that stand before them.

All modules of this package are imported for `--help`: what takes long to import (Keras, JAX,
Polars, the models) is imported inside the functions that need it.
"""

from typing import Annotated

import typer

from candidfeed import __version__
from candidfeed.cli import (
    build,
    compare,
    describe,
    erase,
    evaluate,
    fetch,
    load,
    recommend,
    reference,
    replay,
    retrain,
    rollback,
    serve,
    synth,
    tune,
)
from candidfeed.cli.output import console

app = typer.Typer(
    name="candidfeed",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(fetch.fetch)
app.command()(describe.describe)
app.command()(evaluate.evaluate)
app.command()(tune.tune)
app.command()(reference.reference)
app.command()(build.build)
app.command()(compare.compare)
app.command()(recommend.recommend)
app.command()(serve.serve)
app.command()(retrain.retrain)
app.command()(rollback.rollback)
app.command()(replay.replay)
app.command()(erase.erase)
app.command()(synth.synth)
app.command()(load.load)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"candidfeed {__version__}")
        raise typer.Exit


@app.callback()
def candidfeed(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error (may stand anywhere)."),
    ] = False,
) -> None:
    """From a log of what people did to a served, explained, objective two-stage feed."""
