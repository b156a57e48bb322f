"""Who clicks what of a slate: by a synthetic world's truth, or by the position alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.synthetic.oracle import Oracle

P_CLICK_FIRST = 0.2
"""P(click) at the first position where no truth is known; at position r it is this / r."""


class Clicks(Protocol):
    """What may be asked of either."""

    def p_click(
        self, users: Sequence[int], items: Sequence[object], positions: Sequence[int]
    ) -> NDArray[np.float64]:
        """P(click) of aligned users (rows), items (ids) and positions, float64 [n]."""
        ...


class ClicksByPosition:
    """Nothing is known of anybody: the first is clicked most."""

    def p_click(
        self, users: Sequence[int], items: Sequence[object], positions: Sequence[int]
    ) -> NDArray[np.float64]:
        return P_CLICK_FIRST / np.asarray(positions, dtype=np.float64)


@dataclass(frozen=True)
class ClicksOfWorld:
    """As people of a synthetic world click when its span has ended.

    What the world does not know is not clicked, and below its last position people look as seldom
    as there.
    """

    oracle: Oracle

    def p_click(
        self, users: Sequence[int], items: Sequence[object], positions: Sequence[int]
    ) -> NDArray[np.float64]:
        n_items = len(self.oracle.world.items.tick)
        rows = np.array([_row(item, n_items) for item in items], dtype=np.int64)
        known = rows >= 0
        p_click = np.zeros(len(rows))
        p_click[known] = self.oracle.feedback(
            np.asarray(users)[known],
            rows[known],
            self.oracle.end_s,
            position=np.minimum(positions, self.oracle.world.settings.slate_length)[known],
        ).click
        return p_click


def _row(item: object, n_items: int) -> int:
    """-1 where it is no item of the world."""
    text = str(item)
    row = int(text) if text.isascii() and text.isdigit() else -1
    return row if row < n_items else -1
