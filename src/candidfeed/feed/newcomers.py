"""Items that came after a release was built: what is known of them, in rows behind its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag

Floats = NDArray[np.float32]
Rows = NDArray[np.int32]


@dataclass(frozen=True)
class ContentMap:
    """From what is known of an item to the vector that it is expected to have.

    Attributes:
        effects: of each feature id, float32 [n_item_ids, dim].
        constant: of every item, float32 [dim].
    """

    effects: Floats
    constant: Floats

    def vectors(self, bag: Bag) -> Floats:
        """float32 [n, dim]."""
        parts = self.effects[bag.ids] * bag.weights[..., None]
        return (parts.sum(axis=-2) + self.constant).astype(np.float32)


@dataclass(frozen=True)
class Newcomer:
    """One of them.

    Attributes:
        bag: its features, one row.
        born_s: when it came, seconds since 1970 UTC.
        fields: all that was put of it.
    """

    item_id: int | str
    bag: Bag
    vector: Floats
    born_s: float
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class _Known:
    """All of them at one moment, in the order of their rows; arrays as in `Served`."""

    items: tuple[Newcomer, ...] = ()
    bag: Bag = field(default_factory=lambda: Bag(np.empty((0, 1), "i4"), np.empty((0, 1), "f4")))
    vectors: Floats = field(default_factory=lambda: np.empty((0, 1), np.float32))
    born_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def then(self, places: Rows, put: Sequence[Newcomer], n: int) -> "_Known":
        """n in all, those that were put at their places; every new place is among these."""
        items = [*self.items, *[put[0]] * (n - len(self.items))]
        for place, one in zip(places.tolist(), put, strict=True):
            items[place] = one

        def column(before: NDArray[Any], now: NDArray[Any]) -> NDArray[Any]:
            grown = np.empty((n, *now.shape[1:]), now.dtype)
            grown[: len(before)] = before
            grown[places] = now
            return grown

        return _Known(
            items=tuple(items),
            bag=Bag(
                column(self.bag.ids, np.concatenate([one.bag.ids for one in put])),
                column(self.bag.weights, np.concatenate([one.bag.weights for one in put])),
            ),
            vectors=column(self.vectors, np.stack([one.vector for one in put])),
            born_s=column(self.born_s, np.array([one.born_s for one in put])),
        )


class Newcomers:
    """A list that grows; safe for any number of readers, and one writer at a time.

    A reader finds every row that it was told of, whatever is added meanwhile.

    Attributes:
        first: the row of the first, the number of items in the release.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self._now = _Known()
        self._row_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._now.items)

    def row_of(self, item_id: object, default: int) -> int:
        return self._row_of.get(str(item_id), default)

    def rows_for(self, items: Sequence[Newcomer]) -> dict[str, int]:
        """The row that each has, or will have once all of them are put, by its id as text."""
        rows, end = {}, self.first + len(self)
        for key in dict.fromkeys(str(one.item_id) for one in items):
            rows[key] = self._row_of.get(key, end)
            end += rows[key] == end
        return rows

    def put(self, items: Sequence[Newcomer]) -> Rows:
        """Take them in, each in a row of its own for good; their rows, each once, int32 [n]."""
        if not items:
            return np.empty(0, np.int32)
        latest = {str(one.item_id): one for one in items}
        row_of = self._row_of | self.rows_for(items)
        rows = np.array([row_of[key] for key in latest], np.int32)
        self._now = self._now.then(rows - self.first, list(latest.values()), len(row_of))
        self._row_of = row_of
        return rows

    def reset(self) -> None:
        """Forget all of them."""
        self._now, self._row_of = _Known(), {}

    @property
    def items(self) -> tuple[Newcomer, ...]:
        """In the order of their rows."""
        return self._now.items

    def of(self, row: int) -> Newcomer:
        return self._now.items[row - self.first]

    @property
    def rows(self) -> Rows:
        return np.arange(self.first, self.first + len(self._now.items), dtype=np.int32)

    @property
    def born_s(self) -> NDArray[np.float64]:
        return self._now.born_s

    def bag_of(self, rows: Rows) -> Bag:
        bag = self._now.bag
        return Bag(bag.ids[rows - self.first], bag.weights[rows - self.first])

    def vectors_of(self, rows: Rows) -> Floats:
        return self._now.vectors[rows - self.first]
