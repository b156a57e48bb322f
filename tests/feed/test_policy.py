"""A policy file says what it does not understand, and is read back from a log line."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from candidfeed.errors import ConfigError
from candidfeed.feed.policy import Brake, Explore, Policy, load_policy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_says_what_it_changes_and_the_rest_is_as_usual(tmp_path: Path) -> None:
    assert load_policy(written(tmp_path, "")) == Policy()
    policy = load_policy(
        written(
            tmp_path,
            "diversity = 1\n[caps]\ngenres = 8\n[explore]\npositions = [5, 15]\n[brake]\nshare = 1",
        )
    )
    assert policy == Policy(
        diversity=1.0,
        caps={"genres": 8},
        explore=Explore((5, 15), Explore().pool),
        brake=Brake(1.0, Brake().longest_past),
    )


def test_a_policy_comes_back_from_a_log_line() -> None:
    policy = Policy(0.25, {"genres": 8}, Explore((2, 9), 30), Brake(0.2, 7))
    assert Policy.of(json.loads(json.dumps(policy.to_json()))) == policy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("diversty = 0.2", "'diversty' is not a key here; did you mean 'diversity'?"),
        ("[explore]\nslots = 2", "'explore.slots' is not a key here"),
        ("diversity = 1.5", "'diversity': should be a number from 0 to 1, but 1.5 came"),
        ("diversity = nan", "'diversity': should be a number from 0 to 1, but nan came"),
        ("diversity = true", "'diversity': should be a number from 0 to 1, but True came"),
        ("caps = 3", "'caps': should be a table, [caps], but 3 came"),
        ("[caps]\ngenres = 0", "'caps.genres': should be a whole number from 1, but 0 came"),
        ("[caps]\ngenres = 2.0", "'caps.genres': should be a whole number from 1, but 2.0 came"),
        ("[explore]\npositions = 3", "'explore.positions': should be an array such as [5, 15]"),
        ("[explore]\npositions = [5, 3]", "'explore.positions': should be at most 50 ascending"),
        ("[explore]\npositions = [0]", "'explore.positions': should be a whole number from 1"),
        ("[explore]\npositions = [1, 2]\npool = 1", "'explore.pool': 1 can't fill 2 positions"),
        ("[explore]\npool = 0", "'explore.pool': should be a whole number from 1, but 0 came"),
        ("[brake]\nshare = -1", "'brake.share': should be a number from 0 to 1, but -1 came"),
        ("[brake]\nlongest_past = 'x'", "'brake.longest_past': should be a whole number from 1"),
        ("diversity =", "is not valid TOML"),
    ],
)
def test_what_can_not_be_is_named_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_policy(path := written(tmp_path, text))
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)


def test_every_key_is_documented_with_its_default(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    load_policy(written(tmp_path, example))
    for place, kind in (("", Policy), ("explore.", Explore), ("brake.", Brake)):
        for one in fields(kind):
            default = getattr(kind(), one.name)
            if isinstance(default, int | float):
                assert f"| `{place}{one.name}` | {default} |" in page
            elif isinstance(default, tuple):
                assert f"| `{place}{one.name}` | {list(default)} |" in page
    assert "| `caps.COLUMN` |" in page
