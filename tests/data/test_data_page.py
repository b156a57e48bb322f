"""docs/data.md says what the code does."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from candidfeed.config import (
    DatasetConfig,
    EventsConfig,
    FeatureConfig,
    ItemsConfig,
    LabelConfig,
    UsersConfig,
)
from candidfeed.data.checks import require_usable
from candidfeed.data.load import load_dataset

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SECTIONS: dict[str, type[BaseModel]] = {
    "### The file": DatasetConfig,
    "### `[events]`": EventsConfig,
    "### `[labels.NAME]`": LabelConfig,
    "### `[users]`": UsersConfig,
    "### `[items]`": ItemsConfig,
    "### `[users.features.NAME]` and `[items.features.NAME]`": FeatureConfig,
}


def section(title: str) -> str:
    _, _, rest = PAGE.partition(f"{title}\n")
    return re.split(r"^##+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def written_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default is None:
        return "none"
    return f"`{json.dumps(field.default)}`"


def block_after(words: str) -> str:
    """The content of the first code block after these words of the example."""
    example = section("## A complete example")
    _, _, rest = example.partition(words)
    return rest.split("```", maxsplit=2)[1].partition("\n")[2]


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_is_on_the_page_with_its_default(title: str) -> None:
    keys = re.findall(r"^\| `(\w+)` \| (.*?) \| ", section(title), flags=re.MULTILINE)
    first_table = keys[: len(SECTIONS[title].model_fields)]
    assert [(key, default.replace(r"\|", "|")) for key, default in first_table] == [
        (key, written_default(field)) for key, field in SECTIONS[title].model_fields.items()
    ]


def test_the_example_on_the_page_is_read_as_the_page_says(tmp_path: Path) -> None:
    for name in ("shop.toml", "events.csv", "users.csv", "items.tsv"):
        (tmp_path / name).write_text(block_after(f"`{name}`"), encoding="utf-8")
    dataset = load_dataset(
        str(tmp_path / "shop.toml"), cache=tmp_path, now=datetime(2025, 1, 1, tzinfo=UTC)
    )
    assert require_usable(dataset) is None
    assert dataset.positive_kinds == ("buy", "rate")
    assert dataset.events["item_id"].to_list() == [
        "mug red",
        "mug red",
        "tea, green",
        "mug red",
        "tea, green",
    ]
    assert dataset.users.rows() == [
        (1, 34.0, datetime(2021, 2, 28, 23, tzinfo=UTC)),
        (2, None, datetime(2022, 7, 15, 6, 30, tzinfo=UTC)),
        (4, 51.0, None),
        (3, None, None),
    ]
    assert dataset.items.rows() == [
        ("mug red", 'Red mug, 12" tall', ["kitchen", "gift"], ["red", "mug", "12", "tall"], 9.5),
        ("tea, green", "Green tea", ["food"], ["green", "tea"], pytest.approx(4.2)),
        ("cup", "Cup", None, ["cup"], 3.0),
    ]
