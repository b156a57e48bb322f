"""`candidfeed erase`: a user is erased, or proved to be gone."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from candidfeed.cli.datasets import CacheFolder, open_dataset
from candidfeed.cli.output import console, require_writable, write_json
from candidfeed.cli.serve import StorePlace, store_of
from candidfeed.errors import ReleaseError, StoreError


def erase(
    releases: Annotated[
        Path, typer.Argument(help="Folder of releases, as `candidfeed build` writes it.")
    ],
    user_id: Annotated[str, typer.Argument(help="Who; a number and its text are one.")],
    store: StorePlace = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Erase nothing; look wherever the user could be. 1: they were found."
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="With --check: also look into this data set. It is yours: what is found there is "
            "told, and changes no exit code."
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="Write what was done or found to this file as JSON."),
    ] = None,
    cache: CacheFolder = None,
) -> None:
    """Erase a user from the store, or prove that they are gone.

    It is what DELETE /v1/users/{id} does, for a store that no service holds: a
    running service holds its SQLite file, and must be asked itself. From
    releases they are gone with the next `candidfeed retrain`, which leaves
    out whoever was erased and removes older releases that hold them.
    """
    require_writable(files=[json])
    where = store_of(releases, store)
    if check:
        _check(releases, user_id, where, data=data, json=json, cache=cache)
        return

    from candidfeed.store.store import open_store

    # A store that is not there is not made, only to forget somebody in it.
    open_store(where, read_only=True).close()
    try:
        opened = open_store(where)
    except StoreError as error:
        raise StoreError(f"{error}; a running service erases by DELETE /v1/users/{{id}}") from error
    with opened:
        erasure = opened.delete_user(user_id, time.time())
    console.print(
        f"Erased: {erasure.n_events:,} events and {erasure.n_slates:,} slates; from releases they"
        " are gone with the next `candidfeed retrain`",
        soft_wrap=True,
    )
    if json is not None:
        write_json(json, asdict(erasure))


def _check(
    releases: Path,
    user_id: str,
    where: str,
    *,
    data: str | None,
    json: Path | None,
    cache: Path | None,
) -> None:
    from candidfeed.release.erased import traces_of
    from candidfeed.store.store import open_store

    if not releases.is_dir():
        raise ReleaseError(f"{releases}: there is no such folder; name the folder of releases")
    with open_store(where, read_only=True) as opened:
        traces = list(traces_of(user_id, releases=releases, store=opened, where=where))
        is_erased = opened.is_erased(user_id)
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for heading in ("where", "looked at", "found"):
        table.add_column(heading, justify="right" if heading == "found" else "left")
    for one in traces:
        table.add_row(Text(one.place), Text(one.looked_at), f"{one.n_found:,}")
    console.print(table)
    n_found = sum(one.n_found for one in traces)
    console.print(
        f"{'still there' if n_found else 'gone'}; the store {'refuses' if is_erased else 'takes'}"
        " what comes of this id"
    )
    in_data = None if data is None else _n_events(data, user_id, cache)
    if in_data:
        console.print(
            f"{data}: {in_data:,} events are still in your own log, which is not ours to change;"
            " `candidfeed retrain` leaves them out",
            soft_wrap=True,
        )
    if json is not None:
        found = {"is_erased": is_erased, "n_found": n_found, "n_events_in_data": in_data}
        write_json(json, {**found, "traces": [asdict(one) for one in traces]})
    if n_found:
        raise typer.Exit(1)


def _n_events(data: str, user_id: str, cache: Path | None) -> int:
    events = open_dataset(data, cache=cache).events
    return int((events["user_id"].cast(str) == user_id).sum())
