"""`candidfeed synth`: a world whose truth is known, with its log."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from candidfeed.cli.output import console, progress, require_writable, write_json

if TYPE_CHECKING:
    from candidfeed.data.synthetic.files import Written


def read_count(typed: str | int) -> int:
    """A whole number, also as 5e7 or 50_000_000.

    Raises:
        typer.BadParameter: it is no whole number.
    """
    try:
        return int(typed)
    except ValueError:
        pass
    try:
        number = float(typed)
        if number == int(number):
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise typer.BadParameter(f"{typed!r} is no whole number; write one such as 1000000 or 1e6")


def synth(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the world; an older one is replaced.")
    ],
    users: Annotated[
        int, typer.Option(parser=read_count, metavar="N", help="How many users there are.")
    ] = 5_000,
    items: Annotated[
        int, typer.Option(parser=read_count, metavar="N", help="How many items come out.")
    ] = 3_000,
    events: Annotated[
        int, typer.Option(parser=read_count, metavar="N", help="Rows of the log, of all kinds.")
    ] = 300_000,
    seed: Annotated[
        int, typer.Option(parser=read_count, metavar="N", help="The same seed, the same world.")
    ] = 0,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file as JSON.")
    ] = None,
) -> None:
    """Make a synthetic world: a log whose truth is known, for tests at any size.

    The folder is a DATASET of the other commands; its oracle says what is true
    of any user, item and moment (docs/synthetic.md). Sizes may be written as
    1e6.
    """
    require_writable(files=[json], folders=[output])
    started = time.monotonic()
    with progress() as bar:
        from candidfeed.data.synthetic.files import write_world
        from candidfeed.data.synthetic.settings import WorldSettings

        settings = WorldSettings(n_users=users, n_items=items, n_events=events, seed=seed)
        task = bar.add_task("events", total=events)
        written = write_world(
            settings, output, progress=lambda n_events: bar.update(task, completed=n_events)
        )
    took_s = time.monotonic() - started
    _print_written(output, written, took_s)
    if json is not None:
        write_json(json, _figures(written, took_s))


def _figures(written: "Written", took_s: float) -> dict[str, object]:
    settings = written.settings
    return {
        "folder": str(written.folder),
        "seed": settings.seed,
        "n_users": settings.n_users,
        "n_items": settings.n_items,
        "n_events": settings.n_events,
        "n_clusters": settings.n_clusters,
        "kinds": written.kinds,
        "n_parts": written.n_parts,
        "size_bytes": written.size_bytes,
        "seconds": round(took_s, 3),
        "events_per_s": round(settings.n_events / took_s),
    }


def _print_written(output: Path, written: "Written", took_s: float) -> None:
    settings = written.settings
    console.print(f"World {output}", soft_wrap=True)
    console.print(
        f"  users {settings.n_users:,}, items {settings.n_items:,} (clusters "
        f"{settings.n_clusters:,}), seed {settings.seed}"
    )
    told = ", ".join(f"{kind} {n:,}" for kind, n in written.kinds.items())
    console.print(f"  events {settings.n_events:,}: {told}")
    console.print(
        f"  {written.size_bytes / 1e6:,.1f} MB in {took_s:.1f} s, "
        f"{settings.n_events / took_s:,.0f} events/s"
    )
    console.print(f"  candidfeed describe {shlex.quote(str(output))}", soft_wrap=True)
