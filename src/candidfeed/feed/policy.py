"""What a feed's slates keep to beside the value of each item: the TOML file of `--policy`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from candidfeed.config import read_toml, suggest
from candidfeed.errors import ConfigError

_MOST_POSITIONS: Final = 50


@dataclass(frozen=True)
class Explore:
    """Slots whose items are drawn, to learn of items that the models would not show.

    Attributes:
        positions: of a slate, from 1, ascending.
        pool: of how many candidates, those next in order, each of the same chance.
    """

    positions: tuple[int, ...] = ()
    pool: int = 100


@dataclass(frozen=True)
class Brake:
    """How far one touched item may turn a slate over.

    Attributes:
        share: of the k slots, at least one, those that may hold what stage one would not have among
            its first k had the user not touched the item that they touched last; 1: all.
        longest_past: touched items up to which a past is braked: in a longer one a single item
            moves little by itself.
    """

    share: float = 0.25
    longest_past: int = 6


@dataclass(frozen=True)
class Policy:
    """
    Attributes:
        diversity: 0 (by value alone) to 1 (unlike each other alone); see `selection.select_by`.
        caps: by column of the items, how many slots of a slate may have one and the same value.
    """

    diversity: float = 0.0
    caps: Mapping[str, int] = field(default_factory=dict)
    explore: Explore = field(default_factory=Explore)
    brake: Brake = field(default_factory=Brake)

    @property
    def caps_alone(self) -> "Policy":
        """For a list whose order is stated: some are left out, none is moved."""
        return Policy(caps=self.caps, brake=Brake(share=1.0))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(table: Mapping[str, Any]) -> "Policy":
        """What `to_json` gave, or a file says; what it leaves out has its default.

        Raises:
            ConfigError: a key is not known, or a value can't be.
        """
        _require_known(table, Policy, "")
        explore, brake = (_table(table, name) for name in ("explore", "brake"))
        _require_known(explore, Explore, "explore.")
        _require_known(brake, Brake, "brake.")
        usual = Policy()
        positions = _positions(explore.get("positions", ()))
        pool = _count(explore.get("pool", usual.explore.pool), "explore.pool")
        if pool < len(positions):
            raise ConfigError(f"'explore.pool': {pool} can't fill {len(positions)} positions")
        return Policy(
            diversity=_share(table, "diversity", usual.diversity),
            caps={name: _count(cap, f"caps.{name}") for name, cap in _table(table, "caps").items()},
            explore=Explore(positions, pool),
            brake=Brake(
                _share(brake, "share", usual.brake.share, "brake."),
                _count(brake.get("longest_past", usual.brake.longest_past), "brake.longest_past"),
            ),
        )


DEFAULT_POLICY: Final = Policy()


def load_policy(path: Path) -> Policy:
    """
    Raises:
        ConfigError: the file can't be read, is no TOML, or has a key or value that can't be.
    """
    document = read_toml(path)
    try:
        return Policy.of(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _require_known(table: Mapping[str, Any], kind: Any, place: str) -> None:
    known = [one.name for one in fields(kind)]
    for key in table:
        if key not in known:
            raise ConfigError(f"{place + key!r} is not a key here{suggest(key, known)}")


def _table(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    came = table.get(name, {})
    if not isinstance(came, Mapping):
        raise ConfigError(f"{name!r}: should be a table, [{name}], but {came!r} came")
    return came


def _share(table: Mapping[str, Any], name: str, usual: float, place: str = "") -> float:
    came = table.get(name, usual)
    if isinstance(came, bool) or not isinstance(came, int | float) or not 0 <= came <= 1:
        raise ConfigError(f"{place + name!r}: should be a number from 0 to 1, but {came!r} came")
    return float(came)


def _count(came: object, place: str) -> int:
    if isinstance(came, bool) or not isinstance(came, int) or came < 1:
        raise ConfigError(f"{place!r}: should be a whole number from 1, but {came!r} came")
    return came


def _positions(came: object) -> tuple[int, ...]:
    place = "explore.positions"
    if not isinstance(came, list | tuple):
        raise ConfigError(f"{place!r}: should be an array such as [5, 15], but {came!r} came")
    positions = tuple(_count(one, place) for one in came)
    if list(positions) != sorted(set(positions)) or len(positions) > _MOST_POSITIONS:
        raise ConfigError(
            f"{place!r}: should be at most {_MOST_POSITIONS} ascending places, but {came!r} came"
        )
    return positions
