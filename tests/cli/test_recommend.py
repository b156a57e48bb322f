"""`candidfeed recommend`: what a person sees, and what a program reads."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from candidfeed.data.vocabulary import Vocabulary
from candidfeed.feed.served import Served
from candidfeed.release.bundle import encode
from candidfeed.release.storage import read_directory, write_directory

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(typed: Typed, tiny_release: Path) -> Typed:
    """Types `candidfeed recommend RELEASE ...`."""

    def type_command(*arguments: str, release: Path = tiny_release) -> tuple[int, str, str]:
        return typed("recommend", release, *arguments)

    return type_command


def user_id(u: int) -> str:
    return f"user {u}, 🙂"


def test_a_list_has_titles_scores_and_reasons_in_80_columns(
    typed: Typed, tiny_served: Served
) -> None:
    exit_code, output, errors = typed("--user", user_id(3))
    assert (exit_code, errors) == (0, "")
    lines = output.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("For user user 3, 🙂, as of 202")
    assert re.match(r" +title +score +P\(like\) +rating +reason", lines[1])
    assert len(re.findall(r"^ ?\d+ +Film \d+", output, re.MULTILINE)) == 10
    assert "because you rated Film" in output
    n_seen = len(tiny_served.person(user_id(3)).past)
    assert f"Left out: the {n_seen} that they have rated before" in " ".join(output.split())
    assert f"Release {tiny_served.release_id}, made from" in output


def test_json_says_the_same(typed: Typed, tmp_path: Path, tiny_served: Served) -> None:
    path = tmp_path / "list.json"
    _, output, _ = typed("--user", user_id(3), "-k", "4", "--json", str(path))
    content = json.loads(path.read_bytes())
    assert content["release"] == tiny_served.release_id
    assert (content["user"], content["known"]) == (user_id(3), True)
    assert content["value_weights"] == {"engaged": 1.0, "liked": 0.1}
    assert [slot["position"] for slot in content["slots"]] == [1, 2, 3, 4]
    for slot in content["slots"]:
        assert f"{slot['value']:.3f}" in output
        assert slot["value"] == pytest.approx(slot["p_engaged"] + 0.1 * slot["p_like"])
        assert slot["item_id"].endswith(", 🎬")
    known = tiny_served.person(user_id(3))
    assert content["n_seen"] == len(known.past)
    for name, n in content["n_unknown"].items():
        assert f"{name} ({n})" in output
    assert content["now"].startswith("202")


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("nobody", "user nobody is not known to this release: here is what most people rated"),
        (user_id(59), "user user 59, 🙂 has no events in the log: here is what most people rated"),
        ("\x1b[31m\n" * 2_000, "\ufffd[31m\ufffd"),
        ("", "is not known to this release"),
    ],
)
def test_someone_without_events_is_told_so_and_gets_the_popular_list(
    typed: Typed, user: str, said: str
) -> None:
    exit_code, output, errors = typed("--user", user, "-k", "3")
    assert (exit_code, errors) == (0, "")
    assert said in output
    assert "\x1b" not in output
    assert output.count("popular: ") == 3
    assert "Left out" not in output
    assert max(map(len, output.splitlines())) <= 80


def test_where_ids_are_numbers_the_typed_number_is_found(
    typed: Typed, tiny_exported: Served, tmp_path: Path
) -> None:
    users = Vocabulary(pl.Series(range(100, 160)))
    write_directory(tmp_path / "r", encode(replace(tiny_exported, users=users)), {})
    assert typed("--user", "103", release=tmp_path / "r")[1].startswith("For user 103, as of")
    unknown = typed("--user", "103.5", release=tmp_path / "r")[1]
    assert unknown.startswith("user 103.5 is not known")


def test_a_user_who_is_no_text_is_not_known(typed: Typed) -> None:
    exit_code, output, _ = typed("--user", "caf\udce9")
    assert exit_code == 0
    assert output.startswith("user caf\ufffd is not known to this release")


def test_fewer_come_where_fewer_are_left_and_the_reason_is_told(
    typed: Typed, tiny_served: Served
) -> None:
    exit_code, _, errors = typed("--user", user_id(3), "-k", "1000")
    assert exit_code == 0
    assert errors == "20 of 1000: stage one hands 20 items on; no more are ranked\n"
    long = max(range(58), key=lambda u: len(tiny_served.person(user_id(u)).past))
    n_left = 40 - len(tiny_served.person(user_id(long)).past)
    n = min(n_left, 20)
    assert typed("--user", user_id(long), "-k", "40")[2].startswith(f"{n} of 40: ")


def test_someone_who_has_seen_everything_gets_an_empty_list_and_the_reason(
    typed: Typed, tiny_exported: Served, tmp_path: Path
) -> None:
    pasts = tiny_exported.pasts
    everything = replace(
        pasts,
        ends=np.full(60, 40),
        items=np.arange(40, dtype=np.int32),
        values=np.full(40, 3, np.float32),
        times_s=np.arange(40) + 1.7e9,
    )
    write_directory(tmp_path / "r", encode(replace(tiny_exported, pasts=everything)), {})
    first = str(tiny_exported.users.id_of(0))
    exit_code, output, errors = typed("--user", first, release=tmp_path / "r")
    assert exit_code == 0
    assert output.splitlines()[1].startswith("Ranked: 0 of 40 items.")
    assert errors == "0 of 10: there are no more items that this user has not seen\n"


def test_the_time_that_is_asked_for_is_shown_and_matters(typed: Typed) -> None:
    default = typed("--user", user_id(3))[1]
    early = typed("--user", user_id(3), "--now", "2023-11-15T00:00Z")[1]
    same = typed("--user", user_id(3), "--now", "2023-11-15T01:00+01:00")[1]
    assert early.startswith("For user user 3, 🙂, as of 2023-11-15 00:00 UTC\n")
    assert early == same != default


# What is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-k", "0"], "invalid value for '-k'"),
        (["-k", "-3"], "invalid value for '-k'"),
        (["-k", "ten"], "invalid value for '-k'"),
        (["--now", "yesterday"], "'yesterday' is no time such as 1998-03-01T12:00Z"),
        (["--now", "2024-01-01T00:00"], "has no zone; for UTC add a Z"),
    ],
)
def test_a_wrong_option_is_wrong_usage(typed: Typed, arguments: list[str], said: str) -> None:
    exit_code, output, errors = typed("--user", "x", *arguments)
    assert (exit_code, output) == (2, "")
    assert said in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1


def test_without_a_user_nothing_is_shown(typed: Typed) -> None:
    exit_code, output, errors = typed()
    assert (exit_code, output) == (2, "")
    assert "missing option '--user'" in errors


def test_what_is_no_release_is_refused(typed: Typed, tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "nothing", Path(__file__)):
        exit_code, output, errors = typed("--user", "x", release=target)
        assert (exit_code, output) == (2, "")
        assert errors.startswith(f"error: {target}: ")


def test_a_damaged_release_is_refused(typed: Typed, tiny_release: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    shutil.copytree(tiny_release, target)
    path = read_directory(target).path / "ranker.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    exit_code, output, errors = typed("--user", "x", release=target)
    assert (exit_code, output) == (2, "")
    assert "ranker.safetensors: sha256 expected" in errors


def test_a_time_is_refused_where_the_log_has_none(
    typed: Typed, tiny_exported: Served, tmp_path: Path
) -> None:
    space = replace(tiny_exported.space, time_edges=np.empty(0))
    write_directory(tmp_path / "r", encode(replace(tiny_exported, space=space)), {})
    exit_code, _, errors = typed(
        "--user", "x", "--now", "2024-01-01T00:00Z", release=tmp_path / "r"
    )
    assert exit_code == 2
    assert "the log of this release has no times" in errors


def test_a_cold_process_holds_no_training_code(tiny_release: Path) -> None:
    script = """
