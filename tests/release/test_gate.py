"""Two releases compared user by user, and the gate that keeps a worse one out."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from candidfeed.data.tables import Dataset
from candidfeed.data.vocabulary import Vocabulary
from candidfeed.errors import GateError, ReleaseError
from candidfeed.evaluation.bootstrap import mean_over_users
from candidfeed.evaluation.report import SeedRun
from candidfeed.evaluation.run import Evaluation
from candidfeed.release import build
from candidfeed.release.build import build_release
from candidfeed.release.bundle import read_release
from candidfeed.release.figures import (
    FIGURES,
    LIST,
    POPULAR,
    UserFigure,
    compare_figures,
    encode_figures,
    figures_of,
    read_figures,
)
from candidfeed.release.gate import LIVE, pass_gate
from candidfeed.release.storage import read_directory, write_directory
from candidfeed.training.two_stage import TwoStageSettings

Typed = Callable[..., tuple[int, str, str]]
N_USERS = 60


def figure(mean: float, *, seed: int = 0, n: int = N_USERS) -> UserFigure:
    """Users who scatter around a mean; the same seed gives the same scatter."""
    values = mean + np.random.default_rng(seed).normal(0, 0.1, n)
    ids = pl.Series("user_id", [f"user {u:03}" for u in range(n)])
    return UserFigure(ids, values, np.ones(n))


def released(target: Path, rows: str = "aa", **means: float) -> Path:
    """A release that holds figures only; `two_stage=.4` is its list's nDCG@10."""
    names = {"two_stage": LIST, "popular": POPULAR, "mse": ("ranker", "mse")}
    # Another scatter for each release, so that differences scatter too.
    seed = sum(target.name.encode())
    figures = {names[name]: figure(mean, seed=seed) for name, mean in means.items()}
    told = {"dataset": "tiny", "protocol": "random", "seed": 1, "test_rows_sha256": rows}
    write_directory(target, {FIGURES: encode_figures(figures)}, told)
    return target


# The figures


def test_figures_come_back_from_a_release_as_they_were_measured(tmp_path: Path) -> None:
    users = Vocabulary(pl.Series(["a", "b", "c", "d"]))
    rows = np.array([0, 2, 3], np.int32)
    ndcg = mean_over_users(rows, np.array([0.1, 0.5, 0.9]))
    run = SeedRun(1, "aa", 3, 3, {"two-stage": {"ndcg@10": ndcg, "mrr": ndcg}}, {})
    found = figures_of(run, users)
    assert found.keys() == {LIST}
    write_directory(tmp_path / "r", {FIGURES: encode_figures(found)}, {})
    again = read_figures(read_directory(tmp_path / "r"))[LIST]
    assert again.user_ids.to_list() == ["a", "c", "d"]
    np.testing.assert_array_equal(again.over, [0.1, 0.5, 0.9])
    np.testing.assert_array_equal(again.under, [1, 1, 1])


def test_a_real_build_keeps_the_figures_of_its_own_report(tiny_built: Any) -> None:
    figures = read_figures(tiny_built.opened)
    assert {LIST, POPULAR, ("retrieval", "top@100"), ("ranker", "mse")} <= figures.keys()
    for (model, metric), one in figures.items():
        mean = tiny_built.report.models[model][metric].mean
        assert one.over.sum() / one.under.sum() == pytest.approx(mean)
    assert tiny_built.opened.manifest["gate"]["failures"] == []


def test_users_are_paired_by_their_ids_whatever_their_rows() -> None:
    a, b = figure(0.4, n=40), figure(0.4, n=60)
    shuffled = np.random.default_rng(1).permutation(60)
    b = UserFigure(b.user_ids.gather(shuffled), b.over[shuffled] + 0.05, b.under)
    c = UserFigure(a.user_ids, b.of(a.user_ids).sums[:, 0] - 0.05, a.under)
    found, n_users = compare_figures({LIST: c}, {LIST: b})
    one = found[LIST]
    assert n_users == 40
    assert (one.difference.low, one.difference.mean) == pytest.approx((0.05, 0.05))
    assert one.verdict == "better"


