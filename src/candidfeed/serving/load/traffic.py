"""What is asked: feeds of people drawn by their activity, and what they did about them."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from candidfeed.serving.load.answers import Receipt, Slate, read_receipt, read_slate
from candidfeed.serving.load.clicks import Clicks
from candidfeed.serving.load.people import People, UserId

Kind: TypeAlias = Literal["feed", "events"]

PATHS: Final[dict[Kind, str]] = {"feed": "/v1/feed", "events": "/v1/events"}
# Clicks are drawn for so many slates at once: one by one the oracle would take longer than HTTP.
_SLATES_AT_ONCE: Final = 32
# Random draws are made in blocks.
_DRAWN_AT_ONCE: Final = 1_024
# Clicks that are not reported yet; the oldest beyond these are forgotten, and counted.
MOST_WAITING_CLICKS: Final = 100_000
_REMEMBERED_ITEMS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, and what is needed to judge its answer.

    Attributes:
        user: the row of who asks for a feed; -1 where events are sent.
        event_ids: of the events that are sent, in order.
    """

    kind: Kind
    body: bytes
    user: int = -1
    event_ids: tuple[str, ...] = ()


@dataclass
class Sent:
    """What became of the events of a whole run."""

    n_sent: int = 0
    n_accepted: int = 0
    n_duplicates: int = 0
    n_rejected: int = 0
    n_forgotten: int = 0
    acknowledged: list[str] = field(default_factory=list)


class Traffic:
    """Makes requests, one after the other, and learns from the answers what is clicked.

    With `events_share` 0 nobody clicks. Otherwise a request for events reports the oldest clicks
    that wait; where none does, one click on an item shown before that came by another way (without
    a request_id). With `events_share` 1, where nothing is shown, it is filled up with those.

    Args:
        limit: slots asked for.
        events_share: share of the requests that report events.
        batch: the most clicks of one such request.
        run_name: begins every event_id; no two runs may share one.
        now_s: the time told to the service, in seconds since 1970; None leaves it to its clock.
    """

    def __init__(
        self,
        people: People,
        clicks: Clicks,
        *,
        limit: int,
        events_share: float,
        batch: int,
        rng: np.random.Generator,
        run_name: str,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        self._people, self._clicks, self._limit = people, clicks, limit
        self.events_share, self._batch, self._rng = events_share, batch, rng
        self._run_name, self._now_s = run_name, now_s
        self._draws = self._drawn()
        self._unclicked: list[tuple[int, Slate]] = []
        self._clicked: deque[dict[str, Any]] = deque()
        self._shown: deque[str | int] = deque(maxlen=_REMEMBERED_ITEMS)
        self.sent = Sent()

    def next(self) -> Ask:
        """A feed or, by their share, events."""
        is_events, user = next(self._draws)
        if not is_events or not self._shown:
            return self.feed(user)
        return self.reports()

    def feed(self, user: int) -> Ask:
        asked: dict[str, object] = {"user_id": self.user_id(user), "limit": self._limit}
        if self._now_s is not None:
            asked["context"] = {"time_s": self._now_s()}
        return Ask("feed", json.dumps(asked).encode(), user=user)

    def user_id(self, row: int) -> UserId:
        return self._people.user_id(row)

    def reports(self) -> Ask:
        """Clicks that wait, or other ones."""
        if len(self._clicked) < self._batch:
            self._draw_clicks()
        n_waiting = min(len(self._clicked), self._batch)
        clicks = [self._clicked.popleft() for _ in range(n_waiting)]
        n_wanted = self._batch if self.events_share == 1 else 1
        users = self._people.draw(max(n_wanted - n_waiting, 0), self._rng).tolist()
        return self._events(clicks + [self._unasked_click(user) for user in users])

    def left(self, *, batch: int) -> Iterator[Ask]:
        """What was clicked and not reported yet, in batches."""
        self._draw_clicks()
        while self._clicked:
            n = min(len(self._clicked), batch)
            yield self._events([self._clicked.popleft() for _ in range(n)])

    def read(self, ask: Ask, body: bytes) -> Slate | Receipt:
        """A good answer, remembered.

        Raises:
            WrongAnswerError: it is not what the service promises.
        """
        if ask.kind == "events":
            receipt = read_receipt(body, n_events=len(ask.event_ids))
            self._acknowledge(ask.event_ids, receipt)
            return receipt
        slate = read_slate(body, limit=self._limit)
        if self.events_share:
            self._show(ask.user, slate)
        return slate

    def _acknowledge(self, event_ids: tuple[str, ...], receipt: Receipt) -> None:
        self.sent.n_accepted += receipt.n_accepted
        self.sent.n_duplicates += receipt.n_duplicates
        self.sent.n_rejected += len(receipt.rejected)
        kept = (name for n, name in enumerate(event_ids) if n not in receipt.rejected)
        self.sent.acknowledged.extend(kept)

    def _show(self, user: int, slate: Slate) -> None:
        self._shown.extend(slate.items)
        self._unclicked.append((user, slate))
        if len(self._unclicked) >= _SLATES_AT_ONCE:
            self._draw_clicks()

    def _draw_clicks(self) -> None:
        shown = [
            (user, slate.request_id, item, position)
            for user, slate in self._unclicked
            for position, item in enumerate(slate.items, start=1)
        ]
        self._unclicked.clear()
        if not shown:
            return
        users, request_ids, items, positions = zip(*shown, strict=True)
        p_click = self._clicks.p_click(users, items, positions)
        for n in np.flatnonzero(self._rng.random(len(shown)) < p_click).tolist():
            click = self._click(users[n], items[n])
            self._clicked.append({**click, "request_id": request_ids[n], "position": positions[n]})
        while len(self._clicked) > MOST_WAITING_CLICKS:
            self._clicked.popleft()
            self.sent.n_forgotten += 1

    def _events(self, events: list[dict[str, Any]]) -> Ask:
        """Each event gets its event_id here, and its time where one is told."""
        first = self.sent.n_sent
        self.sent.n_sent += len(events)
        names = tuple(f"{self._run_name}-{first + n}" for n in range(len(events)))
        time = {} if self._now_s is None else {"time_s": self._now_s()}
        told = [{"event_id": name, **one, **time} for name, one in zip(names, events, strict=True)]
        return Ask("events", json.dumps({"events": told}).encode(), event_ids=names)

    def _unasked_click(self, user: int) -> dict[str, Any]:
        return self._click(user, self._shown[int(self._rng.integers(len(self._shown)))])

    def _click(self, user: int, item: str | int) -> dict[str, Any]:
        return {"user_id": self.user_id(user), "item_id": item, "kind": "click"}

    def _drawn(self) -> Iterator[tuple[bool, int]]:
        while True:
            users = self._people.draw(_DRAWN_AT_ONCE, self._rng).tolist()
            is_events = (self._rng.random(_DRAWN_AT_ONCE) < self.events_share).tolist()
            yield from zip(is_events, users, strict=True)
