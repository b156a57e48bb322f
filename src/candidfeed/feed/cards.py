"""What an item is called and counted by, as it was put since a release was built."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from candidfeed.data.features import FeatureMap
from candidfeed.data.put_fields import parse_field
from candidfeed.data.tables import FeatureKind
from candidfeed.errors import DataError
from candidfeed.feed.item_codes import CurrentCodes, ItemCodes, coded_columns
from candidfeed.feed.item_table import ItemTable


@dataclass(frozen=True)
class Card:
    """What people see of an item, and what caps and mutes go by.

    Attributes:
        values: of each column of categories or tags, each once.
    """

    title: str
    values: Mapping[str, tuple[str, ...]]

    @staticmethod
    def of(item_id: str, fields: Mapping[str, Any], columns: Mapping[str, FeatureKind]) -> "Card":
        """As the next build reads what was put: what is not named is not known.

        Args:
            columns: the kind of each column of categories or tags.
        """
        values = {name: _parsed(name, fields.get(name), kind) for name, kind in columns.items()}
        (title,) = _parsed("title", fields.get("title"), "category") or (item_id,)
        return Card(title or item_id, values)


class Cards:
    """Cards that take the place of a release's, by row; those of newcomers.

    For any number of readers and one writer at a time.

    Args:
        items: of the release.
        item_map: names the columns of the items that may be put.
    """

    def __init__(self, items: ItemTable, item_map: FeatureMap) -> None:
        self._items = items
        self._by_row: dict[int, Card] = {}
        self._codes: dict[str, CurrentCodes] = {}
        self._putting = threading.Lock()
        coded = coded_columns(items)
        self.columns: Mapping[str, FeatureKind] = {
            one.name: one.kind for one in item_map.columns if one.name in coded
        }

    def of(self, row: int) -> Card | None:
        """None: as it was when the release was built."""
        return self._by_row.get(row)

    def put(self, cards: Mapping[int, Card | None]) -> None:
        """Let these be the cards of their rows; None: as it was when the release was built."""
        if not cards:
            return
        with self._putting:
            for row, card in cards.items():
                if card is None:
                    self._by_row.pop(row, None)
                else:
                    self._by_row[row] = card
            for column, codes in self._codes.items():
                self._codes[column] = codes.then(_of_column(column, cards))

    def reset(self) -> None:
        """All are as they were when the release was built."""
        self.put(dict.fromkeys(self.changed))

    @property
    def changed(self) -> Mapping[int, Card]:
        """By row, ascending."""
        with self._putting:
            return dict(sorted(self._by_row.items()))

    def as_built(self, rows: Sequence[int]) -> list[Card]:
        """What the release itself says of these."""
        known = self._items.take(["title", *self.columns], rows)
        return [
            Card(one["title"], {name: _each_once(one[name]) for name in self.columns})
            for one in known.iter_rows(named=True)
        ]

    @property
    def coded(self) -> tuple[str, ...]:
        """Columns whose codes somebody asked for."""
        return tuple(self._codes)

    def codes(self, column: str) -> CurrentCodes:
        """A column of categories or tags as integers; made when it is first asked for."""
        if (known := self._codes.get(column)) is not None:
            return known
        with self._putting:
            if column not in self._codes:
                made = CurrentCodes(ItemCodes.of(self._items[column]))
                self._codes[column] = made.then(_of_column(column, self._by_row))
            return self._codes[column]


def _of_column(column: str, cards: Mapping[int, Card | None]) -> dict[int, tuple[str, ...] | None]:
    return {
        row: None if card is None else card.values.get(column, ()) for row, card in cards.items()
    }


def _parsed(name: str, value: Any, kind: FeatureKind) -> tuple[str, ...]:
    """None of it where it can't be read: it was put under a release whose columns were others."""
    try:
        return _each_once(parse_field(name, value, kind))
    except DataError:
        return ()


def _each_once(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        return () if value is None else (value,)
    return tuple(one for one in dict.fromkeys(value) if one is not None)
