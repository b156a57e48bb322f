"""What a release's own evaluation found, user by user: two can be compared without training.

The figures are of the pair that had not seen the test rows; the release itself learned from all.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.data.vocabulary import Vocabulary
from candidfeed.errors import ReleaseError
from candidfeed.evaluation.bootstrap import (
    Comparison,
    Difference,
    Estimate,
    Resamples,
    SumFigure,
    compared,
    estimates,
    paired_difference,
    ratio,
)
from candidfeed.evaluation.report import LOWER_IS_BETTER, SeedRun
from candidfeed.release.storage import OpenedDirectory

FIGURES = "figures.parquet"
LIST, POPULAR = ("two-stage", "ndcg@10"), ("popular", "ndcg@10")
KEPT = (LIST, ("two-stage", "recall@20"), ("retrieval", "top@100"), ("ranker", "mse"),
        ("ranker", "logloss"), POPULAR)  # fmt: skip

Name = tuple[str, str]


@dataclass(frozen=True)
class UserFigure:
    """One figure of one release: the sum of `over` by the sum of `under`, a row a user.

    Attributes:
        user_ids: in ascending order.
        over, under: float64 [n].
    """

    user_ids: pl.Series
    over: NDArray[np.float64]
    under: NDArray[np.float64]

    def of(self, user_ids: pl.Series) -> SumFigure:
        """Of these users, each of whom is there; their rows are their places."""
        rows = Vocabulary(self.user_ids).rows(user_ids)
        sums = np.column_stack([self.over[rows], self.under[rows]])
        return SumFigure(np.arange(len(rows), dtype=np.int32), sums)


@dataclass(frozen=True)
class ComparedFigure:
    """One figure of two releases; `difference` is the second less the first."""

    first: Estimate
    second: Estimate
    difference: Comparison
    lower_is_better: bool

    @property
    def verdict(self) -> str:
        """What the second is beside the first: `better`, `worse` or, where that is open, `even`."""
        if not self.difference.is_significant:
            return "even"
        return "better" if (self.difference.mean < 0) == self.lower_is_better else "worse"


Figures = Mapping[Name, UserFigure]


def figures_of(run: SeedRun, users: Vocabulary) -> dict[Name, UserFigure]:
    """Those in KEPT that were measured."""
    found = {}
    for model, metric in KEPT:
        figure = run.figures.get(model, {}).get(metric)
        if isinstance(figure, SumFigure) and figure.of_totals is ratio:
            ids = users.ids.gather(figure.users)
            found[model, metric] = UserFigure(ids, figure.sums[:, 0], figure.sums[:, 1])
    return found


def encode_figures(figures: Figures) -> bytes:
    parts = [
        pl.DataFrame({"user_id": one.user_ids, "over": one.over, "under": one.under}).select(
            pl.lit(model).alias("model"), pl.lit(metric).alias("metric"), pl.all()
        )
        for (model, metric), one in figures.items()
    ]
    buffer = io.BytesIO()
    pl.concat(parts).write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def read_figures(opened: OpenedDirectory) -> dict[Name, UserFigure]:
    """
    Raises:
        ReleaseError: the release was built by a version that kept none.
    """
    path = opened.path / FIGURES
    if not path.is_file():
        raise ReleaseError(
            f"{opened.path}: was built by candidfeed {opened.candidfeed_version}, which kept no"
            " figures by user to compare; build it again"
        )
    found = {}
    table = pl.read_parquet(path.read_bytes())
    for (model, metric), part in table.group_by("model", "metric", maintain_order=True):
        over, under = (part[name].to_numpy() for name in ("over", "under"))
        found[str(model), str(metric)] = UserFigure(part["user_id"], over, under)
    return found


def require_same_rows(first: OpenedDirectory, second: OpenedDirectory) -> None:
    """
    Raises:
        ReleaseError: the two were measured on other test rows.
    """
    hashes = [one.manifest.get("test_rows_sha256") for one in (first, second)]
    if hashes[0] is None or hashes[0] != hashes[1]:
        told = " and ".join(_rows_of(one) for one in (first, second))
        raise ReleaseError(
            f"the two releases were measured on other rows, so their figures can't be paired: "
            f"{told}; build both from the same data with the same --protocol and --seed"
        )


def compare_figures(
    first: Figures, second: Figures, *, seed: int = 0
) -> tuple[dict[Name, ComparedFigure], int]:
    """Each figure that both have, paired over the users whom both were asked for, and their number.

    All of the figures are one family of comparisons. Those of `popular` are no news of a release.

    Raises:
        ReleaseError: they have no users in common.
    """
    names = [name for name in KEPT if name in first and name in second and name != POPULAR]
    pairs: dict[Name, tuple[Estimate, Estimate]] = {}
    differences: dict[Name, Difference] = {}
    n_users = 0
    for name in names:
        a, b = on_common_users(first[name], second[name])
        n_users = max(n_users, len(a.users))
        resamples = Resamples.draw(a.users, rng=np.random.default_rng(seed))
        found = paired_difference([b], [a], resamples) if len(a.users) else None
        if found is not None:
            differences[name] = found
            both = estimates({"first": [a], "second": [b]}, resamples)
            pairs[name] = (both["first"], both["second"])
    if not differences:
        raise ReleaseError("the two releases have no figure of a common user to compare")
    return {
        name: ComparedFigure(*pairs[name], one, name[1] in LOWER_IS_BETTER)
        for name, one in compared(differences).items()
    }, n_users


def on_common_users(first: UserFigure, second: UserFigure) -> tuple[SumFigure, SumFigure]:
    """Both, of the users whom both were asked for."""
    common = first.user_ids.filter(first.user_ids.is_in(second.user_ids.implode()))
    return first.of(common), second.of(common)


def _rows_of(opened: OpenedDirectory) -> str:
    told = opened.manifest
    digest = str(told.get("test_rows_sha256"))[:12]
    return (
        f"{opened.path.parent} on {told.get('dataset')}, protocol {told.get('protocol')}, seed "
        f"{told.get('seed')} (test rows {digest})"
    )
