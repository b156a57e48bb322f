"""`candidfeed load`: ask a feed service as its users would, and tell how it held."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from candidfeed.cli.output import console, progress, require_writable, write_json
from candidfeed.cli.synth import read_count

if TYPE_CHECKING:
    from candidfeed.serving.load.clicks import Clicks
    from candidfeed.serving.load.people import People

_SPREAD = ("p50", "p95", "p99", "p99.9", "max")


def load(
    url: Annotated[str, typer.Argument(help="The service, such as http://127.0.0.1:8000.")],
    key: Annotated[
        str | None,
        typer.Option(
            "--key", envvar="CANDIDFEED_KEY", help="API key with the scopes feed and events."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="World of `candidfeed synth`: its users ask as often as in its log, and click by "
            "its truth.",
        ),
    ] = None,
    users_file: Annotated[
        Path | None,
        typer.Option("--users-file", help="Who asks: one id a line; twice there, twice as often."),
    ] = None,
    users: Annotated[
        int,
        typer.Option(
            parser=read_count,
            metavar="N",
            help="Else who asks: users 0 to N - 1, user u in proportion to 1 / (u + 1).",
        ),
    ] = 1_000,
    rate: Annotated[
        float, typer.Option(min=0.1, max=20_000, help="Requests a second; the first of a peak.")
    ] = 50.0,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="How long; each step of a peak.")
    ] = 10.0,
    warm_up: Annotated[
        float,
        typer.Option("--warm-up", min=0, max=3_600, help="Seconds before, which are not counted."),
    ] = 2.0,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Slots asked for.")] = 20,
    events_share: Annotated[
        float,
        typer.Option(
            "--events-share", min=0, max=1, help="Share of the requests that report clicks."
        ),
    ] = 0.2,
    batch: Annotated[
        int, typer.Option(min=1, max=1_000, help="The most clicks of one such request.")
    ] = 50,
    in_flight: Annotated[
        int | None,
        typer.Option(
            "--in-flight",
            min=1,
            max=500,
            help="So many requests at a time, each after the answer to the one before, not a rate.",
        ),
    ] = None,
    find_peak: Annotated[
        bool,
        typer.Option("--find-peak", help="Search the highest rate with p99 within 50 ms."),
    ] = False,
    overload: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=20,
            help="Then ask so many times the peak, and the peak again (with --find-peak).",
        ),
    ] = None,
    connections: Annotated[
        int, typer.Option(min=1, max=500, help="The most connections at once.")
    ] = 256,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.01, max=600, help="Seconds until an answer fails.")
    ] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of arrivals, users and clicks.")] = 0,
    not_loopback: Annotated[
        bool,
        typer.Option("--yes-not-loopback", help="The service is mine, and not on this machine."),
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file as JSON.")
    ] = None,
) -> None:
    """Put a feed service under load, and tell how it held.

    Requests arrive by a schedule made beforehand (a Poisson process), whether
    or not those before them are answered, and latency counts from when each
    was due: a stall shows in all requests that it kept waiting. Exit code 1
    where any request failed otherwise than by a refusal (429, 503).
    """
    require_writable(files=[json])
    if data is not None and users_file is not None:
        raise typer.BadParameter("name one of --data and --users-file", param_hint="--users-file")

    import numpy as np

    from candidfeed.serving.load.drive import run
    from candidfeed.serving.load.service import read_url
    from candidfeed.serving.load.session import Plan, measure
    from candidfeed.serving.load.traffic import Traffic

    service = read_url(url, loopback_only=not not_loopback)
    plan = Plan(
        rate_per_s=rate,
        seconds=seconds,
        warm_up_s=warm_up,
        n_in_flight=in_flight,
        find_peak=find_peak,
        overload=overload,
        n_connections=connections,
        timeout_s=timeout,
        key=key,
    )
    people, clicks, now_s = _people(data, users_file, users)
    rng = np.random.default_rng(seed)
    traffic = Traffic(
        people,
        clicks,
        limit=limit,
        events_share=events_share,
        batch=batch,
        rng=rng,
        run_name=secrets.token_hex(6),
        now_s=now_s,
    )
    with progress() as bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done_s: float, total_s: float) -> None:
            bar.update(task, description=what, completed=round(done_s), total=round(total_s))

        figures = run(measure(service, traffic, plan, rng, progress=tell))
    _print_figures(str(service), figures)
    if json is not None:
        asked = {"url": str(service), "limit": limit, "events_share": events_share, "batch": batch}
        write_json(json, {**asked, **figures})
    if figures["n_failed"]:
        raise typer.Exit(1)


def _people(
    data: Path | None, users_file: Path | None, n_users: int
) -> tuple["People", "Clicks", Callable[[], float] | None]:
    """Who asks, what they click, and what time it is for them; None: the service's own."""
    from candidfeed.serving.load.clicks import ClicksByPosition, ClicksOfWorld
    from candidfeed.serving.load.people import people_by_zipf, people_of_file, people_of_world

    if data is None:
        people = people_of_file(users_file) if users_file else people_by_zipf(n_users)
        return people, ClicksByPosition(), None

    from candidfeed.data.synthetic.oracle import Oracle

    oracle = Oracle.open(data)
    started = time.monotonic()
    # The world's log ends in its own past: from there its time goes on.
    return (
        people_of_world(oracle),
        ClicksOfWorld(oracle),
        lambda: oracle.end_s + time.monotonic() - started,
    )