def test_a_larger_error_is_worse() -> None:
    a, b = {("ranker", "mse"): figure(0.8)}, {("ranker", "mse"): figure(0.9)}
    assert compare_figures(a, b)[0]["ranker", "mse"].verdict == "worse"
    assert compare_figures(b, a)[0]["ranker", "mse"].verdict == "better"
    assert compare_figures(a, a)[0]["ranker", "mse"].verdict == "even"


# The command


def test_a_worse_release_ends_with_exit_code_1_and_a_better_one_with_0(
    typed: Typed, tmp_path: Path, here: Path
) -> None:
    good = released(tmp_path / "good", two_stage=0.5, mse=0.8, popular=0.2)
    bad = released(tmp_path / "bad", two_stage=0.3, mse=0.8, popular=0.2)
    code, output, _ = typed("compare", good, bad, "--json", here / "c.json")
    assert code == 1
    assert "B is worse than A on the list's ndcg@10: -0." in " ".join(output.split())
    assert max(len(line) for line in output.splitlines() if str(tmp_path) not in line) <= 80
    content = json.loads((here / "c.json").read_bytes())
    assert [(one["model"], one["b_is"]) for one in content["figures"]] == [
        ("two-stage", "worse"),
        ("ranker", "even"),
    ]
    assert content["n_users"] == N_USERS
    code, output, _ = typed("compare", bad, good)
    assert code == 0
    assert "B is better than A" in output
    code, output, _ = typed("compare", good, good)
    assert code == 0
    assert "no significant difference" in output


def test_releases_measured_on_other_rows_are_not_compared(typed: Typed, tmp_path: Path) -> None:
    a = released(tmp_path / "a", "aa", two_stage=0.5)
    b = released(tmp_path / "b", "bb", two_stage=0.5)
    code, output, errors = typed("compare", a, b)
    assert (code, output) == (2, "")
    assert "measured on other rows" in errors
    assert "with the same --protocol and --seed" in errors
    assert "(test rows aa)" in errors
    assert "(test rows bb)" in errors


def test_a_release_without_figures_and_a_folder_without_a_release_are_told(
    typed: Typed, tmp_path: Path
) -> None:
    write_directory(tmp_path / "old", {"x": b"1"}, {"test_rows_sha256": "aa"})
    new = released(tmp_path / "new", "aa", two_stage=0.5)
    code, _, errors = typed("compare", tmp_path / "old", new)
    assert code == 2
    assert "kept no figures by user to compare; build it again" in errors
    code, _, errors = typed("compare", tmp_path / "nothing", new)
    assert code == 2
    assert "nothing" in errors


