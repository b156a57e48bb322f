"""`candidfeed replay`: feeds made again from what was kept of them."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from candidfeed.cli.output import console, notes, progress, require_writable, write_json
from candidfeed.cli.serve import StorePlace, store_of

if TYPE_CHECKING:
    from candidfeed.cli.replay_run import Replayed

# Of more there is the count, and the JSON file.
_MOST_TOLD = 10


def replay(
    releases: Annotated[
        Path, typer.Argument(help="Folder of releases, as `candidfeed build` writes it.")
    ],
    store: StorePlace = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many feeds, the latest.")] = 1_000,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the outcome to this file as JSON.")
    ] = None,
) -> None:
    """Make feeds again that were served, and compare them to the last bit.

    Of a share of the feeds (`serve --sample-features`) the store keeps all
    that they were made from. Each is made again with the release that
    answered; what the ranker read of its slots is made again from the log, by
    the code of training. Exit code 1: something differs. The store is only
    read, beside the service that writes it.
    """
    require_writable(files=[json])
    # As `serve` computes: with more threads sums may have other last bits.
    os.environ.setdefault("NPROC", "1")

    from candidfeed.cli.replay_run import replay_latest
    from candidfeed.store.store import open_store

    with open_store(store_of(releases, store), read_only=True) as opened, progress() as bar:
        task = bar.add_task("replay")
        outcome = replay_latest(
            releases, opened, n, report=lambda done, of: bar.update(task, completed=done, total=of)
        )
    _print(outcome)
    if json is not None:
        write_json(json, asdict(outcome))
    if outcome.differing:
        raise typer.Exit(1)


def _print(outcome: "Replayed") -> None:
    console.print(
        f"Made again: {outcome.n_slates:,} feeds, {outcome.n_same:,} to the last bit the same"
    )
    console.print(
        f"Features made again as training makes them: of {outcome.n_features:,} feeds, "
        f"{outcome.n_same_features:,} to the last bit the same",
        soft_wrap=True,
    )
    if outcome.n_gone:
        console.print(f"Left out: {outcome.n_gone:,} feeds of releases that are not kept any more")
    if outcome.n_other_past:
        console.print(
            f"Left out of the second: {outcome.n_other_past:,} feeds whose user's events came late,"
            " ahead of time or from the client",
            soft_wrap=True,
        )
    for one in outcome.differing[:_MOST_TOLD]:
        named = ", ".join(sorted({difference.name for difference in one.differences}))
        notes.print(f"{one.request_id} of {one.release_id}: {named}", soft_wrap=True)
    if (more := len(outcome.differing) - _MOST_TOLD) > 0:
        notes.print(f"and {more:,} more")
