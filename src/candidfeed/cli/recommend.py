"""`candidfeed recommend`: what a release would show one user, and why."""

import gc
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from candidfeed.cli.output import console, notes, write_json

if TYPE_CHECKING:
    from candidfeed.feed.served import Person, Served
    from candidfeed.feed.slate import Slate

# In cells of the terminal.
_LONGEST_ID, _LONGEST_TITLE, _LONGEST_REASON, _LONGEST_LABEL = 40, 60, 110, 8
# Heads of the log's own labels that there is room for.
_MOST_LABELS = 3


def recommend(
    release: Annotated[
        Path, typer.Argument(help="Folder of a release, as `candidfeed build` wrote it.")
    ],
    user: Annotated[str, typer.Option("--user", help="Whose list; an id of the log.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    now: Annotated[
        str | None,
        typer.Option(
            "--now",
            help="Time for which is asked, such as 1998-03-01T12:00Z; without it the time of the "
            "user's last known event, as in training.",
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="A TOML file: diversity, caps, exploration, brake (docs/serving.md)."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the list to this file as JSON.")
    ] = None,
) -> None:
    """Print the list for one user: titles, scores and a one-line reason each."""
    asked_s = None if now is None else _seconds(now)

    from candidfeed.feed.item_codes import require_coded
    from candidfeed.feed.pipeline import Ask
    from candidfeed.feed.pipeline import recommend as make_slate
    from candidfeed.feed.policy import DEFAULT_POLICY, load_policy
    from candidfeed.release.bundle import read_release

    kept_to = DEFAULT_POLICY if policy is None else load_policy(policy)
    served = read_release(release)
    require_coded(served.items, kept_to.caps, "policy: caps")
    # An argument that is no UTF-8 stands for an id that nobody can have.
    person = served.person(user.encode(errors="surrogateescape").decode(errors="replace"))
    if asked_s is not None and not len(served.space.time_edges):
        raise typer.BadParameter("the log of this release has no times", param_hint="--now")
    now_s = person.last_time_s if asked_s is None else asked_s
    if len(person.past):
        served.compile(quickly=True)
    slate = make_slate(served, person, Ask(k=k, now_s=now_s, policy=kept_to))
    _print_slate(served, slate, k, now_s)
    if json is not None:
        write_json(json, _to_json(served, slate, now_s))
    # The process ends here: to look once more through all that was imported takes 0.4 s.
    gc.freeze()


def _seconds(now: str) -> float:
    """Seconds since 1970 UTC of a time that a person typed."""
    try:
        moment = datetime.fromisoformat(now)
    except ValueError:
        raise typer.BadParameter(
            f"{now!r} is no time such as 1998-03-01T12:00Z", param_hint="--now"
        ) from None
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{now!r} has no zone; for UTC add a Z", param_hint="--now")
    return moment.timestamp()


def _print_slate(served: "Served", slate: "Slate", k: int, now_s: float) -> None:
    person, n = slate.person, len(slate.slots)
    console.print(Text(_heading(served, person, now_s), style="bold"))
    if slate.slots:
        console.print(_table(slate))
    for line in _remarks(served, slate):
        console.print(Text(line, style="dim"))
    if n < k:
        notes.print(f"{n} of {k}: {_why_fewer(served, slate)}")


def _heading(served: "Served", person: "Person", now_s: float) -> str:
    name = f"user {_plain(str(person.user_id), _LONGEST_ID)}"
    everybody = f"here is what most people {'rated' if served.has_ratings else 'chose'}"
    if person.row == len(served.users):
        return f"{name} is not known to this release: {everybody}"
    if not len(person.past):
        return f"{name} has no events in the log: {everybody}"
    at = "" if math.isnan(now_s) else f", as of {_moment(now_s)}"
    return f"For {name}{at}"


def _table(slate: "Slate") -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    rated = any(slot.rating is not None for slot in slate.slots)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("title", ratio=1, overflow="fold")
    labels = list(slate.slots[0].actions)[:_MOST_LABELS]
    shown = (_plain(name, _LONGEST_LABEL) for name in labels)
    for name in ("score", *(("P(like)", "rating") if rated else ()), *shown):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reason", ratio=1, overflow="fold")
    for slot in slate.slots:
        numbers = [f"{slot.value:.3f}"]
        if slot.p_like is not None and slot.rating is not None:
            numbers += [f"{slot.p_like:.2f}", f"{slot.rating:.2f}"]
        numbers += [f"{slot.actions[name]:.2f}" for name in labels]
        title = Text(_plain(slot.title, _LONGEST_TITLE))
        reason = Text(_plain(slot.reason, _LONGEST_REASON))
        table.add_row(str(slot.position), title, *numbers, reason)
    return table


def _remarks(served: "Served", slate: "Slate") -> list[str]:
    n_seen, n_removed = len(slate.person.past), slate.n_removed("seen")
    n_shown = len(slate.slots)
    did = "rated" if served.has_ratings else "chosen"
    lines = [f"Ranked: {slate.n_candidates:,} of {served.n_items:,} items."]
    if n_seen:
        lines[0] += (
            f" Left out: the {n_seen:,} that they have {did} before "
            f"({n_removed:,} of them were proposed)."
        )
    if slate.n_non_finite:
        lines.append(f"{slate.n_non_finite:,} scores were NaN or infinite; they were ranked last.")
    if slate.selected.passed_over:
        whys = slate.selected.passed_over.items()
        each = (f"{n:,} for {_plain(name, _LONGEST_ID)}" for name, n in whys)
        lines.append(f"The policy passed over {', '.join(each)} of the {n_shown:,} best.")
    if slate.n_unknown:
        each = (f"{_plain(name, _LONGEST_ID)} ({n:,})" for name, n in slate.n_unknown.items())
        lines.append(f"Not known, so that the default was read: {', '.join(each)}.")
    lines.append(f"Release {served.release_id}, made from {_plain(served.settings.dataset, 60)}.")
    return lines


def _why_fewer(served: "Served", slate: "Slate") -> str:
    if slate.n_candidates == served.n_items:
        return "there are no more items"
    if slate.n_candidates < served.settings.n_candidates:
        return "there are no more items that this user has not seen"
    return f"stage one hands {slate.n_candidates:,} items on; no more are ranked"


def _to_json(served: "Served", slate: "Slate", now_s: float) -> dict[str, object]:
    person = slate.person
    return {
        "release": served.release_id,
        "dataset": served.settings.dataset,
        "user": person.user_id,
        "known": person.row < len(served.users),
        "now": None if math.isnan(now_s) else datetime.fromtimestamp(now_s, UTC).isoformat(),
        "n_seen": len(person.past),
        "n_seen_removed": slate.n_removed("seen"),
        "n_candidates": slate.n_candidates,
        "n_non_finite": slate.n_non_finite,
        "n_unknown": dict(slate.n_unknown),
        "value_weights": dict(served.settings.value_weights),
        "slots": [
            {name: _finite(value) for name, value in slot._asdict().items()} for slot in slate.slots
        ],
    }


def _finite(value: object) -> object:
    """JSON has no word for NaN and the infinities."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _moment(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _plain(text: str, longest: int) -> str:
    """On one line, not too long, and without what would steer the terminal."""
    kept = (one if one.isprintable() or one == "\u200d" else "\ufffd" for one in text)
    short = Text("".join(kept))
    short.truncate(longest, overflow="ellipsis")
    return short.plain
