"""What a feed is made from beside its release: one piece of code for serving and for replaying."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from candidfeed.data.vocabulary import UNKNOWN
from candidfeed.errors import DataError
from candidfeed.feed.eligibility import BLOCKED, DENIED, SEEN, among
from candidfeed.feed.pipeline import LATEST, POPULAR, Ask, in_retrieval_order, rank, retrieve
from candidfeed.feed.policy import Policy
from candidfeed.feed.served import Person, Rows
from candidfeed.feed.slate import Slate
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.wire import FeedRequest
from candidfeed.store.history import History

# What may be left out of a feed, by the name under which it is told and counted.
STORE_DOWN: Final = "store_down"
RETRIEVAL_LATE: Final = "retrieval_late"
RANKER_LATE: Final = "ranker_late"
USER_FEATURES: Final = "user_features"
# Of a user's fields: items that they never want to see.
BLOCKED_ITEMS: Final = "blocked_items"
# Likewise those with one of these values, by column.
MUTED_VALUES: Final = "muted"


@dataclass(frozen=True)
class KnownUser:
    """
    Attributes:
        fields: what was put of them; empty where nothing was.
        is_erased: nothing of them may be read any more, in the release neither.
    """

    fields: Mapping[str, Any]
    is_erased: bool


NOBODY: Final = KnownUser({}, is_erased=False)


@dataclass(frozen=True)
class Basis:
    """
    Attributes:
        request_id: what is drawn follows from it.
        now_s: when the request came, seconds since 1970.
        known: what was put of the user.
        later: what they did since the release was made; None: nothing that they did is read.
        seen: items of their events, further back than `later`.
        counts: how many events the store holds of them, by kind; only told.
        is_told: the store could not be read; `later` is what the client says.
    """

    request: FeedRequest
    request_id: str
    now_s: float
    known: KnownUser = NOBODY
    later: History | None = None
    seen: frozenset[str] = frozenset()
    counts: Mapping[str, int] = field(default_factory=dict)
    is_told: bool = False

    def without_past(self, live: LiveRelease) -> "Basis":
        """The same with no more of its user than what they may not be shown."""
        seen = self.seen
        if self.is_by_release and self.request.user_id is not None:
            past = live.served.person(self.request.user_id).past
            seen |= {str(one) for one in live.served.ids_of(past.items)}
        return Basis(
            self.request, self.request_id, self.now_s,
            known=self.known, seen=seen, is_told=self.is_told,
        )  # fmt: skip

    @property
    def is_by_release(self) -> bool:
        """Whether what the release knows of the user is read."""
        return self.later is not None and not self.known.is_erased and not self.is_told


def person_of(basis: Basis, live: LiveRelease) -> tuple[Person, bool]:
    """Whom the feed is for, and whether what was put of them could be read."""
    user_id, later = basis.request.user_id, basis.later
    if user_id is None or later is None or basis.known.is_erased:
        return live.served.anonymous, True
    past = live.past_of(later)
    if not basis.is_by_release:
        # Whether they were erased can't be told: what the release knows is not read.
        return replace(live.served.anonymous, past=past), True
    try:
        return live.person(user_id, past, basis.known.fields), True
    except DataError:
        # They were put under a release whose columns were others.
        return live.person(user_id, past, {}), False


def ask_of(basis: Basis, live: LiveRelease, policy: Policy) -> tuple[Ask, int]:
    """What is asked for, and how many of the items that it names the release has not."""
    request, fields = basis.request, basis.known.fields
    named: Mapping[str, Sequence[str]] = {
        SEEN: list(basis.seen),
        DENIED: request.deny,
        BLOCKED: fields.get(BLOCKED_ITEMS, []),
    }
    rows = {reason: live.rows_of(ids) for reason, ids in named.items() if len(ids)}
    allowed = None if request.allow is None else live.rows_of(request.allow)
    asked_s = request.context.time_s
    # What has expired by now is not shown for another time either.
    rules = [*live.rules(basis.now_s if asked_s is None else max(basis.now_s, asked_s))]
    rules += [among(reason, _known(one)) for reason, one in rows.items()]
    if muted := fields.get(MUTED_VALUES):
        rules.append(live.muted(muted))
    ask = Ask(
        k=request.limit,
        now_s=basis.now_s if asked_s is None else asked_s,
        rules=tuple(rules),
        allowed=None if allowed is None else _known(allowed),
        everybodys=LATEST if request.mode == "latest" else POPULAR,
        policy=policy,
        request_id=basis.request_id,
        in_full=request.debug,
    )
    every = [*rows.values(), *(() if allowed is None else (allowed,))]
    return ask, sum(int((one == UNKNOWN).sum()) for one in every)


def slate_of(
    basis: Basis, live: LiveRelease, policy: Policy, *, left_out: Sequence[str] = ()
) -> Slate:
    """The whole slate at once, without the steps that were left out."""
    if RETRIEVAL_LATE in left_out:
        basis = basis.without_past(live)
    person, _ = person_of(basis, live)
    ask, _ = ask_of(basis, live, policy)
    retrieved = retrieve(live.served, person, ask)
    is_ranked = ask.everybodys != LATEST and not {RANKER_LATE, RETRIEVAL_LATE} & set(left_out)
    return (rank if is_ranked else in_retrieval_order)(live.served, person, retrieved, ask)


def _known(rows: Rows) -> Rows:
    return rows[rows != UNKNOWN]
