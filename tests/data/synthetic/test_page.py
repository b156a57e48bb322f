"""docs/synthetic.md says what the code does."""

import re
from dataclasses import fields
from pathlib import Path

from candidfeed.data.synthetic.settings import WorldSettings

PAGE = Path(__file__).resolve().parents[3] / "docs" / "synthetic.md"
ROW = re.compile(r"^\| `(\w+)` \| ([-\d., ]+) \| ", re.MULTILINE)


def test_every_constant_stands_on_the_page_with_its_value() -> None:
    sizes = {"n_users", "n_items", "n_events", "seed"}
    coded = {one.name: one.default for one in fields(WorldSettings) if one.name not in sizes}
    told = {
        name: tuple(float(number) for number in numbers.split(","))
        for name, numbers in ROW.findall(PAGE.read_text(encoding="utf-8"))
    }
    assert told == {
        name: value if isinstance(value, tuple) else (value,) for name, value in coded.items()
    }


def test_every_constant_is_explained_in_the_model() -> None:
    model = PAGE.read_text(encoding="utf-8").partition("## Every constant")[0]
    names = {one.name for one in fields(WorldSettings)} - {"seed", "n_users", "n_events"}
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", model)) == []
