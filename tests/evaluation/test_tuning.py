"""`tune`: what chooses settings, what judges them, and that a killed study goes on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candidfeed.data.splits import inner_split, make_split
from candidfeed.data.tables import Dataset
from candidfeed.evaluation import tuning
from candidfeed.evaluation.tuning import tune
from candidfeed.training.two_stage import TwoStageSettings

BUDGET_S, ONE_TRIAL_S = 20.0, 1.0


class Judged:
    """Lists whose quality is told by a formula instead of a fit; counts what it was asked."""

    def __init__(self, quality: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.quality, self.asked, self.split = quality, [], None
        monkeypatch.setattr(tuning, "fit_two_stage", self.fit)
        monkeypatch.setattr(tuning, "_validated", self.values)
        # No test waits for a budget: each trial is said to have taken a second.
        monkeypatch.setattr(tuning, "_used_s", self.used_s)

    def used_s(self, study: Any) -> float:
        return ONE_TRIAL_S * len(tuning._finished(study))

    def fit(self, _dataset: Dataset, split: Any, *, settings: TwoStageSettings, seed: int) -> Any:
        self.split = split
        return type("Pair", (), {"settings": settings})

    def values(self, _pair: Any, settings: TwoStageSettings, users: Any, *_: Any, **__: Any) -> Any:
        self.asked.append(settings)
        return self.quality(settings, len(users))


def liked_is_good(settings: TwoStageSettings, n: int) -> Any:
    return (
        0.3
        + 0.2 * (settings.value_weights or {}).get("liked", 0.0)
        + 0.01 * (np.arange(n) // 2 % 5)
    )


def good_for_those_who_choose(settings: TwoStageSettings, n: int) -> Any:
    return 0.3 + 0.2 * (settings.value_weights or {}).get("liked", 0.0) * (np.arange(n) % 2 == 0)


def run(tiny: Dataset, folder: Path, **changed: Any) -> tuning.Tuned:
    asked = {"protocol": "random", "seed": 1, "budget_s": BUDGET_S, **changed}
    return tune(tiny, study_file=folder / "a.study", **asked)


def test_the_defaults_are_tried_first_and_better_settings_are_found(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = Judged(liked_is_good, monkeypatch)
    found = run(tiny, tmp_path)
    assert judged.asked[0] == TwoStageSettings()
    assert found.n_trials == len(judged.asked) == BUDGET_S / ONE_TRIAL_S
    best = max(judged.asked, key=lambda one: (one.value_weights or {}).get("liked", 0.0))
    assert found.settings == best
    assert found.is_gain
    assert found.gain is not None
    assert found.gain.mean == pytest.approx(0.2 * (best.value_weights or {}).get("liked", 0.0))


def test_what_gains_only_among_those_who_chose_is_no_gain(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Judged(good_for_those_who_choose, monkeypatch)
    found = run(tiny, tmp_path)
    assert found.gain is not None
    assert found.gain.mean == pytest.approx(0.0)
    assert not found.is_gain
    assert found.settings == TwoStageSettings()


def test_a_study_that_was_killed_goes_on_and_does_not_repeat_itself(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = Judged(liked_is_good, monkeypatch)
    run(tiny, tmp_path, budget_s=5.0)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "_validated", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path)
    monkeypatch.setattr(tuning, "_validated", judged.values)
    found = run(tiny, tmp_path)
    assert found.n_trials == len(judged.asked) == BUDGET_S / ONE_TRIAL_S
    assert len({repr(settings) for settings in judged.asked}) == len(judged.asked)


def test_a_study_killed_in_its_first_trial_still_tries_the_defaults(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = Judged(liked_is_good, monkeypatch)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "_validated", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path)
    monkeypatch.setattr(tuning, "_validated", judged.values)
    run(tiny, tmp_path, budget_s=2.0)
    assert judged.asked[0] == TwoStageSettings()


def test_nothing_of_the_test_part_is_given_to_the_search(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = Judged(liked_is_good, monkeypatch)
    run(tiny, tmp_path, budget_s=0.0)
    assert judged.split is not None
    outer = make_split(tiny, "random", seed=1)
    assert judged.split.test_rows_sha256 == inner_split(outer, seed=1).test_rows_sha256
    given = np.concatenate([judged.split.source.train, judged.split.source.test])
    assert not np.isin(given, outer.source.test).any()


def test_too_few_users_to_judge_by_are_told(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Judged(liked_is_good, monkeypatch)
    few = tiny.events.filter(tiny.events["user_id"].is_in(tiny.users["user_id"][:8].implode()))
    with pytest.raises(tuning.ConfigError, match="users are left to choose settings by"):
        run(replace(tiny, events=few), tmp_path)
