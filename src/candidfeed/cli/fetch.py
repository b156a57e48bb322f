"""`candidfeed fetch`: download a public data set once."""

from pathlib import Path
from typing import Annotated

import typer

from candidfeed.cli.datasets import reading
from candidfeed.cli.output import cache_folder, console, notes, write_json
from candidfeed.errors import ConfigError


def fetch(
    dataset: Annotated[str, typer.Argument(help="The data set to fetch: ml-100k.")],
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder to keep it in, in place of the user's own cache."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Fetch it anew even if it is there.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write what was fetched to this file as JSON.")
    ] = None,
) -> None:
    """Download a public data set, check it, and keep it for work without a network."""
    from candidfeed.data.load import claim_licence_notice
    from candidfeed.data.movielens import LICENCE, NAME, fetch_ml_100k, read_manifest

    if dataset != NAME:
        raise ConfigError(f"{dataset!r} can't be fetched; there is: {NAME}")
    kept_in = cache or cache_folder()
    told: list[str] = []
    with reading(f"fetching {dataset}") as report:

        def follow(what: str, done: int, total: int | None) -> None:
            told.append(what)
            report(what, done, total)

        folder = fetch_ml_100k(kept_in, force=force, progress=follow)
    manifest = read_manifest(folder)
    console.print(
        f"{dataset}: {'fetched' if told else 'was cached already; --force fetches it anew'}"
    )
    console.print(f"  source  {manifest['source']}")
    console.print(f"  sha256  {manifest['source_sha256']}", soft_wrap=True)
    console.print(f"  folder  {folder}", soft_wrap=True)
    for name, sha256 in manifest["files"].items():
        console.print(f"{name:>13} {sha256}", soft_wrap=True)
    if terms := claim_licence_notice(NAME, LICENCE, cache=kept_in):
        notes.print(terms)
    if json is not None:
        write_json(
            json, {"dataset": dataset, "folder": str(folder), "cached": not told, **manifest}
        )
