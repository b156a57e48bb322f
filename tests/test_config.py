"""The TOML file: what is refused, and in which words."""

import typing
from pathlib import Path

import pytest

from candidfeed.config import DatasetConfig, FeatureKind, load_config
from candidfeed.data import tables
from candidfeed.errors import ConfigError

EVENTS = '[events]\npath = "e.csv"\nuser_id = "u"\nitem_id = "i"\n'
USERS = '[users]\npath = "u.csv"\nuser_id = "u"\n'
ITEMS = '[items]\npath = "i.csv"\nitem_id = "i"\n'


def refusal(folder: Path, text: str) -> str:
    """The message without the file's own path, which must stand first."""
    path = folder / "shop.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_the_feature_kinds_are_those_of_the_canonical_tables() -> None:
    assert typing.get_args(FeatureKind) == typing.get_args(tables.FeatureKind)


def test_a_config_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(EVENTS + 'kind = "k"\nkinds = ["view", "buy"]\npositive = ["buy"]\n')
    config = load_config(path)
    assert config == DatasetConfig.model_validate(
        {
            "events": {
                "path": "e.csv",
                "user_id": "u",
                "item_id": "i",
                "kind": "k",
                "kinds": ("view", "buy"),
                "positive": ("buy",),
            }
        }
    )


def test_an_unknown_key_is_named_with_its_full_path_and_the_nearest_known_key(
    tmp_path: Path,
) -> None:
    assert refusal(tmp_path, EVENTS + 'timestmp = "ts"\n').startswith(
        "'events.timestmp' is not a key here; did you mean 'timestamp'? there are: 'path', "
    )
    nested = refusal(tmp_path, EVENTS + USERS + '[users.features.age]\nknd = "bucket"\n')
    assert nested == (
        "'users.features.age.knd' is not a key here; did you mean 'kind'? there are: 'kind', "
        "'column', 'sensitive', 'separator', 'timestamp_unit', 'timezone'; "
        "'users.features.age.kind' is missing; add it"
    )
    assert refusal(tmp_path, EVENTS + '[user]\npath = "x"\n') == (
        "'user' is not a key here; did you mean 'users'? "
        "there are: 'name', 'events', 'labels', 'users', 'items'"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'events' is missing; add it"),
        ('events = "e.csv"', "'events': should be a table, [events], but 'e.csv' came"),
        ("a =", "is not valid TOML: Invalid value (at end of document)"),
        (
            EVENTS + "max_bad_share = 2\n",
            "'events.max_bad_share': should be less than 1, but 2 came",
        ),
        (
            EVENTS + 'value = "v"\nlike_at = nan\n',
            "'events.like_at': should be a finite number, but nan came",
        ),
        (
            EVENTS + "like_at = 3\n",
            "events: like_at needs value, the name of its column; add it or drop like_at",
        ),
        (
            EVENTS + 'timestamp_unit = "s"\n',
            "events: timestamp_unit needs timestamp, the name of its column; add it or drop "
            "timestamp_unit",
        ),
        (
            EVENTS + 'value = "v"\nvalue_min = 5\nvalue_max = 1\n',
            "events: value_min 5 should be less than value_max 1",
        ),
        (
            EVENTS + 'value = "v"\nvalue_max = 5\nlike_at = 6\n',
            "events: like_at 6 is outside value_min to value_max",
        ),
        (
            EVENTS + 'timestamp = "t"\ntimestamp_unit = "h"\n',
            "'events.timestamp_unit': should be 's', 'ms' or 'us', but 'h' came",
        ),
        (
            EVENTS + 'timestamp = "t"\ntimezone = "Europe/Zuerich"\n',
            "events: timezone 'Europe/Zuerich' is not known; did you mean 'Europe/Zurich'?",
        ),
        (
            EVENTS + 'kind = "k"\nkinds = "view"\n',
            "'events.kinds': should be an array, such as [\"view\", \"click\"], but 'view' came",
        ),
        (
            EVENTS + 'kind = "k"\nkinds = ["view"]\npositive = ["veiw"]\n',
            "events: positive: 'veiw' is none of kinds; did you mean 'view'? there are: 'view'",
        ),
        (
            EVENTS + 'kind = "k"\nkinds = ["view", "view"]\n',
            "events: kinds should name at least one kind, and each once",
        ),
        (
            'name = "a/b"\n' + EVENTS,
            "'name': should hold no slash and no control character, but 'a/b' came",
        ),
        (
            EVENTS + USERS + '[users.features.age]\nkind = "buckets"\n',
            "'users.features.age.kind': should be 'category', 'tags', 'number', 'bucket', 'text' "
            "or 'time', but 'buckets' came",
        ),
        (
            EVENTS + ITEMS + '[items.features.title]\nkind = "text"\n',
            "items: features.title: this name is taken by the table itself; choose another and "
            "say column = ...",
        ),
        (
            EVENTS + USERS + '[users.features._row]\nkind = "text"\n',
            "users: features._row: this name is taken by the table itself; choose another and "
            "say column = ...",
        ),
        (
            EVENTS + ITEMS + '[items.features.x]\nkind = "text"\nseparator = ";"\n',
            "items.features.x: separator is for kind = 'tags', not 'text'; drop it",
        ),
        (
            EVENTS + ITEMS + '[items.features.x]\nkind = "tags"\ntimezone = "UTC"\n',
            "items.features.x: timestamp_unit and timezone are for kind = 'time', not 'tags'; "
            "drop them",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_came_and_the_mend(
    tmp_path: Path, text: str, message: str
) -> None:
    assert refusal(tmp_path, text) == message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: can't be read \(No such file"):
        load_config(tmp_path / "gone.toml")
    (tmp_path / "latin.toml").write_bytes('name = "é"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.toml: is not UTF-8 text; save it as UTF-8"):
        load_config(tmp_path / "latin.toml")
