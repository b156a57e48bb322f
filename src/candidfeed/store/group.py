"""What waits to be written, and how a group of it becomes one transaction."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from candidfeed.store.database import Database
from candidfeed.store.records import Erasure, Event, Outcome, Receipt, SlateRecord
from candidfeed.store.tables import Writing


def _promised() -> Future[Any]:
    """A future that can't be cancelled: what waits is written, whoever still waits for it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(eq=False, slots=True)
class AddEvents:
    """A batch of events."""

    events: Sequence[Event]
    done: Future[Receipt] = field(default_factory=_promised)


@dataclass(eq=False, slots=True)
class EraseUser:
    """The erasure of a user."""

    user_id: str
    time_s: float
    done: Future[Erasure] = field(default_factory=_promised)


@dataclass(eq=False, slots=True)
class OtherWrite:
    """Any other write: what it does in the group's transaction."""

    run: Callable[[Writing], Any]
    done: Future[Any] = field(default_factory=_promised)


@dataclass(eq=False, slots=True)
class Compact:
    """The files written anew, between two transactions."""

    done: Future[None] = field(default_factory=_promised)


Write: TypeAlias = AddEvents | EraseUser | OtherWrite | Compact


@dataclass(frozen=True, slots=True)
class Committed:
    """What a transaction did: an answer for each write, and what others must be told."""

    answers: list[Any]
    added: list[tuple[int, Event]]
    outcomes: list[Outcome]
    erased: set[str]


def commit_group(
    database: Database, secret: bytes, group: Sequence[Write], slates: Sequence[SlateRecord]
) -> Committed:
    """Write all of it in one transaction, on disk when this returns; nothing where it raises.

    Events come first, then slates, then the rest in its order: whoever is erased in this group
    loses what the group brought of them.

    Raises:
        StoreError: nothing was written, or, where the connection was lost, it can't be known.
    """
    events = [event for write in group if isinstance(write, AddEvents) for event in write.events]
    added: list[tuple[int, Event]] = []
    erased: set[str] = set()
    with database.transaction() as transaction:
        writing = Writing(transaction, secret)
        told = writing.add_events(events)
        if slates:
            writing.add_slates(slates)
        if not (group or slates):
            writing.probe()
        outcomes: list[Outcome] = [outcome for outcome, _ in told]
        left = iter(outcomes)
        answers: list[Any] = []
        for write in group:
            match write:
                case AddEvents():
                    answers.append(Receipt(tuple(next(left) for _ in write.events)))
                case EraseUser():
                    n_events, n_slates = writing.erase_user(write.user_id, write.time_s)
                    answers.append(Erasure(n_events, n_slates, is_scrubbed=False))
                    erased.add(write.user_id)
                case OtherWrite():
                    answers.append(write.run(writing))
    for (outcome, cursor), event in zip(told, events, strict=True):
        if outcome == "accepted":
            added.append((cursor, event))
    return Committed(answers, added, outcomes, erased)
