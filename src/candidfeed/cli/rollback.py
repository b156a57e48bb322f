"""`candidfeed rollback`: the release before this one, in force again."""

from pathlib import Path
from typing import Annotated

import typer

from candidfeed.cli.output import console, write_json


def rollback(
    releases: Annotated[
        Path, typer.Argument(help="Folder of releases, as `candidfeed build` writes it.")
    ],
    json: Annotated[
        Path | None, typer.Option("--json", help="Write what is in force now to this file as JSON.")
    ] = None,
) -> None:
    """Put the release before the one in force in force again.

    A service that serves this folder swaps within a second. Two releases are
    kept, so one step back is possible; the next build keeps the one that is
    in force by then.
    """
    from candidfeed.release.storage import roll_back

    opened = roll_back(releases)
    console.print(f"In force now: {opened.release_id}", soft_wrap=True)
    if json is not None:
        write_json(json, {"release": opened.release_id})