import sys
from candidfeed.cli import main
exit_code = main()
print(exit_code, *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)
"""
    command = [sys.executable, "-c", script, "recommend", str(tiny_release), "--user", user_id(3)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    exit_code, *loaded = done.stderr.split()
    assert exit_code == "0"
    assert set(loaded) & {"keras", "tensorflow", "implicit", "sklearn", "torch"} == set()


def test_a_policy_is_kept_to_and_what_it_did_is_told(typed: Typed, tmp_path: Path) -> None:
    policy, path = tmp_path / "policy.toml", tmp_path / "list.json"
    policy.write_text("[caps]\ntags = 3\n[explore]\npositions = [2]\n")
    exit_code, output, errors = typed(
        "--user", user_id(3), "-k", "6", "--policy", str(policy), "--json", str(path)
    )
    assert (exit_code, errors) == (0, "")
    slots = json.loads(path.read_bytes())["slots"]
    assert [slot["source"] == "explore" for slot in slots] == [
        False, True, False, False, False, False,
    ]  # fmt: skip
    assert 0 < slots[1]["propensity"] < 1 == slots[0]["propensity"]
    assert "to learn from: drawn" in " ".join(output.split())
    moved = [slot for slot in slots if slot["by_value"] > 6]
    assert ("The policy passed over" in output) == bool(moved)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[caps]\ngenres = 3", "policy: caps: 'genres' is no column of categories or tags"),
        ("diverse = 1", "policy.toml: 'diverse' is not a key here; did you mean 'diversity'?"),
    ],
)
def test_a_policy_that_can_not_be_kept_to_ends_in_one_line(
    typed: Typed, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "policy.toml").write_text(text)
    exit_code, output, errors = typed(
        "--user", user_id(3), "--policy", str(tmp_path / "policy.toml")
    )
    assert (exit_code, output) == (2, "")
    assert said in " ".join(errors.split())
