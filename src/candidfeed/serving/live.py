"""A release as it is served: what was built, and what has changed since."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.data.features import Bag, FeatureMap
from candidfeed.data.put_fields import parse_field
from candidfeed.data.tables import COLUMN_TYPES
from candidfeed.data.vocabulary import UNKNOWN, as_number
from candidfeed.errors import DataError
from candidfeed.feed.cards import Card
from candidfeed.feed.eligibility import DELETED, EXPIRED, Rule, masked, muted
from candidfeed.feed.item_codes import coded_columns, require_coded
from candidfeed.feed.newcomers import Newcomer
from candidfeed.feed.pipeline import LATEST, Ask, recommend, retrieve
from candidfeed.feed.policy import Policy
from candidfeed.feed.served import Past, Person, Rows, Served
from candidfeed.serving.item_changes import Changes
from candidfeed.store.history import History
from candidfeed.store.records import Change


class LiveRelease:
    """One release and what is known of its items and users since; for any thread.

    A change takes effect with the next request. Deleted items leave the index; other sources pass
    them over.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        # Replaced as a whole: a request reads what was before a change, or after it.
        self.changes = Changes.none(served.n_items)
        # Odd while a change is taken in: rules and index may then say different things.
        self.version = 0

    @property
    def release_id(self) -> str:
        return self.served.release_id

    def follow(self, changes: Iterable[Change]) -> None:
        """Take in what was put and deleted, in order; by one thread at a time.

        An item that the release does not know becomes a newcomer once its title or a feature is
        put.
        """
        changes = [one for one in changes if one.id is not None]
        served, before = self.served, self.changes
        rows = self.rows_of([one.id for one in changes])
        pairs = list(zip(rows.tolist(), changes, strict=True))
        put = [one for row, one in pairs if self._is_new(row) and self._says_what(one.fields)]
        newcomers = self._newcomers(put)
        row_of = served.newcomers.rows_for(newcomers)
        edited = {row: one for row, one in pairs if UNKNOWN < row < served.n_items}
        self.version += 1
        # Before they can be found.
        served.cards.put(
            {
                row_of[str(one.item_id)]: self._card_of(str(one.item_id), one.fields)
                for one in newcomers
            }
        )
        served.cards.put(self._edits(edited))
        added = served.newcomers.put(newcomers)
        rows = self.rows_of([one.id for one in changes])
        pairs = zip(rows.tolist(), changes, strict=True)
        # A newcomer of which nothing is said any more is no item to show.
        fields_of = {
            row: one.fields if row < served.n_items or self._says_what(one.fields) else None
            for row, one in pairs
            if row != UNKNOWN
        }
        self.changes = before.then(fields_of, served.n_items + len(served.newcomers))
        if len(gone := self.changes.newly_gone(before)):
            served.index.remove(gone)
        if len(added):
            served.index.add(added, served.vectors_of(added))
        self.version += 1

    def _edits(self, changes: Mapping[int, Change]) -> dict[int, Card | None]:
        """By row of the release, None for what the release says of it; the last change counts.

        As for the next build, what was put is all that is known, where it names a column.
        """
        names = {"title", *(one.name for one in self.served.item_map.columns)}
        said = {
            row: self._card_of(str(one.id), one.fields)
            for row, one in changes.items()
            if one.fields is not None and not names.isdisjoint(one.fields)
        }
        built = dict(zip(said, self.served.cards.as_built([*said]), strict=True)) if said else {}
        return {
            row: None if row not in said or _is_same(said[row], built[row]) else said[row]
            for row in changes
        }

    def _card_of(self, item_id: str, fields: Mapping[str, Any]) -> Card:
        return Card.of(item_id, fields, self.served.cards.columns)

    def _is_new(self, row: int) -> bool:
        return row == UNKNOWN or row >= self.served.n_items

    def _says_what(self, fields: Mapping[str, Any] | None) -> bool:
        """Whether what was put says what the item is."""
        names = ("title", *(one.name for one in self.served.item_map.columns))
        return any((fields or {}).get(name) is not None for name in names)

    def _newcomers(self, changes: Sequence[Change]) -> list[Newcomer]:
        if not changes:
            return []
        served = self.served
        fields = [dict(one.fields or {}) for one in changes]
        bag = _bags_as_far_as_known(served.item_map, fields)
        vectors = served.content.vectors(bag)
        found = []
        for place, (change, known) in enumerate(zip(changes, fields, strict=True)):
            item_id = str(change.id)
            number = as_number(item_id) if served.has_number_ids else None
            found.append(
                Newcomer(
                    item_id=item_id if number is None else number,
                    bag=Bag(bag.ids[[place]], bag.weights[[place]]),
                    vector=vectors[place],
                    born_s=self._born_s(known, change.time_s),
                    fields=known,
                )
            )
        return found

    def _born_s(self, fields: Mapping[str, Any], put_s: float) -> float:
        """By the column that says so of the release's items; else when it was put."""
        try:
            born = parse_field("", fields.get(self.served.born_column or ""), "time")
        except DataError:
            born = None
        return put_s if born is None else born.timestamp()

    def item_bag(self, fields: Mapping[str, Any]) -> Bag:
        """The features of an item of which this is known.

        Raises:
            DataError: a field can't be a feature of its kind.
        """
        return _bags(self.served.item_map, [fields])

    def rows_of(self, item_ids: Sequence[str | None]) -> Rows:
        """Row of each item, UNKNOWN (-1) where neither release nor newcomers have it; int32 [n]."""
        if not len(item_ids):
            return np.empty(0, np.int32)
        rows = self.served.item_ids.rows(list(item_ids))
        if len(newcomers := self.served.newcomers):
            for place in np.flatnonzero(rows == UNKNOWN).tolist():
                rows[place] = newcomers.row_of(item_ids[place], UNKNOWN)
        return rows

    def rules(self, now_s: float) -> tuple[Rule, ...]:
        """What may be shown to nobody at this time."""
        changes = self.changes
        gone = masked(DELETED, changes.is_gone, changes.n_gone, index_knows=True)
        if not len(changes.ends_s):
            return (gone,)
        n_over = int(np.searchsorted(changes.ends_s, now_s, side="right"))
        return gone, Rule(EXPIRED, lambda rows: changes.is_over(rows, now_s), n_over)

    def muted(self, values: Mapping[str, Sequence[str]]) -> Rule:
        """Bars items with one of these values, by column; what the release has not is passed."""
        known = coded_columns(self.served.items)
        columns = [
            (self.served.cards.codes(name), values[name]) for name in values if name in known
        ]
        return muted([(column, column.of_values(which)) for column, which in columns])

    def person(self, user_id: str, later: Past, fields: Mapping[str, Any]) -> Person:
        """Who this is, by the release and by what is known since.

        Args:
            later: what they did since.
            fields: what was put of them since, in the place of what the release knows where it
                names a feature.
        """
        person = self.served.person(user_id)
        says = bool(fields) and any(one.name in fields for one in self.served.user_map.columns)
        bag = self.bag_of_user(fields) if says else person.bag
        return Person(person.user_id, person.row, bag, person.past.then(later))

    def bag_of_user(self, fields: Mapping[str, Any]) -> Bag:
        """The features of a user of whom this is known; what is left out is unknown.

        Raises:
            DataError: a field can't be a feature of its kind.
        """
        return _bags(self.served.user_map, [fields])

    def past_of(self, history: History) -> Past:
        """Those of a user's events that a model reads: positive ones about items that it knows.

        A newcomer it knows where it reads items by their vectors.
        """
        if not len(history):
            return _NOTHING
        kinds = self.served.settings.positive_kinds
        rows = self.rows_of(history.item_ids)
        read = self.are_read(rows)
        if kinds:
            read &= np.array([kind in kinds for kind in history.kinds], bool)
        values = np.array(history.values, np.float32)
        past = Past(rows[read], values[read], np.array(history.times_s, np.float64)[read])
        return _NOTHING.then(past)

    def are_read(self, rows: Rows) -> NDArray[np.bool_]:
        """Of which items a past is made, bool [n]: of those that stage one has a vector of."""
        are_known = rows != UNKNOWN
        # Otherwise no model has learned yet what having touched a newcomer says.
        reads_vectors = self.served.settings.tower_reads_vectors
        return are_known if reads_vectors else are_known & (rows < self.served.n_items)

    def warm_up(self, policy: Policy, before: Served | None) -> None:
        """Compile, and ask once for whatever is made when it is first asked for.

        Args:
            before: the release that was in force: what users mute there, they will here.

        Raises:
            DataError: the policy names what this release's items don't have.
        """
        served = self.served
        require_coded(served.items, policy.caps, "policy: caps")
        for name in before.cards.coded if before is not None else ():
            self.muted({name: []})
        served.compile(quickly=False)
        first = int(np.argmax(np.diff(served.pasts.ends, prepend=0) > 0))
        somebody = self.person(str(served.users.id_of(first)), _NOTHING, {})
        for person in (somebody, served.anonymous):
            ask = Ask(k=10, now_s=0.0, rules=self.rules(0.0), policy=policy)
            recommend(served, person, ask)
        retrieve(served, served.anonymous, Ask(k=10, now_s=0.0, everybodys=LATEST))
        # Whoever names items: a list of what is denied, a sample that is kept.
        self.rows_of([str(served.item_ids.id_of(0))])


