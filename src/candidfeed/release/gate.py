"""The gate: what is significantly worse than the live release, or than popularity, stays out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from candidfeed.errors import GateError, ReleaseError
from candidfeed.evaluation.bootstrap import (
    Comparison,
    Difference,
    Resamples,
    compared,
    paired_difference,
)
from candidfeed.release.figures import (
    LIST,
    POPULAR,
    Figures,
    UserFigure,
    on_common_users,
    read_figures,
)
from candidfeed.release.manifest import POINTER
from candidfeed.release.storage import OpenedDirectory, read_directory

LIVE = "the live release"


@dataclass(frozen=True)
class Gate:
    """What a new release was held against.

    Attributes:
        comparisons: by what: the new list's nDCG@10 less the other's; one family.
        not_compared: why the live release is not among them; empty where it is, or there is none.
        forced: published although it is worse.
    """

    comparisons: Mapping[str, Comparison]
    not_compared: str
    forced: bool

    @property
    def failures(self) -> list[str]:
        """One clause on each that the new release is significantly worse than."""
        return [
            f"worse than {name} on ndcg@10 by {-one.mean:.4f} [{-one.high:.4f}, {-one.low:.4f}]"
            f" (p {one.p_holm:.1g}, {one.n_users:,} users)"
            for name, one in self.comparisons.items()
            if one.is_significant and one.mean < 0
        ]

    @property
    def remarks(self) -> list[str]:
        """What a person should know of a release that passed, a line each."""
        told = [f"gate: {self.not_compared}"] if self.not_compared else []
        if self.forced:
            told.append(f"gate: published by force, though {' and '.join(self.failures)}")
        return told

    def to_json(self) -> dict[str, Any]:
        return {
            "compared": {name: asdict(one) for name, one in self.comparisons.items()},
            "not_compared": self.not_compared,
            "failures": self.failures,
            "forced": self.forced,
        }


def pass_gate(target: Path, new: Figures, test_rows_sha256: str, *, force: bool) -> Gate:
    """Hold a new release's figures against those of the one that is live, and of popularity.

    Raises:
        GateError: it is significantly worse than one of them, and not forced.
    """
    others, why = {}, ""
    if POPULAR in new:
        others["popularity"] = new[POPULAR]
    if (target / POINTER).is_file():
        live, why = _live_figures(target, test_rows_sha256)
        if live is not None:
            others[LIVE] = live
    gate = Gate(_compare(new[LIST], others), why, forced=False)
    if gate.failures and not force:
        raise GateError(
            f"{target}: not published, for the new release is {' and '.join(gate.failures)};"
            " what was there stays in force, --force publishes all the same"
        )
    return Gate(gate.comparisons, why, forced=bool(gate.failures))


def _live_figures(target: Path, test_rows_sha256: str) -> tuple[UserFigure | None, str]:
    """The live list's figure, or why there is none to be compared with."""
    try:
        opened: OpenedDirectory = read_directory(target)
        if opened.manifest.get("test_rows_sha256") != test_rows_sha256:
            return None, "the live release was measured on other test rows"
        found = read_figures(opened)
    except ReleaseError as error:
        return None, f"the live release can't be compared with: {error}"
    return found.get(LIST), "" if LIST in found else "the live release has no nDCG@10"


def _compare(new: UserFigure, others: Mapping[str, UserFigure]) -> dict[str, Comparison]:
    differences: dict[str, Difference] = {}
    for name, other in others.items():
        a, b = on_common_users(new, other)
        if len(a.users):
            resamples = Resamples.draw(a.users, rng=np.random.default_rng(0))
            found = paired_difference([a], [b], resamples)
            if found is not None:
                differences[name] = found
    return compared(differences)
