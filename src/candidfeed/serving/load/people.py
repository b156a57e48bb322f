"""Who asks: users with their ids, some far more often than others."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidfeed.data.synthetic.oracle import Oracle
from candidfeed.errors import ConfigError

UserId: TypeAlias = str | int


@dataclass(frozen=True)
class People:
    """Users in rows.

    Attributes:
        ids: as the service knows them; None where the ids are the rows.
        share_up_to: share of the requests that come from users up to each row, ends at 1,
            float64 [n].
    """

    ids: tuple[str, ...] | None
    share_up_to: NDArray[np.float64]

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rows of `n` users, each by their share."""
        return np.searchsorted(self.share_up_to, rng.random(n), side="right")

    def user_id(self, row: int) -> UserId:
        return row if self.ids is None else self.ids[row]


def people_of_world(oracle: Oracle) -> People:
    """The users of a synthetic world, as active as they are in its log."""
    return _by_weight(oracle.world.users.tickets)


def people_by_zipf(n: int) -> People:
    """Users 0 to n - 1, of whom user u asks in proportion to 1 / (u + 1).

    Raises:
        ConfigError: that is nobody.
    """
    if n < 1:
        raise ConfigError(f"users should be 1 or more, but {n} came")
    return _by_weight(1 / np.arange(1, n + 1))


def people_of_file(path: Path) -> People:
    """One id a line; one that stands there twice asks twice as often.

    Raises:
        ConfigError: the file is not UTF-8, or names nobody.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 ({error.reason}); write one id a line") from error
    ids = tuple(line.strip() for line in lines if line.strip())
    if not ids:
        raise ConfigError(f"{path}: names no user; write one id a line")
    return _by_weight(np.ones(len(ids)), ids)


def _by_weight(weights: ArrayLike, ids: tuple[str, ...] | None = None) -> People:
    up_to = np.cumsum(weights, dtype=np.float64)
    return People(ids, up_to / up_to[-1])
