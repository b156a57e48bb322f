"""Settings of the ranker, searched on a part of train within a budget of time.

Stage one chooses its own settings in every fit. Half of the validation users choose the settings,
the other half say what they gain: what was picked for its figure looks better than it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.splits import inner_split, make_split
from candidfeed.data.tables import Dataset
from candidfeed.errors import ConfigError
from candidfeed.evaluation.bootstrap import (
    SIGNIFICANT,
    Difference,
    Resamples,
    mean_over_users,
    paired_difference,
)
from candidfeed.evaluation.ranking_metrics import evaluate_ranking
from candidfeed.extras import import_extra
from candidfeed.ranking.training import fit_ranker, with_chosen_features
from candidfeed.ranking.user_state import UserStates
from candidfeed.training.out_of_fold import least_gain_se
from candidfeed.training.scorers import TwoStageScorer
from candidfeed.training.two_stage import TwoStage, TwoStageSettings, fit_two_stage, rated_rows
from candidfeed.training.value import ENGAGED, LIKED

METRIC = "ndcg@10"
_MAX_USERS = 2_000
_MIN_USERS = 20
# Trials drawn at random before the search learns from them.
_N_RANDOM = 8

Report = Callable[[str, float], None]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Tuned:
    """What a study found.

    Attributes:
        settings: the best ones; the defaults where nothing is better beyond chance.
        gain: of the best trial over the defaults, on the users that did not choose it; None where
            the defaults are best.
        defaults: mean of METRIC with the defaults, on those users.
        n_trials: finished, those of earlier calls included.
        n_users: that the gain rests on.
    """

    settings: TwoStageSettings
    gain: Difference | None
    defaults: float
    n_trials: int
    n_users: int

    @property
    def is_gain(self) -> bool:
        return self.gain is not None and self.gain.low > 0 and self.gain.p < SIGNIFICANT

    def to_json(self) -> dict[str, object]:
        gain = self.gain
        return {
            "metric": METRIC,
            "defaults": self.defaults,
            "gain": None
            if gain is None
            else {"mean": gain.mean, "low": gain.low, "high": gain.high},
            "is_gain": self.is_gain,
            "n_trials": self.n_trials,
            "n_users": self.n_users,
        }


def tune(
    dataset: Dataset,
    *,
    protocol: str | None,
    seed: int,
    budget_s: float,
    study_file: Path,
    report: Report = lambda _step, _used_s: None,
) -> Tuned:
    """Search until the budget is used; the first trial is the defaults, whatever the budget.

    Nothing of the protocol's test part is read: its train part is cut again.

    Args:
        budget_s: of all trials of this study together, those of earlier calls included.
        study_file: Optuna's journal; a study that was killed goes on where it stopped.
        report: is told each trial as it begins, and the seconds that those before it took.

    Raises:
        ConfigError: Optuna is not installed.
        DataError: train is too small to be cut again, and again for the ranker.
    """
    optuna = import_extra("optuna", extra="tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    split = make_split(dataset, protocol, seed=seed)
    inner = inner_split(split, seed=seed)
    users = _asked_users(inner.test.user, seed)
    name = f"{dataset.name} {split.protocol} {seed} {inner.test_rows_sha256[:16]}"
    study = _study(optuna, study_file, name=name, seed=seed)
    report("fit stage one", _used_s(study))
    pair = fit_two_stage(dataset, inner, settings=TwoStageSettings(), seed=seed)
    while not (finished := _finished(study)) or _used_s(study) < budget_s:
        best = f", best {study.best_value:.4f}" if finished else ""
        report(f"trial {len(finished) + 1}{best}", _used_s(study))
        trial = study.ask()
        settings = _drawn(trial, pair.settings)
        values = _validated(pair, settings, users, dataset.like_at, seed=seed)
        trial.set_user_attr("by_user", [float(one) for one in values])
        study.tell(trial, float(values[::2].mean()))
    return _found(study, users, seed=seed)


def _study(optuna: Any, file: Path, *, name: str, seed: int) -> Any:
    """The study of this name in the file, or a new one whose first trial is the defaults."""
    backend = optuna.storages.journal.JournalFileBackend(str(file))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=name,
        direction="maximize",
        load_if_exists=True,
    )
    # Else a study that goes on would draw again what it has tried.
    draws = seed + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=draws, n_startup_trials=_N_RANDOM)
    if not _finished(study):
        study.enqueue_trial(_defaults())
    return study


def _finished(study: Any) -> list[Any]:
    """Trials with a figure; one that was killed has none."""
    return [trial for trial in study.trials if trial.value is not None]


def _used_s(study: Any) -> float:
    return sum(trial.duration.total_seconds() for trial in _finished(study))


def _defaults() -> dict[str, float]:
    usual = TwoStageSettings()
    ranker = usual.ranker
    return {
        "learning_rate": ranker.learning_rate,
        "weight_decay": ranker.weight_decay,
        "n_epochs": ranker.n_epochs,
        "list_length": ranker.list_length,
        "lists_per_batch": ranker.lists_per_batch,
        "liked": 0.0,
    }


def _drawn(trial: Any, usual: TwoStageSettings) -> TwoStageSettings:
    """The settings that the search asks for next."""
    ranker = replace(
        usual.ranker,
        learning_rate=trial.suggest_float("learning_rate", 5e-4, 2e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 1.0, log=True),
        n_epochs=trial.suggest_int("n_epochs", 2, 24, log=True),
        list_length=trial.suggest_categorical("list_length", [64, 128, 256]),
        lists_per_batch=trial.suggest_categorical("lists_per_batch", [8, 16, 32]),
    )
    liked = trial.suggest_float("liked", 0.0, 0.5)
    return replace(usual, ranker=ranker, value_weights=_weights(liked))


def _validated(
    pair: TwoStage,
    settings: TwoStageSettings,
    users: NDArray[np.int32],
    like_at: float | None,
    *,
    seed: int,
) -> Values:
    """METRIC of each user's list with a ranker of these settings, float64 [n]."""
    split, space = pair.split, replace(pair.ranker.space, actions=None)
    chosen, _ = with_chosen_features(
        pair.lists, settings.ranker, asked=pair.lists.take(slice(0)),
        least_gain_se=least_gain_se(split, pair.settings.stage_one), seed=seed,
    )  # fmt: skip
    ranker = fit_ranker(
        space,
        n_users=len(split.users),
        n_user_ids=pair.features.user_map.n_ids,
        rated=rated_rows(split.train, like_at),
        states=UserStates.of(split.train, pair.features.user_bag, space.scale),
        lists=pair.lists,
        settings=chosen,
        log_more_hits=pair.log_more_hits,
        actions=pair.ranker.actions,
        seed=seed,
    )
    weights = settings.value_weights or pair.settings.value_weights
    tried = replace(settings, ranker=chosen, value_weights=weights)
    trained = replace(pair, ranker=ranker, settings=tried)
    asked = split.test.take(np.isin(split.test.user, users))
    figures = evaluate_ranking(
        TwoStageScorer(trained), known=split.known.matrix, test=asked.matrix, ks=(10,), top_ks=()
    ).figures[METRIC]
    by_user = np.zeros(len(split.users))
    # A mean over users: the first column is what each of them adds.
    by_user[figures.users] = figures.sums[:, 0]
    return by_user[users]