def _print_figures(service: str, figures: dict[str, Any]) -> None:
    if "steps" in figures:
        _print_steps(figures)
    if "run" in figures:
        run = figures["run"]
        how = (
            f"{run['n_in_flight']} in flight"
            if "n_in_flight" in run
            else f"{run['asked_per_s']:,.1f} requests/s asked"
        )
        _print_run(f"{service}: {how}", run)
    if "overload" in figures:
        over = figures["overload"]
        _print_run(
            f"Overload: {over['asked_per_s']:,.1f} requests/s asked, goodput "
            f"{figures['goodput_share']:.0%} of the peak's",
            over,
        )
    events = figures["events"]
    if events["n_sent"]:
        console.print(
            f"Events sent {events['n_sent']:,}, acknowledged {events['n_acknowledged']:,} "
            f"(duplicate {events['n_duplicates']:,}), rejected {events['n_rejected']:,}"
        )
    if figures["n_failed"]:
        console.print(f"Failed requests: {figures['n_failed']:,}")


def _print_steps(figures: dict[str, Any]) -> None:
    table = _table("asked/s", "good/s", "p50 ms", "p99 ms", "refused", "failed", "holds")
    for step in figures["steps"]:
        table.add_row(
            f"{step['rate_per_s']:,.1f}",
            f"{step['good_per_s']:,.1f}",
            _number(step["p50_ms"]),
            _number(step["p99_ms"]),
            f"{step['n_refused']:,}",
            f"{step['n_failed']:,}",
            "yes" if step["holds"] else "no",
        )
    console.print(table)
    peak = figures["peak_per_s"]
    told = "no rate holds" if peak is None else f"{peak:,.1f} requests/s"
    console.print(f"Peak with p99 within 50 ms: {told}")


def _print_run(heading: str, run: dict[str, Any]) -> None:
    console.print(f"{heading}, {run['good_per_s']:,.1f} answered well, {run['seconds']:.1f} s")
    table = _table("", "n", "/s", *(f"{name} ms" for name in _SPREAD))
    for kind in ("feed", "events"):
        one = run[kind]
        if one["n"]:
            rate = f"{one['good_per_s']:,.1f}"
            table.add_row(kind, f"{one['n_good']:,}", rate, *_cells(one["latency_ms"]))
        if one["n_refused"]:
            table.add_row("  refused", f"{one['n_refused']:,}", "", *_cells(one["refused_ms"]))
            sent = _cells(one["refused_after_sending_ms"])
            table.add_row("    from sending", "", "", *sent)
    if run["client_late_ms"]:
        table.add_row("sent late", "", "", *_cells(run["client_late_ms"]))
    console.print(table)
    for name in ("answers", "degraded", "releases", "slots"):
        if run[name]:
            each = ", ".join(f"{one} {n:,}" for one, n in run[name].items())
            console.print(f"{name}: {each}")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    return table


def _cells(spread: dict[str, float] | None) -> list[str]:
    return [_number(spread[name] if spread else None) for name in _SPREAD]


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:,.1f}"
