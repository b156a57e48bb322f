"""API keys: who may ask for what."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from candidfeed.store.records import ApiKey
from candidfeed.store.store import Store

Scope: TypeAlias = Literal["feed", "events", "admin", "metrics"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
FIRST_KEY: Final = "first"
_PREFIX: Final = "cf_"


@dataclass(frozen=True)
class Bearer:
    """Who asks, once their key was found.

    Attributes:
        name: of the key.
        user_id: the only user that they may ask about; None: any.
    """

    name: str
    scopes: tuple[str, ...]
    user_id: str | None

    def may_ask_about(self, user_id: str | None) -> bool:
        return self.user_id is None or user_id is None or user_id == self.user_id


ANYBODY: Final = Bearer("anybody", SCOPES, None)


class KeyRing:
    """The keys of a store, held in memory; for any thread.

    A key holds 256 random bits, so one round of SHA-256 keeps it as well as a slow hash would.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.refresh()

    def refresh(self) -> None:
        """Read them anew: one was added or removed.

        Raises:
            StoreError: the store can't be read; those of before stay.
        """
        self._by_hash = {key.hashed: key for key in self._store.keys()}

    def find(self, key: str, *, now_s: float) -> Bearer | None:
        """None where there is no such key, or no longer."""
        found = self._by_hash.get(_hashed(key))
        if found is None or (found.expires_s is not None and now_s >= found.expires_s):
            return None
        return Bearer(found.name, found.scopes, found.user_id)

    def entries(self) -> list[ApiKey]:
        return sorted(self._by_hash.values(), key=lambda one: one.name)

    def add(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        now_s: float,
        expires_s: float | None = None,
        user_id: str | None = None,
    ) -> str | None:
        """A new key in the place of the one of this name; None where its user was erased.

        Raises:
            StoreError: it could not be kept.
        """
        key = _PREFIX + secrets.token_urlsafe(32)
        entry = ApiKey(name, _hashed(key), tuple(scopes), now_s, expires_s, user_id)
        is_kept = self._store.add_key(entry)
        self.refresh()
        return key if is_kept else None

    def remove(self, name: str) -> bool:
        """Whether there was one.

        Raises:
            StoreError: it could not be removed.
        """
        was_there = self._store.remove_key(name)
        self.refresh()
        return was_there


def _hashed(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