def _asked_users(test_users: NDArray[np.int32], seed: int) -> NDArray[np.int32]:
    """In random order: each other one chooses, the rest say what was gained."""
    users = np.random.default_rng(seed).permutation(np.unique(test_users))[:_MAX_USERS]
    if len(users) < _MIN_USERS:
        raise ConfigError(
            f"only {len(users)} users are left to choose settings by; tuning needs {_MIN_USERS}"
        )
    return users.astype(np.int32)


def _found(study: Any, users: NDArray[np.int32], *, seed: int) -> Tuned:
    finished = _finished(study)
    usual, best = finished[0], study.best_trial
    before, after = (np.asarray(one.user_attrs["by_user"])[1::2] for one in (usual, best))
    judges = users[1::2]
    gain = None
    if best.number != usual.number:
        gain = _gain(judges, before, after, np.random.default_rng(seed))
    tuned = Tuned(
        TwoStageSettings(), gain, float(before.mean()), len(finished), n_users=len(judges)
    )
    return replace(tuned, settings=_settings_of(best.params)) if tuned.is_gain else tuned


def _gain(
    users: NDArray[np.int32], before: Values, after: Values, rng: np.random.Generator
) -> Difference | None:
    order = np.argsort(users)
    usual, best = (mean_over_users(users[order], one[order]) for one in (before, after))
    return paired_difference([best], [usual], Resamples.draw(users[order], rng=rng))


def _settings_of(params: Mapping[str, Any]) -> TwoStageSettings:
    """The defaults with what a trial changed."""
    usual = TwoStageSettings()
    ranker = replace(usual.ranker, **{key: one for key, one in params.items() if key != "liked"})
    return replace(usual, ranker=ranker, value_weights=_weights(params["liked"]))


def _weights(liked: float) -> dict[str, float] | None:
    """What the data set says where liking counts nothing."""
    return {ENGAGED: 1.0, LIKED: liked} if liked else None
