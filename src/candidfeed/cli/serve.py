"""`candidfeed serve`: the feed service."""

import ipaddress
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from candidfeed.cli.datasets import CacheFolder, SettingsFile
from candidfeed.cli.output import console, notes, require_writable
from candidfeed.errors import ConfigError

StorePlace = Annotated[
    str | None,
    typer.Option(
        help="A SQLite file or postgresql://…; without it store.db in the folder "
        "RELEASES-state beside the releases."
    ),
]


def serve(
    releases: Annotated[
        Path, typer.Argument(help="Folder of releases, as `candidfeed build` writes it.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need keys.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, metavar="N", help="0: any that is free.")
    ] = 8000,
    store: StorePlace = None,
    deadline_ms: Annotated[
        float,
        typer.Option(
            min=1, metavar="MS", help="After so long a feed is answered with what there is."
        ),
    ] = 150.0,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Threads that make feeds in the first process, each those that wait side by side.",
        ),
    ] = 1,
    processes: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Processes that make feeds; each more takes memory of its own."
        ),
    ] = 1,
    waiting: Annotated[
        int, typer.Option(min=1, metavar="N", help="Feeds that may wait; more are refused at once.")
    ] = 32,
    requests_per_s: Annotated[
        float, typer.Option(min=0.001, metavar="N", help="That one API key may make, on average.")
    ] = 2_000.0,
    history_mb: Annotated[
        float,
        typer.Option(
            min=0.001,
            metavar="MB",
            help="Memory for the pasts of users who asked lately; others' are read from the store.",
        ),
    ] = 4.0,
    policy: Annotated[
        Path | None,
        typer.Option(help="A TOML file: diversity, caps, exploration, brake (docs/serving.md)."),
    ] = None,
    sample_features: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Of so many of the feeds keep all that they were made from (`candidfeed replay`).",
        ),
    ] = 0.01,
    key_file: Annotated[
        Path | None,
        typer.Option(help="Write the first API key to this file instead of printing it."),
    ] = None,
    retrain_every: Annotated[
        float | None,
        typer.Option(
            min=0.0001,
            metavar="HOURS",
            help="Hours after which `candidfeed retrain` makes the next release; needs --data.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The data set of the releases, for --retrain-every.")
    ] = None,
    settings: SettingsFile = None,
    cache: CacheFolder = None,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Log one line a request, without ids in clear.")
    ] = False,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask nobody for a key; on this machine only.")
    ] = False,
) -> None:
    """Serve feeds and take events over HTTP, until interrupted.

    The release in force is loaded once; when another is put in force
    (`candidfeed build` into the same folder, `candidfeed rollback`), it is
    swapped without a failed request. At the first start an API key is made
    and shown once. The description of all routes stands at /docs.

    With --retrain-every the next release is made by `candidfeed retrain`, a
    process of its own with the lowest priority, which ends with the service;
    --settings and --cache are handed to it.
    """
    if no_auth and not _is_this_machine(host):
        raise ConfigError(f"--no-auth: {host} can be reached from elsewhere; leave it out")
    if (retrain_every is None) != (data is None):
        raise ConfigError("--retrain-every and --data go together; name both or none")
    require_writable(files=[key_file])
    where = store_of(releases, store)

    from candidfeed.release.storage import open_ahead

    # Before anything else is made or imported for it.
    opening = open_ahead(releases)
    environment = dict(os.environ)
    # Each worker computes on its own thread: XLA's would only hand work to and fro.
    os.environ.setdefault("NPROC", "1")

    from candidfeed.serving.memory import without_collections

    with without_collections():
        from candidfeed.release.functions import compile_ahead

        # Likewise, once JAX is imported.
        ahead = compile_ahead(opening)

        from candidfeed.feed.policy import DEFAULT_POLICY, load_policy
        from candidfeed.serving.journal import all_in
        from candidfeed.serving.server import bound, run, start
        from candidfeed.serving.service import Service
        from candidfeed.serving.settings import ServeSettings
        from candidfeed.store.store import StoreSettings, open_store

        bounds = StoreSettings(n_cached_bytes=round(history_mb * 1e6))
        chosen = ServeSettings(
            deadline_ms=deadline_ms,
            n_workers=workers,
            n_processes=processes,
            n_waiting=waiting,
            requests_per_s=requests_per_s,
            burst=2 * requests_per_s,
            policy=DEFAULT_POLICY if policy is None else load_policy(policy),
            sample_features=sample_features,
            log_requests=log_requests,
        )
        with (
            ExitStack() as last,
            bound(host, port) as listening,
            Service.open(
                releases, open_store(where, settings=bounds), chosen, with_keys=not no_auth
            ) as service,
            all_in(service.journal),
        ):
            _show_first_key(service.first_key(), key_file)

            def ready(address: str) -> None:
                _show_address(address)
                # Once all is closed.
                last.callback(service.journal.write, "stopped")

            if retrain_every is not None:
                command = _retrain_command(releases, data, where, settings, cache)
                service.retrain_every(retrain_every * 3600, command, environment)
            app = start(service, ahead)
            # What was begun is of the first release: it goes with it.
            del ahead
            run(app, listening, ready)


def _retrain_command(
    releases: Path, data: str | None, where: str, settings: Path | None, cache: Path | None
) -> list[str]:
    command = [sys.executable, "-m", "candidfeed", "retrain", str(releases), "--data", str(data)]
    command += ["--store", where, "--attached"]
    for option, path in (("--settings", settings), ("--cache", cache)):
        command += [] if path is None else [option, str(path)]
    return command


def store_of(releases: Path, named: str | None) -> str:
    """Where the service of these releases keeps its state: as named, or beside them."""
    whole = releases.resolve()
    return named or str(whole.with_name(f"{whole.name}-state") / "store.db")


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _show_first_key(key: str | None, key_file: Path | None) -> None:
    if key is None:
        return
    if key_file is None:
        notes.print(f"First API key, shown this once: {key}", soft_wrap=True)
        return
    # Readable by its owner only, from the first moment.
    descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        # Also where the file was there, and others could read it.
        os.fchmod(descriptor, 0o600)
        file.write(f"{key}\n")


def _show_address(address: str) -> None:
    console.print(f"Ready: {address} (described at /docs; stop with Ctrl-C)", soft_wrap=True)
