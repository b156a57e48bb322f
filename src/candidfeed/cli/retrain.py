"""`candidfeed retrain`: what the service has logged becomes the next release."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from candidfeed.cli.build import N_STEPS, ReportProtocol, print_built, print_release
from candidfeed.cli.datasets import CacheFolder, SettingsFile, open_dataset, open_settings
from candidfeed.cli.evaluate import TestUsers
from candidfeed.cli.output import notes, require_writable, steps, write_json
from candidfeed.cli.serve import StorePlace, store_of
from candidfeed.errors import GateError

if TYPE_CHECKING:
    from candidfeed.release.join import Joined
    from candidfeed.release.store_log import StoreLog

# What serves comes first: of two that want the same core, this one gets a seventieth.
_NICE = 19
_THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")


def retrain(
    releases: Annotated[
        Path, typer.Argument(help="Folder of releases, as `candidfeed build` writes it.")
    ],
    data: Annotated[str, typer.Option(help="The data set that the release in force was made of.")],
    store: StorePlace = None,
    window: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Hours within which an event is put down to what was shown; without it as the "
            "data set says (attribution_s).",
        ),
    ] = None,
    protocol: ReportProtocol = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and of the models.")] = 42,
    settings: SettingsFile = None,
    users: TestUsers = 50_000,
    force: Annotated[
        bool,
        typer.Option("--force", help="Publish it even if it is significantly worse, as `build`."),
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Most threads that it computes with; else all cores.")
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write what was joined, and the outcome, to this file as JSON."
        ),
    ] = None,
    cache: CacheFolder = None,
    attached: Annotated[
        bool,
        typer.Option("--attached", help="End when standard input is closed; for who starts it."),
    ] = False,
) -> None:
    """Join what the service has logged to its data set, build, and publish.

    Slates become impressions, events become feedback, what was put stands in
    the tables, and whoever was erased is in none of it. The release goes
    through the same gate as that of `candidfeed build` (exit code 1 where it
    is worse); a service swaps to it within a second.

    The store is only read, beside the service that writes it, and the
    priority is the lowest, so that feeds come first.
    """
    started = time.monotonic()
    os.nice(_NICE)
    if threads is not None:
        os.environ |= dict.fromkeys(_THREADS, str(threads))
    if attached:
        threading.Thread(target=_end_with_input, daemon=True).start()
    require_writable(files=[json], folders=[releases])
    opened = open_dataset(data, cache=cache)

    from candidfeed.release.retrain import require_same_dataset
    from candidfeed.release.retrain import retrain as run
    from candidfeed.store.store import open_store

    told: dict[str, Any] = {"joined": None}

    def tell(log: "StoreLog", joined: "Joined") -> None:
        told["joined"] = _as_json(joined)
        for line in _lines(log, joined):
            notes.print(line, soft_wrap=True)

    require_same_dataset(releases, opened.name)
    try:
        with open_store(store_of(releases, store), read_only=True) as reading:
            with steps(N_STEPS + 1) as report:
                built = run(
                    opened,
                    reading,
                    releases,
                    window_s=None if window is None else window * 3600,
                    now=datetime.now(UTC),
                    protocol=protocol,
                    seed=seed,
                    settings=open_settings(settings),
                    max_users=users,
                    force=force,
                    tell=tell,
                    report=report,
                    note=notes.print,
                )
    except GateError as error:
        if json is not None:
            write_json(json, {"outcome": "refused", "why": str(error), **told})
        raise
    if json is not None:
        published = {"outcome": "published", "release": built.opened.release_id}
        write_json(json, {**published, **told, "report": built.report.to_json()})
    print_built(built)
    print_release(releases, built, time.monotonic() - started)


def _lines(log: "StoreLog", joined: "Joined") -> Iterator[str]:
    """What was joined, and what was not and why."""
    if log.is_empty:
        yield "the store is empty: this is the data set alone"
    else:
        yield (
            f"joined: {joined.n_events:,} of {len(log.events):,} events; {joined.n_impressions:,} "
            f"impressions of {log.n_slates:,} slates, with feedback of {joined.n_answered:,} events"
        )
    changed = {
        "items put": joined.n_put_items,
        "items deleted": joined.n_deleted,
        "users put": joined.n_put_users,
        "users of the data set erased": joined.n_erased,
    }
    if any(changed.values()):
        yield "tables: " + ", ".join(f"{n:,} {what}" for what, n in changed.items() if n)
    if log.n_slates_of_nobody:
        yield f"left out: {log.n_slates_of_nobody:,} slates of nobody in particular"
    if log.n_unread:
        yield f"left out: {log.n_unread:,} slates that this version can't read"
    for reason, (n, first) in joined.left_out.items():
        yield f"left out: {n:,} x {reason}; first: {first}"
    yield from joined.notes


def _as_json(joined: "Joined") -> dict[str, Any]:
    return {
        "n_events": joined.n_events,
        "n_impressions": joined.n_impressions,
        "n_answered": joined.n_answered,
        "n_put_items": joined.n_put_items,
        "n_deleted_items": joined.n_deleted,
        "n_put_users": joined.n_put_users,
        "n_erased_users": joined.n_erased,
        "left_out": {reason: n for reason, (n, _) in joined.left_out.items()},
        "notes": joined.notes,
    }


def _end_with_input() -> None:
    """Whoever started this holds the other end of the pipe; it closes with them, killed or not."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
