"""What `candidfeed replay` does: sampled feeds are made again, and so are their features."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from candidfeed.data.interactions import Interactions
from candidfeed.errors import DataError
from candidfeed.feed.served import Person, Served
from candidfeed.release.bundle import read_release
from candidfeed.release.storage import is_kept
from candidfeed.serving.basis import person_of
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.replay import Difference, differences
from candidfeed.serving.sample import Sample, as_it_was, decode_sample
from candidfeed.store.records import Event, SlateRecord
from candidfeed.store.store import Store
from candidfeed.training.served_features import dense_of_pairs, known_before

_PAGE = 1_000


@dataclass(frozen=True)
class Differing:
    """A feed that is not the same when it is made again."""

    request_id: str
    release_id: str
    differences: list[Difference]


@dataclass
class Replayed:
    """
    Attributes:
        n_slates: feeds that were made again.
        n_features: those of which the ranker's features were made again.
        n_gone: left out, as their release is not kept any more.
        n_other_past: left out of the features: the log says of the user's past before that time
            what the service did not know then. Events came late, ahead of time or from the client.
        degraded: of the feeds that were made again, how many lacked each step.
    """

    n_slates: int = 0
    n_same: int = 0
    n_features: int = 0
    n_same_features: int = 0
    n_gone: int = 0
    n_other_past: int = 0
    degraded: dict[str, int] = field(default_factory=dict)
    differing: list[Differing] = field(default_factory=list)


def replay_latest(
    releases: Path, store: Store, n: int, *, report: Callable[[int, int], None]
) -> Replayed:
    """The latest n feeds of those that keep what they were made from.

    Args:
        report: is told how many are done, of how many.

    Raises:
        DataError: there are none, or one can't be read.
        ReleaseError: a release can't be read.
        StoreError: the store can't be read.
    """
    sampled = deque((one for one in _slates(store) if one.features is not None), maxlen=n)
    if not sampled:
        raise DataError(
            "no feed in the store keeps what it was made from; "
            "serve with a greater --sample-features"
        )
    events = _events_of({one.user_id for one in sampled}, store)
    outcome, degraded = Replayed(), Counter[str]()
    served, release_id = None, None
    for done, record in enumerate(sampled):
        if record.release_id != release_id:
            release_id = record.release_id
            served = _read(releases, release_id)
        if served is None:
            outcome.n_gone += 1
        else:
            degraded.update(_replay(outcome, served, record, events.get(record.user_id, [])))
        report(done + 1, len(sampled))
    outcome.degraded = dict(degraded)
    return outcome


def _replay(
    outcome: Replayed, served: Served, record: SlateRecord, events: list[Event]
) -> list[str]:
    """Adds one feed to the outcome; the steps that it lacked."""
    sample = decode_sample(record.features or b"")
    found, degraded = differences(served, record, sample)
    outcome.n_slates += 1
    outcome.n_same += not found
    if sample.read is not None:
        found += _replay_features(outcome, served, sample, events)
    if found:
        outcome.differing.append(Differing(record.request_id, record.release_id, found))
    return degraded


def _replay_features(
    outcome: Replayed, served: Served, sample: Sample, events: list[Event]
) -> list[Difference]:
    assert sample.read is not None
    basis, read = sample.basis, sample.read
    live = as_it_was(served, sample.items)
    person, _ = person_of(basis, live)
    known = known_before(served, person.row, _log_of(events, live), basis.now_s)
    if not _is_past_of(person, known):
        outcome.n_other_past += 1
        return []
    asked_s = basis.request.context.time_s
    dense = read.dense
    again = dense_of_pairs(
        served, person.bag, known, read.item_rows,
        row=person.row, now_s=basis.now_s if asked_s is None else asked_s,
    )  # fmt: skip
    is_same = (again == dense) | (np.isnan(again) & np.isnan(dense))
    outcome.n_features += 1
    outcome.n_same_features += bool(is_same.all())
    return [
        Difference(
            int(slot) + 1, read.names[column], str(dense[slot, column]), str(again[slot, column])
        )
        for slot, column in np.argwhere(~is_same)
    ]  # fmt: skip


def _is_past_of(person: Person, known: Interactions) -> bool:
    past = person.past
    return (
        np.array_equal(past.items, known.item)
        and np.array_equal(past.values, known.value, equal_nan=True)
        and np.array_equal(past.times_s, known.time_s, equal_nan=True)
    )


def _log_of(events: list[Event], live: LiveRelease) -> Interactions:
    """One user's events as a log: positive ones of items that a past is made of."""
    kinds, served = live.served.settings.positive_kinds, live.served
    events = [one for one in events if not kinds or one.kind in kinds]
    rows = live.rows_of([one.item_id for one in events])
    log = Interactions(
        user=np.zeros(len(rows), np.int32),
        item=rows,
        value=np.array([np.nan if one.value is None else one.value for one in events], np.float32),
        time_s=np.array([one.time_s for one in events], np.float64),
        n_users=1,
        n_items=served.n_items + len(served.newcomers),
    )
    return log.take(live.are_read(rows))


def _read(releases: Path, release_id: str) -> Served | None:
    """The release as it is served; None where it is not kept any more."""
    if not is_kept(releases, release_id):
        return None
    served = read_release(releases, release_id)
    served.compile(quickly=False)
    return served


def _slates(store: Store) -> Iterator[SlateRecord]:
    cursor = 0
    while page := store.slates_after(cursor, _PAGE):
        cursor = page[-1][0]
        yield from (record for _, record in page)


def _events_of(user_ids: set[str | None], store: Store) -> dict[str | None, list[Event]]:
    """What the log says of these users, in the order of the log."""
    found: dict[str | None, list[Event]] = {}
    cursor = 0
    while page := store.events_after(cursor, _PAGE):
        cursor = page[-1][0]
        for _, event in page:
            if event.user_id in user_ids:
                found.setdefault(event.user_id, []).append(event)
    return found
