"""The TOML file that says what the columns of a person's own log mean (docs/data.md).

One frozen model a table of the file. An unknown key is an error that names the file, the key's full
path and the nearest known key.
"""

import difflib
import tomllib
import types
import typing
import zoneinfo
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from candidfeed.errors import ConfigError

# The words of `data.tables.FeatureKind`, which this layer may not import; a test compares them.
FeatureKind = Literal["category", "tags", "number", "bucket", "text", "time"]
TimestampUnit = Literal["s", "ms", "us"]

# Heads that the ranker has without a declaration: a label can't have their names.
TAKEN_LABELS = ("engaged", "liked", "rating")

# The file's name where it stands for its folder.
FOLDER_CONFIG = "candidfeed.toml"

Name = Annotated[str, Field(min_length=1)]
FileStem = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^/\\\x00-\x1f]+$")]
LabelName = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9_-]+$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FeatureConfig(_Table):
    """One column that is known of users or items; see `data.tables.Feature`."""

    kind: FeatureKind
    column: Name | None = None
    sensitive: bool = False
    separator: Name = "|"
    timestamp_unit: TimestampUnit | None = None
    timezone: Name | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "separator" in self.model_fields_set and self.kind != "tags":
            raise ValueError(f"separator is for kind = 'tags', not {self.kind!r}; drop it")
        if self.kind != "time" and (self.timestamp_unit or self.timezone):
            raise ValueError(
                f"timestamp_unit and timezone are for kind = 'time', not {self.kind!r}; drop them"
            )
        _check_timezone(self.timezone)
        return self


class EventsConfig(_Table):
    """Where the log is and what its columns mean."""

    path: Name
    user_id: Name
    item_id: Name
    timestamp: Name | None = None
    timestamp_unit: TimestampUnit | None = None
    timezone: Name | None = None
    value: Name | None = None
    value_min: Finite | None = None
    value_max: Finite | None = None
    like_at: Finite | None = None
    kind: Name | None = None
    kinds: tuple[Name, ...] | None = None
    positive: tuple[Name, ...] | None = None
    shown: Name | None = None
    position: Name | None = None
    attribution_s: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 3600.0
    max_bad_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_companions()
        self._check_values()
        _check_timezone(self.timezone)
        for key, names in {"positive": self.positive or (), "shown": self.shown_kinds}.items():
            for name in names:
                if self.kinds is not None and name not in self.kinds:
                    raise ValueError(f"{key}: {name!r} is none of kinds{suggest(name, self.kinds)}")
        if self.shown is not None and self.shown in (self.positive or ()):
            raise ValueError(f"positive: {self.shown!r} is what was shown, not what was done")
        return self

    @property
    def shown_kinds(self) -> tuple[str, ...]:
        """The kind of `shown`, none where it is not stated."""
        return (self.shown,) if self.shown is not None else ()

    def _check_companions(self) -> None:
        needs = {
            "timestamp_unit": "timestamp",
            "timezone": "timestamp",
            "value_min": "value",
            "value_max": "value",
            "like_at": "value",
            "kinds": "kind",
            "positive": "kind",
            "shown": "kind",
            "position": "shown",
        }
        for key, needed in needs.items():
            if getattr(self, key) is not None and getattr(self, needed) is None:
                raise ValueError(
                    f"{key} needs {needed}, the name of its column; add it or drop {key}"
                )
        for key in ("kinds", "positive"):
            names = getattr(self, key)
            if names is not None and (not names or len(set(names)) < len(names)):
                raise ValueError(f"{key} should name at least one kind, and each once")

    def _check_values(self) -> None:
        low, high = self.value_min, self.value_max
        if low is not None and high is not None and low >= high:
            raise ValueError(f"value_min {low:g} should be less than value_max {high:g}")
        if self.like_at is None:
            return
        if (low is not None and self.like_at < low) or (high is not None and self.like_at > high):
            raise ValueError(f"like_at {self.like_at:g} is outside value_min to value_max")