_NOTHING = Past(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0))


def _bags(map_: FeatureMap, known: Sequence[Mapping[str, Any]]) -> Bag:
    """The features of users or items of whom this is known; what is left out is unknown.

    Raises:
        DataError: a field can't be a feature of its kind.
    """
    return map_.encode(
        pl.DataFrame(
            {
                one.name: pl.Series(
                    [parse_field(one.name, fields.get(one.name), one.kind) for fields in known],
                    dtype=COLUMN_TYPES[one.kind],
                )
                for one in map_.columns
            }
        )
    )


def _bags_as_far_as_known(map_: FeatureMap, known: Sequence[Mapping[str, Any]]) -> Bag:
    """The same; who has a field that can't be a feature has none."""
    if not map_.columns:
        # A table without columns has no rows either.
        return Bag(np.zeros((len(known), 1), np.int32), np.zeros((len(known), 1), np.float32))
    try:
        return _bags(map_, known)
    except DataError:
        # They were put under a release whose columns were others.
        return _bags(map_, [one if _can_be_read(map_, one) else {} for one in known])


def _can_be_read(map_: FeatureMap, fields: Mapping[str, Any]) -> bool:
    try:
        _bags(map_, [fields])
    except DataError:
        return False
    return True


def _is_same(card: Card, other: Card) -> bool:
    """Tags in any order."""
    return card.title == other.title and all(
        {*values} == {*other.values[name]} for name, values in card.values.items()
    )