def test_a_few_users_are_too_few_to_call_a_release_worse(typed: Typed, tmp_path: Path) -> None:
    for name, mean in (("a", 0.9), ("b", 0.1)):
        told = {"dataset": "d", "protocol": "p", "test_rows_sha256": "aa"}
        files = {FIGURES: encode_figures({LIST: figure(mean, n=9)})}
        write_directory(tmp_path / name, files, told)
    code, output, _ = typed("compare", tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert "9 users are too few to say which is better (at least 10)" in output


# The gate


def new(two_stage: float, popular: float) -> dict[tuple[str, str], UserFigure]:
    return {LIST: figure(two_stage, seed=1), POPULAR: figure(popular, seed=2)}


def test_where_nothing_is_live_popularity_is_the_only_bar(tmp_path: Path) -> None:
    gate = pass_gate(tmp_path / "r", new(0.4, 0.2), "aa", force=False)
    assert gate.comparisons.keys() == {"popularity"}
    assert (gate.failures, gate.not_compared, gate.forced) == ([], "", False)
    with pytest.raises(GateError, match=r"worse than popularity on ndcg@10 by 0\.[12]") as caught:
        pass_gate(tmp_path / "r", new(0.2, 0.4), "aa", force=False)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


def test_a_release_that_is_worse_than_the_live_one_does_not_pass(tmp_path: Path) -> None:
    live = released(tmp_path / "live", two_stage=0.5, popular=0.2)
    with pytest.raises(GateError, match=f"worse than {LIVE} on ndcg@10"):
        pass_gate(live, new(0.3, 0.2), "aa", force=False)
    as_good = pass_gate(live, new(0.5, 0.2), "aa", force=False)
    assert as_good.comparisons.keys() == {"popularity", LIVE}
    forced = pass_gate(live, new(0.3, 0.2), "aa", force=True)
    assert forced.forced
    assert forced.to_json()["failures"] == forced.failures
    assert "published by force, though worse than the live release" in forced.remarks[0]


def test_a_live_release_that_cannot_be_compared_is_named_and_does_not_block(tmp_path: Path) -> None:
    live = released(tmp_path / "live", "bb", two_stage=0.9)
    gate = pass_gate(live, new(0.3, 0.2), "aa", force=False)
    assert gate.not_compared == "the live release was measured on other test rows"
    write_directory(tmp_path / "old", {"x": b"1"}, {"test_rows_sha256": "aa"})
    gate = pass_gate(tmp_path / "old", new(0.3, 0.2), "aa", force=False)
    assert "kept no figures" in gate.not_compared
    (tmp_path / "old" / "current").write_bytes(b"candidfeed 1 broken\n")
    gate = pass_gate(tmp_path / "old", new(0.3, 0.2), "aa", force=False)
    assert "can't be compared" in gate.not_compared


@pytest.fixture
def worse_than_popular(tiny_parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next build measures lists that nobody wants, and is quickly made."""
    measured: Evaluation = tiny_parts["evaluate_once"]
    own = measured.run.figures["two-stage"]
    users = own["ndcg@10"].users
    nothing = mean_over_users(users, np.zeros(len(users)))
    figures = {**measured.run.figures, "two-stage": {**own, "ndcg@10": nothing}}
    bad = replace(measured, run=replace(measured.run, figures=figures))
    monkeypatch.setattr(build, "evaluate_once", lambda *_, **__: bad)
    monkeypatch.setattr(build, "refit_on_all", lambda *_, **__: tiny_parts["refit_on_all"])


def test_a_build_that_fails_the_gate_leaves_the_old_release_and_force_publishes_it(
    worse_than_popular: None,
    tiny: Dataset,
    tiny_settings: TwoStageSettings,
    tiny_exported: Any,
    tmp_path: Path,
) -> None:
    from candidfeed.release.bundle import encode

    target = tmp_path / "r"
    write_directory(target, encode(tiny_exported), {"old": True})
    options: dict[str, Any] = {"protocol": None, "seed": 7, "settings": tiny_settings}
    with pytest.raises(GateError, match="what was there stays in force"):
        build_release(tiny, target, **options)
    assert read_directory(target).manifest == {"old": True}
    assert len(read_release(target).items) == 40
    notes: list[str] = []
    built = build_release(tiny, target, **options, force=True, note=notes.append)
    gate = built.opened.manifest["gate"]
    assert gate["forced"]
    assert gate["failures"][0].startswith("worse than popularity")
    assert any("published by force" in line for line in notes)


def test_a_folder_is_not_made_by_a_build_that_fails_the_gate(
    worse_than_popular: None, tiny: Dataset, tiny_settings: TwoStageSettings, tmp_path: Path
) -> None:
    with pytest.raises(GateError):
        build_release(tiny, tmp_path / "r", protocol=None, seed=7, settings=tiny_settings)
    with pytest.raises(ReleaseError):
        read_directory(tmp_path / "r")
