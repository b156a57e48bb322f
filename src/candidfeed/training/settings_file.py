"""Settings of both stages as a TOML file: what `tune` writes, `evaluate` and `build` read.

The tables and keys are the fields of `TwoStageSettings`; what a file does not name keeps its
default, and a file names nothing else. An unknown key is an error that names the nearest known one.
"""

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from candidfeed.config import read_toml, suggest
from candidfeed.errors import ConfigError
from candidfeed.training.two_stage import TwoStageSettings

# Where a killed training goes on says nothing of what is trained.
_NOT_IN_FILES = frozenset({"resume"})
_MAY_BE_0 = (
    ".n_epochs",
    ".patience",
    ".n_neighbour_dims",
    ".n_uniform",
    ".n_by_events",
    ".n_draws",
)
_NUMBERS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def load_settings(path: Path) -> TwoStageSettings:
    """
    Raises:
        ConfigError: the file can't be read, is no TOML, or has a key or value that is not known.
    """
    document = read_toml(path)
    try:
        return _made(TwoStageSettings, document, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def written(settings: TwoStageSettings) -> str:
    """What differs from the defaults, as TOML; `load_settings` makes the same settings of it."""
    lines = _table_lines(settings, TwoStageSettings(), "")
    return "".join(f"{line}\n" for line in lines)


def _made(kind: type, table: object, place: str) -> Any:
    """One of our dataclasses from a table of the file."""
    if not isinstance(table, dict):
        raise ConfigError(f"{place!r}: should be a table, [{place}], but {table!r} came")
    hints = typing.get_type_hints(kind)
    known = [each.name for each in fields(kind) if each.name not in _NOT_IN_FILES]
    values = {}
    for key, value in table.items():
        at = f"{place}.{key}" if place else key
        if key not in known:
            raise ConfigError(f"{at!r} is not a key here{suggest(key, known)}")
        values[key] = _checked(hints[key], value, at)
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _checked(hint: Any, value: object, place: str) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(one for one in typing.get_args(hint) if one is not types.NoneType)
    if is_dataclass(hint) and isinstance(hint, type):
        return _made(hint, value, place)
    if typing.get_origin(hint) in (dict, Mapping):
        if not isinstance(value, dict):
            raise ConfigError(f"{place!r}: should be a table, [{place}], but {value!r} came")
        inner = typing.get_args(hint)[1]
        return {key: _checked(inner, one, f"{place}.{key}") for key, one in value.items()}
    # TOML tells 1 from 1.0, a person need not; true is no number.
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint:
        raise ConfigError(f"{place!r}: should be {_NUMBERS.get(hint, hint)}, but {value!r} came")
    least = -math.inf if place.startswith("value_weights.") else 0
    if isinstance(value, float) and not (math.isfinite(value) and value >= least):
        wanted = "finite" if least else "finite and 0 or more"
        raise ConfigError(f"{place!r}: should be {wanted}, but {value!r} came")
    if hint is int and typing.cast(int, value) < (0 if place.endswith(_MAY_BE_0) else 1):
        raise ConfigError(f"{place!r}: should be larger, but {value!r} came")
    return value


def _table_lines(settings: Any, defaults: Any, place: str) -> list[str]:
    """Plain keys first: in TOML they belong to the table that stands before them."""
    plain, tables = [], []
    for name in (each.name for each in fields(settings)):
        value, usual = getattr(settings, name), getattr(defaults, name)
        if value == usual or value is None or name in _NOT_IN_FILES:
            continue
        at = f"{place}.{name}" if place else name
        if is_dataclass(value):
            tables += _table_lines(value, usual, at)
        elif isinstance(value, Mapping):
            tables += [f"[{at}]", *(f"{_key(key)} = {_value(one)}" for key, one in value.items())]
        else:
            plain.append(f"{name} = {_value(value)}")
    if plain and place:
        plain.insert(0, f"[{place}]")
    return plain + tables


def _key(name: str) -> str:
    return (
        name
        if name.replace("_", "").replace("-", "").isalnum() and name.isascii()
        else _value(name)
    )


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
