"""What goes from one stage of the feed to the next, and what is answered in the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from candidfeed.feed.selection import Selected
from candidfeed.feed.served import Floats, Person, Rows


@dataclass(frozen=True)
class Proposed:
    """Items that one source proposes, best first, each once.

    Attributes:
        rows: int32 [n].
        scores: inner products of stage one, float32 [n]; None where the source asks for none.
    """

    source: str
    rows: Rows
    scores: Floats | None = None

    def where(self, kept: NDArray[np.bool_]) -> "Proposed":
        """Those that are marked, bool [n]."""
        scores = None if self.scores is None else self.scores[kept]
        return Proposed(self.source, self.rows[kept], scores)


@dataclass(frozen=True)
class Removed:
    """Proposed items that may not be shown, each once."""

    reason: str
    rows: Rows


@dataclass(frozen=True)
class Candidates:
    """Items that are to be ranked, best of stage one first, each once.

    Attributes:
        rows: int32 [c].
        source: place in `names` of the source that brought each, int8 [c].
        tower, neighbour: scores of stage one and of the neighbour model, float32 [c]; 0 for a
            person without a past.
    """

    rows: Rows
    source: NDArray[np.int8]
    names: tuple[str, ...]
    tower: Floats
    neighbour: Floats

    @property
    def sources(self) -> list[str]:
        return [self.names[place] for place in self.source.tolist()]

    def take(self, places: NDArray[np.integer]) -> "Candidates":
        return Candidates(
            self.rows[places], self.source[places], self.names, self.tower[places],
            self.neighbour[places],
        )  # fmt: skip


@dataclass(frozen=True)
class Retrieved:
    """What stage one hands on.

    Attributes:
        removed: what was proposed and may not be shown, by reason.
        n_proposed: by source, how many items it proposed.
    """

    candidates: Candidates
    removed: tuple[Removed, ...]
    n_proposed: Mapping[str, int]


# Not a frozen dataclass: twenty of those take as long to make as the whole selection.
class Slot(NamedTuple):
    """One place of the slate, from 1; without ratings in the log `p_like` and `rating` are None.

    Attributes:
        value: what the list is ordered by.
        p_engaged: None, like all that the ranker says, where it was not asked.
        actions: by label, what is expected of it at the first place of a slate.
        propensity: P(this item in this slot), 1 where nothing was drawn.
        by_value: the place that the item has by value alone.
    """

    position: int
    item_id: int | str
    title: str
    value: float
    p_engaged: float | None
    p_like: float | None
    rating: float | None
    source: str
    reason: str
    actions: Mapping[str, float] = {}
    propensity: float = 1.0
    by_value: int = 0


@dataclass(frozen=True)
class Slate:
    """The ordered answer.

    Attributes:
        retrieved: what the slots were taken from.
        selected: how.
        n_non_finite: candidates whose value was NaN or infinite; they come last.
        n_unknown: by feature that was read (`user.NAME`, `item.NAME`), for how many of the users
            or items no known value was at hand, so that the column's default was taken; features
            that were known for all are left out. Empty where it was not asked in full.
        dense: what the ranker read of each slot's item, float32 [slots, len(DENSE_FEATURES)]; None
            where it was not asked.
    """

    person: Person
    slots: tuple[Slot, ...]
    retrieved: Retrieved
    selected: Selected
    n_non_finite: int
    n_unknown: Mapping[str, int]
    dense: Floats | None = None

    @property
    def n_candidates(self) -> int:
        """Items that were ranked."""
        return len(self.retrieved.candidates.rows)

    def n_removed(self, reason: str) -> int:
        return sum(len(one.rows) for one in self.retrieved.removed if one.reason == reason)
