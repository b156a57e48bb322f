"""What an index consists of: what was built, how good that is, and what has changed since."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candidfeed.retrieval.index.exact import ExactIndex
from candidfeed.retrieval.index.inner_products import Bits, Floats
from candidfeed.retrieval.index.inverted import InvertedIndex

EXACT, INVERTED = "exact", "inverted"


@dataclass(frozen=True)
class IndexReport:
    """What was built, and how much of exact search it finds.

    Attributes:
        kind: "exact" or "inverted".
        n_lists, n_probes: lists in all, and those that a search for `recall_k` looks into at most.
        n_scanned: items that it looks at on average.
        recall: mean share of the exact best `recall_k` that it finds, for users' vectors that the
            build did not see; 1 where every item is compared.
        recall_p5: one in twenty of these users gets less than this share.
        n_held_out: how many users that was measured with.
    """

    kind: str
    n_items: int
    dim: int
    n_lists: int
    n_probes: int
    n_scanned: int
    recall_k: int
    recall_target: float
    recall: float
    recall_p5: float
    n_held_out: int


@dataclass(frozen=True)
class Snapshot:
    """What has changed since the build.

    Attributes:
        open: rows of the build that still stand as they were built.
        gone: the others, ascending, int64.
        added_rows: items added since, ascending, int64; they may replace rows that are gone.
        added: their vectors, float32 [n, dim].
    """

    open: Bits
    gone: NDArray[np.int64]
    added_rows: NDArray[np.int64]
    added: Floats


@dataclass(frozen=True)
class IndexParts:
    """All of an index at one moment."""

    base: ExactIndex | InvertedIndex
    report: IndexReport
    snapshot: Snapshot
