"""`candidfeed describe`: what a data set holds, and what of it can't be used."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from candidfeed.cli.datasets import CacheFolder, open_dataset
from candidfeed.cli.output import console, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from candidfeed.data.describe import Bin, Description, Spread

_BAR_CHARACTERS = 36
_ZERO_WIDTH_JOINER = "\u200d"


def describe(
    dataset: Annotated[
        str,
        typer.Argument(
            help="ml-100k, a .toml file, or a folder with candidfeed.toml or train.txt."
        ),
    ],
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the same figures to this file as JSON.")
    ] = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(
            "--quarantine",
            help="Write rows that can't be used to this file, in place of NAME.quarantine.csv.",
        ),
    ] = None,
    cache: CacheFolder = None,
) -> None:
    """Print counts, spreads, gaps and faults of a data set.

    Ends with exit code 2 where the data set can't be trained on as it is.
    """
    from candidfeed.data.checks import require_usable
    from candidfeed.data.describe import describe as count
    from candidfeed.data.splits import make_split
    from candidfeed.errors import DataError

    opened = open_dataset(dataset, cache=cache)
    split, no_split = None, ""
    try:
        split = make_split(opened)
    except DataError as error:
        no_split = str(error)
    figures = count(opened, split)
    if json is not None:
        write_json(json, {**figures.to_json(), "no_split": no_split})
    _print_counts(figures)
    _print_spread("Events per user", figures.events_per_user)
    _print_spread("Events per item", figures.events_per_item)
    _print_values(figures)
    _print_top_items(figures)
    _print_cold(figures, no_split)
    _print_columns(figures)
    _print_quarantine(figures)
    written = require_usable(opened, quarantine=quarantine)
    if written is not None:
        console.print(f"All of them are in {written}.", soft_wrap=True)


def _print_counts(figures: "Description") -> None:
    table = _columns("", "", right=(1,), header=False)
    _add(table, "rows read", f"{figures.n_rows_read:,}")
    _add(table, "events", f"{figures.n_events:,}")
    for name, n in figures.kinds.items():
        positive = " (positive)" if name in figures.positive_kinds else ""
        _add(table, f"  {_plain(name)}{positive}", f"{n:,}")
    for part, n in figures.parts.items():
        _add(table, f"  {part} part", f"{n:,}")
    _add(table, "users", f"{figures.n_users:,}")
    _add(table, "  without events", f"{figures.n_users_without_events:,}")
    _add(table, "items", f"{figures.n_items:,}")
    _add(table, "  without events", f"{figures.n_items_without_events:,}")
    _add(table, "density", f"{figures.density:.3%}")
    _add(table, "first event", _moment(figures.first_time))
    _add(table, "last event", _moment(figures.last_time))
    console.print(Text(_plain(figures.name), style="bold"))
    console.print(table)


def _print_spread(title: str, spread: "Spread | None") -> None:
    if spread is None:
        return
    _print_title(
        f"{title}: mean {spread.mean:,.1f}, median {spread.median:,.0f}, "
        f"{spread.least:,} to {spread.most:,}"
    )
    _print_bars([(_range(one.low, one.high), one) for one in spread.bins])


def _print_values(figures: "Description") -> None:
    values = figures.values
    if values is None:
        return
    liked = "" if values.liked_share is None else f", {values.liked_share:.1%} liked"
    _print_title(f"Values: {values.n:,}, mean {values.mean:,.3f}{liked}")
    _print_bars([(_range(one.low, one.high), one) for one in values.bins])


def _print_bars(bins: "Sequence[tuple[str, Bin]]") -> None:
    table = _columns("", "", "", right=(0, 2), header=False)
    most = max(one.n for _, one in bins)
    for label, one in bins:
        n_blocks = round(_BAR_CHARACTERS * one.n / most)
        _add(table, label, "█" * n_blocks or ("▏" if one.n else ""), f"{one.n:,}")
    console.print(table)


def _print_top_items(figures: "Description") -> None:
    if not figures.top_items:
        return
    _print_title("Most popular items")
    table = _columns("events", "share", "item", "title", right=(0, 1))
    for item in figures.top_items:
        name = str(item.item_id)
        _add(table, f"{item.n:,}", f"{item.share:.2%}", _plain(name), _plain(item.title))
    console.print(table)


def _print_cold(figures: "Description", no_split: str) -> None:
    cold = figures.cold
    if cold is None:
        _print_title("No split")
        console.print(f"  {_plain(no_split)}")
        return
    _print_title(f"Cold at the default split: {cold.protocol}, seed {cold.seed}")
    parts = [("train", cold.n_train), ("history", cold.n_history), ("test", cold.n_test)]
    console.print("  rows: " + ", ".join(f"{name} {n:,}" for name, n in parts if n))
    console.print(
        f"  {cold.users:.1%} of the test users have no training row "
        f"({cold.rows_of_cold_users:.1%} of the test rows)"
    )
    console.print(
        f"  {cold.items:.1%} of the test items have no training row "
        f"({cold.rows_of_cold_items:.1%} of the test rows)"
    )


def _print_columns(figures: "Description") -> None:
    _print_title("Columns")
    table = _columns("column", "kind", "", "missing", "", right=(3, 4))
    for one in figures.columns:
        share = f"{one.n_missing / one.n_rows:.1%}" if one.n_rows else ""
        sensitive = "sensitive" if one.sensitive else ""
        name = f"{one.table}.{_plain(one.column)}"
        _add(table, name, one.kind, sensitive, f"{one.n_missing:,}", share)
    console.print(table)


def _print_quarantine(figures: "Description") -> None:
    if not figures.n_quarantined:
        _print_title("Quarantine: empty, every row can be used")
        return
    n = figures.n_quarantined
    _print_title(f"Quarantine: {n:,} row{'s' * (n != 1)} can't be used")
    table = _columns("rows", "reason", "first", "received", right=(0,), wrap=True)
    for one in figures.quarantine:
        first = f"{_plain(one.file)}:{one.row}"
        _add(table, f"{one.n:,}", _plain(one.reason), first, _plain(one.received))
    console.print(table)


def _columns(*names: str, right: tuple[int, ...], header: bool = True, wrap: bool = False) -> Table:
    table = Table(box=None, show_header=header, pad_edge=False, padding=(0, 1))
    table.add_column("", width=1)
    for place, name in enumerate(names):
        justify = "right" if place in right else "left"
        overflow = "fold" if wrap else "ellipsis"
        table.add_column(name, justify=justify, no_wrap=not wrap, overflow=overflow)
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row("", *(Text(cell) for cell in cells))


def _print_title(text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def _range(low: float, high: float) -> str:
    return f"{low:,.6g}" if low == high else f"{low:,.6g} - {high:,.6g}"


def _moment(iso: str | None) -> str:
    return "no times" if iso is None else iso[:19].replace("T", " ") + " UTC"


def _plain(text: str) -> str:
    """On one line, and without what would steer the terminal: ids may hold anything."""
    kept = (one if one.isprintable() or one == _ZERO_WIDTH_JOINER else "\ufffd" for one in text)
    return "".join(kept)
