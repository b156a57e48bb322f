"""What is known of users beside the release: kept for those asked for lately."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from candidfeed.store.store import Store

_MOST: Final = 100_000


@dataclass(frozen=True)
class KnownUser:
    """
    Attributes:
        fields: what was put of them; empty where nothing was.
        is_erased: nothing of them may be read any more, in the release neither.
    """

    fields: Mapping[str, Any]
    is_erased: bool


class People:
    """`KnownUser` of a store's users, from memory or the store; for any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, KnownUser] = OrderedDict()
        self._n_forgotten = 0
        self._lock = threading.Lock()

    def get(self, user_id: str) -> KnownUser:
        """
        Raises:
            StoreError: the store can't be read.
        """
        with self._lock:
            if (known := self._known.get(user_id)) is not None:
                self._known.move_to_end(user_id)
                return known
            n_forgotten = self._n_forgotten
        change = self._store.user(user_id)
        known = KnownUser((change and change.fields) or {}, self._store.is_erased(user_id))
        with self._lock:
            # What was read before a change is not kept after it.
            if n_forgotten == self._n_forgotten:
                self._known[user_id] = known
                if len(self._known) > _MOST:
                    self._known.popitem(last=False)
        return known

    def forget(self) -> None:
        """Read all anew: somebody was put or erased."""
        with self._lock:
            self._n_forgotten += 1
            self._known.clear()
