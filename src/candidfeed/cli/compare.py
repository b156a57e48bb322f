"""`candidfeed compare`: is one release better than another?"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from candidfeed.cli.output import console, require_writable, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from candidfeed.release.figures import ComparedFigure
    from candidfeed.release.storage import OpenedDirectory

_SAID = {"better": "B is better than A", "worse": "B is worse than A",
         "even": "no significant difference between A and B"}  # fmt: skip


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a release, such as the live.")],
    b: Annotated[
        Path, typer.Argument(metavar="B", help="Folder of the release to hold against it.")
    ],
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the comparison to this file as JSON.")
    ] = None,
) -> None:
    """Compare two releases that were measured on the same held-out rows, user by user.

    The figures are those of each build's own report: of models that had not
    seen the rows. Exit code 1 where B's list is significantly worse than A's
    (nDCG@10), 0 where it is not.
    """
    require_writable(files=[json])

    from candidfeed.release.figures import (
        LIST,
        compare_figures,
        read_figures,
        require_same_rows,
    )
    from candidfeed.release.storage import read_directory

    first, second = read_directory(a), read_directory(b)
    require_same_rows(first, second)
    found, n_users = compare_figures(read_figures(first), read_figures(second))
    _print(a, b, first, second, found, n_users)
    worse = LIST in found and found[LIST].verdict == "worse"
    if LIST in found:
        console.print(Text(f"\n{_sentence(found[LIST], n_users)}", style="bold"))
    if json is not None:
        write_json(json, _to_json(first, second, found, n_users))
    if worse:
        raise typer.Exit(1)


def _print(
    a: Path,
    b: Path,
    first: "OpenedDirectory",
    second: "OpenedDirectory",
    found: "Mapping[tuple[str, str], ComparedFigure]",
    n_users: int,
) -> None:
    for letter, folder, opened in (("A", a, first), ("B", b, second)):
        console.print(Text(f"{letter}  {folder}  {opened.release_id}"), soft_wrap=True)
    told = first.manifest
    rows = f"{told['dataset']}, protocol {told['protocol']}, {n_users:,} users"
    console.print(Text(rows, style="bold"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("figure", no_wrap=True)
    for heading in ("A", "B", "B - A", "95 % interval", "p (Holm)", "B is"):
        table.add_column(heading, justify="right", no_wrap=True)
    for (model, metric), one in found.items():
        change = one.difference
        table.add_row(
            f"{model} {metric}",
            f"{one.first.mean:.4f}",
            f"{one.second.mean:.4f}",
            f"{change.mean:+.4f}",
            f"{change.low:+.4f} {change.high:+.4f}",
            f"{change.p_holm:.3f}",
            one.verdict,
        )
    console.print(table)


def _sentence(found: "ComparedFigure", n_users: int) -> str:
    from candidfeed.evaluation.bootstrap import MIN_USERS

    if n_users < MIN_USERS:
        return f"{n_users} users are too few to say which is better (at least {MIN_USERS})"
    change = found.difference
    interval = f"{change.mean:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
    return f"{_SAID[found.verdict]} on the list's ndcg@10: {interval}"


def _to_json(
    first: "OpenedDirectory",
    second: "OpenedDirectory",
    found: "Mapping[tuple[str, str], ComparedFigure]",
    n_users: int,
) -> dict[str, object]:
    told = first.manifest
    return {
        "a": first.release_id,
        "b": second.release_id,
        "dataset": told["dataset"],
        "protocol": told["protocol"],
        "test_rows_sha256": told["test_rows_sha256"],
        "n_users": n_users,
        "figures": [
            {
                "model": model,
                "metric": metric,
                "a": asdict(one.first),
                "b": asdict(one.second),
                "difference": asdict(one.difference),
                "b_is": one.verdict,
            }
            for (model, metric), one in found.items()
        ],
    }
