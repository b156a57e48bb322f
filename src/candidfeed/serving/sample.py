"""What is kept of a share of the feeds to make them again: all that they were made from.

Of these, `SlateRecord.features` holds JSON, compressed by zlib. It goes with the user when they
are erased, like all of the record.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from candidfeed.errors import DataError
from candidfeed.feed.cards import Card
from candidfeed.feed.served import Floats, Rows, Served
from candidfeed.feed.slate import Slate
from candidfeed.ranking.inputs import DENSE_FEATURES
from candidfeed.serving.basis import Basis, KnownUser
from candidfeed.serving.item_changes import EXPIRES
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.wire import FeedRequest
from candidfeed.store.history import History
from candidfeed.store.records import RECORD_BYTES, Change

_FORMAT: Final = 1
# What comes out is at most this: a record that grows beyond was not made by us.
_MOST_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class ItemChanges:
    """What had changed of a release's items.

    Attributes:
        newcomers: items that the release does not hold, in the order of their rows: id, when it
            came, in seconds since 1970, and what was put of it.
        gone: deleted items.
        expires_s: of items that expire.
        edited: of items of the release that are called or counted otherwise since: the title, and
            what stands in each column of categories or tags.
    """

    newcomers: tuple[tuple[str, float, Mapping[str, Any]], ...]
    gone: tuple[str, ...]
    expires_s: Mapping[str, float]
    edited: Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Read:
    """What the ranker read of the slots.

    Attributes:
        user_row: the number of users for one that the release does not know.
        item_rows: int32 [n].
        dense: float32 [n, len(names)].
    """

    user_row: int
    item_rows: Rows
    names: tuple[str, ...]
    dense: Floats


@dataclass(frozen=True)
class Sample:
    """
    Attributes:
        read: None where the ranker was not asked.
    """

    basis: Basis
    items: ItemChanges
    read: Read | None


def is_sampled(request_id: str, share: float) -> bool:
    """The same for the same request, whoever asks, and apart from what is drawn by its id."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=8, person=b"sample").digest()
    return int.from_bytes(digest) < share * 2**64


def read_of(live: LiveRelease, slate: Slate) -> Read | None:
    """None where the ranker was not asked."""
    if slate.dense is None:
        return None
    rows = live.rows_of([str(slot.item_id) for slot in slate.slots])
    return Read(slate.person.row, rows, DENSE_FEATURES, slate.dense)


class Packing:
    """Makes samples while nothing changes of the items: what they all say of these is made once.

    Of thousands of changes it would take as long as many feeds. For any thread.
    """

    def __init__(self, items: ItemChanges) -> None:
        self._compressing = zlib.compressobj()
        self._first = self._compressing.compress(f'{{"items":{_json(vars(items))},'.encode())

    def pack(self, basis: Basis, read: Read | None) -> bytes | None:
        """None where it is more than a record may hold."""
        if len(self._first) > RECORD_BYTES:
            return None
        request = basis.request.model_dump(mode="json", exclude_defaults=True, exclude={"history"})
        rest = {
            "format": _FORMAT,
            "request": request,
            "request_id": basis.request_id,
            "now_s": basis.now_s,
            "known": asdict(basis.known),
            "later": None if basis.later is None else asdict(basis.later),
            "seen": sorted(basis.seen),
            "is_told": basis.is_told,
            "read": None if read is None else _read_json(read),
        }
        compressing = self._compressing.copy()
        ended = compressing.compress(_json(rest).removeprefix("{").encode())
        packed = self._first + ended + compressing.flush()
        return packed if len(packed) <= RECORD_BYTES else None


def encode_sample(sample: Sample) -> bytes | None:
    """None where it is more than a record may hold."""
    return Packing(sample.items).pack(sample.basis, sample.read)


def decode_sample(packed: bytes) -> Sample:
    """
    Raises:
        DataError: this is not what `encode_sample` gave.
    """
    try:
        unpacking = zlib.decompressobj()
        content = json.loads(unpacking.decompress(packed, _MOST_BYTES))
        if content["format"] != _FORMAT:
            raise DataError(f"sample: of format {content['format']}, not {_FORMAT}")
        later, read = content["later"], content["read"]
        basis = Basis(
            request=FeedRequest.model_validate(content["request"]),
            request_id=content["request_id"],
            now_s=content["now_s"],
            known=KnownUser(**content["known"]),
            later=None
            if later is None
            else History(**{name: tuple(later[name]) for name in later}),
            seen=frozenset(content["seen"]),
            is_told=content["is_told"],
        )
        items = content["items"]
        return Sample(
            basis,
            ItemChanges(
                newcomers=tuple((one, born_s, put) for one, born_s, put in items["newcomers"]),
                gone=tuple(items["gone"]),
                expires_s=items["expires_s"],
                edited={
                    one: (title, {name: tuple(each) for name, each in values.items()})
                    # None of them is told in records of before.
                    for one, (title, values) in items.get("edited", {}).items()
                },
            ),
            None if read is None else _read_of_json(read),
        )
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise DataError(f"sample: can't be read ({type(error).__name__}: {error})") from error


def as_it_was(served: Served, items: ItemChanges) -> LiveRelease:
    """The release with its items as they were then; what was taken in before is forgotten."""
    served.index.reset()
    served.newcomers.reset()
    served.cards.reset()
    live = LiveRelease(served)
    live.follow(Change(0, one, dict(put), born_s) for one, born_s, put in items.newcomers)
    new = {one for one, _, _ in items.newcomers}
    ends = {one: at for one, at in items.expires_s.items() if one not in new}
    live.follow(Change(0, one, {EXPIRES: expires_s}, 0.0) for one, expires_s in ends.items())
    live.follow(Change(0, one, None, 0.0) for one in items.gone)
    rows = live.rows_of([*items.edited]).tolist()
    cards = (Card(title, values) for title, values in items.edited.values())
    served.cards.put(dict(zip(rows, cards, strict=True)))
    return live


def changed_of(live: LiveRelease) -> ItemChanges:
    """What has changed of its items by now."""
    changes, served = live.changes, live.served
    expiring = np.empty(0, np.intp)
    if len(changes.ends_s):
        expiring = np.flatnonzero(np.isfinite(changes.expires_s))
    edited = {row: card for row, card in served.cards.changed.items() if row < served.n_items}

    def named(places: NDArray[np.intp]) -> list[str]:
        return [str(one) for one in served.ids_of(places.astype(np.int32))]

    return ItemChanges(
        newcomers=tuple(
            (str(one.item_id), one.born_s, one.fields) for one in served.newcomers.items
        ),
        gone=tuple(named(np.flatnonzero(changes.is_gone))),
        expires_s=dict(zip(named(expiring), changes.expires_s[expiring].tolist(), strict=True)),
        edited=dict(
            zip(
                named(np.array([*edited], np.intp)),
                ((card.title, card.values) for card in edited.values()),
                strict=True,
            )
        ),
    )


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"))


def _read_json(read: Read) -> dict[str, Any]:
    # The shortest text of each float32: read again it is the same one.
    dense = [[float(str(one)) for one in row] for row in read.dense]
    return {
        "user_row": read.user_row,
        "item_rows": read.item_rows.tolist(),
        "names": read.names,
        "dense": dense,
    }


def _read_of_json(read: Mapping[str, Any]) -> Read:
    rows, names = np.array(read["item_rows"], np.int32), tuple(read["names"])
    dense = np.array(read["dense"], np.float32).reshape(len(rows), len(names))
    return Read(read["user_row"], rows, names, dense)