class UsersConfig(_Table):
    """Where the table of users is, and which of its columns are features."""

    path: Name
    user_id: Name
    features: dict[Name, FeatureConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_feature_names(self.features, taken=("user_id",))
        return self


class ItemsConfig(_Table):
    """Where the table of items is, and which of its columns are features."""

    path: Name
    item_id: Name
    title: Name | None = None
    features: dict[Name, FeatureConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_feature_names(self.features, taken=("item_id", "title"))
        return self


class LabelConfig(_Table):
    """What a head of the ranker predicts of an impression; see `data.tables.Label`."""

    kinds: tuple[Name, ...]
    counted: bool = False
    weight: Finite = 0.0


class DatasetConfig(_Table):
    """The whole file."""

    name: FileStem | None = None
    events: EventsConfig
    labels: dict[LabelName, LabelConfig] = Field(default_factory=dict)
    users: UsersConfig | None = None
    items: ItemsConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, label in self.labels.items():
            self._check_label(name, label)
        return self

    def _check_label(self, name: str, label: LabelConfig) -> None:
        events = self.events
        if events.shown is None or events.timestamp is None:
            missing = "shown" if events.shown is None else "timestamp"
            raise ValueError(
                f"labels.{name} needs events.{missing}: a label says what follows an impression"
            )
        if name in TAKEN_LABELS:
            raise ValueError(
                f"labels.{name}: this name is taken by a head of its own; choose another"
            )
        if not label.kinds or len(set(label.kinds)) < len(label.kinds):
            raise ValueError(f"labels.{name}.kinds should name at least one kind, and each once")
        for kind in label.kinds:
            if kind == events.shown:
                raise ValueError(
                    f"labels.{name}.kinds: {kind!r} is what was shown, not what was done"
                )
            if events.kinds is not None and kind not in events.kinds:
                raise ValueError(
                    f"labels.{name}.kinds: {kind!r} is none of kinds{suggest(kind, events.kinds)}"
                )


def read_toml(path: Path) -> dict[str, Any]:
    """
    Raises:
        ConfigError: the file can't be read, is not UTF-8, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error


def load_config(path: Path) -> DatasetConfig:
    """Read and check one TOML file.

    Raises:
        ConfigError: the file can't be read, is no TOML, or has a key or value that is not known;
            every fault of the file is named in the one message.
    """
    document = read_toml(path)
    try:
        return DatasetConfig.model_validate(_with_tuples(document))
    except ValidationError as error:
        # A key that is spelt wrong comes first: it is often why another one is missing.
        faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
        told = "; ".join(_describe_fault(dict(fault)) for fault in faults)
        raise ConfigError(f"{path}: {told}") from error


def suggest(name: str, known: Sequence[str]) -> str:
    """The end of an error message about a name that is not known."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    question = f"; did you mean {nearest[0]!r}?" if nearest else ";"
    listed = ", ".join(repr(one) for one in list(known)[:20]) or "none"
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return f"{question} there are: {listed}{more}"


def _with_tuples(value: Any) -> Any:
    """The same with a tuple for each array: strict models take no list for one."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _check_timezone(name: str | None) -> None:
    if name is None or name == "UTC":
        return
    known = sorted(zoneinfo.available_timezones())
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = (
            f"; did you mean {nearest[0]!r}?" if nearest else "; write one such as 'Europe/Zurich'"
        )
        raise ValueError(f"timezone {name!r} is not known{hint}")


def _check_feature_names(features: dict[str, FeatureConfig], *, taken: tuple[str, ...]) -> None:
    for name in features:
        if name in taken or name.startswith("_"):
            raise ValueError(
                f"features.{name}: this name is taken by the table itself; choose another and say "
                "column = ..."
            )


def _describe_fault(fault: dict[str, Any]) -> str:
    """One of pydantic's findings in our words: the key's full path, what came, what to do."""
    place = fault["loc"]
    key = ".".join(str(part) for part in place)
    if fault["type"] == "extra_forbidden":
        return f"{key!r} is not a key here{suggest(str(place[-1]), _known_keys(place[:-1]))}"
    if fault["type"] == "missing":
        return f"{key!r} is missing; add it"
    if fault["type"] == "value_error":
        reason = str(fault["ctx"]["error"])
        return f"{key}: {reason}" if key else reason
    message = fault["msg"].removeprefix("Input ").replace("String should", "should")
    wording = {
        "model_type": f"should be a table, [{key}]",
        "tuple_type": 'should be an array, such as ["view", "click"]',
        "string_pattern_mismatch": "should hold no slash and no control character",
    }
    return f"{key!r}: {wording.get(fault['type'], message)}, but {fault['input']!r} came"


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    """The keys of the model that stands at this place of the file."""
    model: type[BaseModel] = DatasetConfig
    parts = list(place)
    while parts:
        annotation = model.model_fields[str(parts.pop(0))].annotation
        model = _model_in(annotation)
        if typing.get_origin(annotation) is dict and parts:
            parts.pop(0)
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel]:
    """The one model class inside `Model`, `Model | None` or `dict[..., Model]`."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union, dict):
        inner = typing.get_args(annotation)
        return next(_model_in(one) for one in inner if one is not type(None) and one is not Name)
    return annotation
