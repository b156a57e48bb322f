"""One evaluation: our two stages beside the honest baselines, on the same rows."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import scipy.sparse as sp

from candidfeed.data.features import Bag
from candidfeed.data.splits import Split, check_no_leak, make_split
from candidfeed.data.tables import Dataset
from candidfeed.evaluation import cold_items
from candidfeed.evaluation.baselines import fit_baselines, untuned, why_left_out
from candidfeed.evaluation.bootstrap import Figure
from candidfeed.evaluation.calibration import (
    HeadCalibration,
    measure_calibration,
    user_segments,
)
from candidfeed.evaluation.list_metrics import evaluate_lists
from candidfeed.evaluation.pair import Ranks, pair_figures
from candidfeed.evaluation.ranking_metrics import RankingFigures, Scorer, evaluate_ranking
from candidfeed.evaluation.rating_baselines import fit_rating_baselines
from candidfeed.evaluation.rating_metrics import evaluate_likes, evaluate_ratings
from candidfeed.evaluation.references import BoostedScorer, ranking_references, rating_references
from candidfeed.evaluation.report import EvaluationReport, SeedRun, summarise
from candidfeed.keras_backend import compiled_once
from candidfeed.training.actions import said_of_later
from candidfeed.training.candidates import candidate_lists
from candidfeed.training.held_out import MAX_LISTS, engagement_of, likes_of
from candidfeed.training.scorers import RankEverything, TwoStageScorer, predict_ratings
from candidfeed.training.stage_one import StageOneSettings
from candidfeed.training.two_stage import (
    TwoStage,
    TwoStageSettings,
    fit_retrieval,
    fit_two_stage,
    rated_rows,
)
from candidfeed.training.value import ENGAGED, LIKED

# Above this many (user, item) pairs, ranking everything is left out: it is what stage one is for.
MAX_RANKED_PAIRS = 50_000_000
# Test users who are asked for: of more, this many are drawn. Each is ranked among all items.
MAX_TEST_USERS = 50_000
_SEEN = "/seen"

Figures = dict[str, Figure]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """What was fitted and measured on one split.

    Attributes:
        run: the figures.
        pair: both stages, as fitted.
        left_out: by model, why it is not in the table.
    """

    run: SeedRun
    pair: TwoStage
    left_out: Mapping[str, str]


@compiled_once()
def evaluate(
    dataset: Dataset,
    *,
    protocol: str | None,
    seed: int,
    n_seeds: int,
    settings: TwoStageSettings,
    max_users: int = MAX_TEST_USERS,
    references: bool = False,
    report: Report = lambda _step: None,
) -> tuple[EvaluationReport, list[Evaluation]]:
    """Fit and measure everything once for each of the seeds `seed`, `seed` + 1, ….

    A seed fixes the split (where the protocol draws one) and all that is random in the models.

    Args:
        max_users: test users who are asked for; of more, this many are drawn.
        references: also fit those of `evaluation.references`, whose packages are optional.
    """
    evaluations = []
    for each in range(seed, seed + n_seeds):
        split = make_split(dataset, protocol, seed=each)
        prefix = f"seed {each}: " if n_seeds > 1 else ""
        told = _prefixed(report, prefix)
        evaluations.append(
            evaluate_once(
                dataset,
                split,
                settings=settings,
                seed=each,
                max_users=max_users,
                references=references,
                report=told,
            )
        )
    summary = summarise(
        [each.run for each in evaluations],
        dataset=dataset.name,
        protocol=evaluations[0].pair.split.protocol,
        rng=np.random.default_rng(seed),
    )
    return summary, evaluations


@compiled_once()
def evaluate_retrieval(
    dataset: Dataset,
    *,
    protocol: str | None,
    seed: int,
    n_seeds: int,
    settings: StageOneSettings,
    max_users: int = MAX_TEST_USERS,
    report: Report = lambda _step: None,
) -> tuple[EvaluationReport, Mapping[str, str]]:
    """Stage one alone beside the baselines, as `evaluate`: the report, and what is left out."""
    runs, left_out, split = [], {}, None
    for each in range(seed, seed + n_seeds):
        split = make_split(dataset, protocol, seed=each)
        check_no_leak(split)
        told = _prefixed(report, f"seed {each}: " if n_seeds > 1 else "")
        found = fit_retrieval(dataset, split, settings=settings, seed=each, report=told)
        deep = _Deep(
            scorers={"retrieval": found.scorer},
            seconds={"retrieval": found.seconds["fit retrieval"]},
            seconds_choosing={"retrieval": found.seconds["choose retrieval"]},
            chosen={"retrieval": asdict(found.tower.settings)},
            item_bag=found.features.item_bag,
            item_vectors=None,
        )
        asked = with_test_users(split, max_users)
        measured = _measure(asked, deep, {}, seed=each, report=told)
        runs.append(_seed_run(split, asked, measured))
        left_out = why_left_out(split)
    summary = summarise(
        runs,
        dataset=dataset.name,
        protocol=split.protocol if split else "",
        rng=np.random.default_rng(seed),
    )
    return summary, left_out


def evaluate_once(
    dataset: Dataset,
    split: Split,
    *,
    settings: TwoStageSettings,
    seed: int,
    max_users: int = MAX_TEST_USERS,
    references: bool = False,
    report: Report = lambda _step: None,
) -> Evaluation:
    """Fit both stages and all baselines on the split's train part; measure them on its test part.

    Raises:
        DataError: the split leaks, or holds too little to learn from.
    """
    check_no_leak(split)
    pair = fit_two_stage(dataset, split, settings=settings, seed=seed, report=report)
    asked = with_test_users(split, max_users)
    deep, left_out = _deep_models(pair, asked)
    boosted = {}
    if references:
        report("fit references")
        boosted = ranking_references(pair, seed=seed)
    measured = _measure(asked, deep, boosted, seed=seed, report=report)
    figures = measured.figures
    for name in ("two-stage", *boosted):
        # Known items are never its candidates: with them kept there is nothing to measure.
        own = figures[name]
        figures[name] = {k: v for k, v in own.items() if not k.endswith(_SEEN)}
    if dataset.like_at is not None:
        _add_rating_figures(dataset.like_at, pair, measured, seed=seed, references=references)
    both = pair_figures(Ranks.of(measured.ranked, pair.settings.n_candidates), split)
    calibration = _calibration(dataset, pair, asked, seed)
    run = replace(_seed_run(split, asked, measured), pair=both, calibration=calibration)
    return Evaluation(run, pair, left_out | why_left_out(split))


@dataclass(frozen=True)
class _Deep:
    """Our own models, fitted, by name.

    Attributes:
        seconds: that their fit took.
        seconds_choosing: that choosing their settings took before.
        chosen: their settings.
        item_bag: features of every item.
        item_vectors: for the diversity of lists; None where there are none.
    """

    scorers: dict[str, Scorer]
    seconds: dict[str, float]
    seconds_choosing: dict[str, float]
    chosen: dict[str, dict[str, object]]
    item_bag: Bag
    item_vectors: sp.csr_matrix | None


@dataclass(frozen=True)
class _Measured:
    """All models of one split, by name; `ranked` is how each ranks."""

    ranked: dict[str, RankingFigures]
    figures: dict[str, Figures]
    seconds: dict[str, float]
    seconds_choosing: dict[str, float]
    chosen: dict[str, dict[str, object]]


def _measure(
    split: Split,
    deep: _Deep,
    boosted: Mapping[str, tuple[BoostedScorer, float]],
    *,
    seed: int,
    report: Report,
) -> _Measured:
    """Fit the baselines, and ask all for the same rows."""
    scorers, seconds, chosen = dict(deep.scorers), dict(deep.seconds), dict(deep.chosen)
    report("fit baselines")
    fitted = {**fit_baselines(split, seed=seed), **boosted}
    for name, (scorer, took) in fitted.items():
        scorers[name], seconds[name], chosen[name] = scorer, took, dict(scorer.settings)
    is_cold = split.protocol == cold_items.PROTOCOL
    if is_cold:
        compared = cold_items.cold_baselines(split, deep.item_bag, seed=seed)
        for name, (scorer, took) in compared.items():
            scorers[name], seconds[name] = scorer, took
    report("measure")
    ranked = _rank(scorers, split)
    figures = _ranking_figures(ranked, split, deep.item_vectors)
    if is_cold:
        for name, scorer in scorers.items():
            figures[name] |= cold_items.figures_among_new(scorer, split)
    return _Measured(ranked, figures, seconds, deep.seconds_choosing, chosen)


def with_test_users(split: Split, n: int) -> Split:
    """The split with the test rows of at most n users, drawn by its seed; the rest as it is."""
    users = np.unique(split.test.user)
    if len(users) <= n:
        return split
    drawn = np.random.default_rng(split.seed).choice(users, n, replace=False)
    return replace(split, test=split.test.take(np.isin(split.test.user, drawn)))


def _seed_run(split: Split, asked: Split, measured: _Measured) -> SeedRun:
    ranked = next(iter(measured.ranked.values()))  # each model was asked for the same rows
    return SeedRun(
        seed=split.seed,
        test_rows_sha256=split.test_rows_sha256,
        n_test_rows=len(asked.test),
        n_test_users=ranked.n_users,
        n_users_to_ask=len(np.unique(split.test.user)),
        figures=measured.figures,
        seconds=measured.seconds,
        seconds_choosing=measured.seconds_choosing,
        chosen=measured.chosen,
        n_known_targets=ranked.n_known_targets,
        n_non_finite={name: each.n_non_finite for name, each in measured.ranked.items()},
        untuned=untuned(split),
    )


def _prefixed(report: Report, prefix: str) -> Report:
    return lambda step: report(prefix + step)


def _deep_models(pair: TwoStage, asked: Split) -> tuple[_Deep, dict[str, str]]:
    """Our models of both stages, and why one of them is left out."""
    scorers: dict[str, Scorer] = {
        "two-stage": TwoStageScorer(pair),
        "retrieval": pair.sources.tower,
    }
    left_out = {}
    n_pairs = len(np.unique(asked.test.user)) * len(pair.split.items)
    if n_pairs > MAX_RANKED_PAIRS:
        left_out["ranker"] = f"it would have to score {n_pairs:,} pairs"
    else:
        scorers["ranker"] = RankEverything(pair)
    took = pair.seconds
    fit = {"retrieval": took["fit retrieval"], "ranker": took["fit ranker"]}
    choosing = {
        "retrieval": took["choose retrieval"],
        "ranker": took["candidates for the ranker"] + took["choose ranker features"],
    }
    for seconds in (fit, choosing):
        seconds["two-stage"] = seconds["retrieval"] + seconds["ranker"]
    features = pair.features
    deep = _Deep(
        scorers=scorers,
        seconds={name: fit[name] for name in scorers},
        seconds_choosing={name: choosing[name] for name in scorers},
        chosen=_chosen(pair),
        item_bag=features.item_bag,
        item_vectors=_item_vectors(features.item_bag, features.item_map.n_ids),
    )
    return deep, left_out


def _chosen(pair: TwoStage) -> dict[str, dict[str, object]]:
    tower, ranker = asdict(pair.tower.settings), asdict(pair.settings.ranker)
    neighbour = pair.sources.neighbour
    own = {
        "n_candidates": pair.settings.n_candidates,
        "quotas": dict(pair.settings.quotas or {}),
        "value_weights": pair.settings.value_weights,
        "neighbour": {} if neighbour is None else dict(neighbour.settings),
        "ratings_by": pair.ranker.rates_by,
    }
    return {"retrieval": tower, "ranker": {**ranker, **own}}


def _item_vectors(bag: Bag, n_ids: int) -> sp.csr_matrix | None:
    """Item features for the diversity of lists; None where the data set has none."""
    if n_ids <= 1:
        return None
    # Copies: SciPy sorts what it is given, and the bag belongs to a model.
    rows, places = np.nonzero(bag.weights)
    parts = (bag.weights[rows, places], (rows, bag.ids[rows, places]))
    return sp.csr_matrix(parts, shape=(len(bag), n_ids))


def _rank(scorers: Mapping[str, Scorer], split: Split) -> dict[str, RankingFigures]:
    known, test = split.known.matrix, split.test.matrix
    return {
        name: evaluate_ranking(scorer, known=known, test=test) for name, scorer in scorers.items()
    }


def _ranking_figures(
    ranked: Mapping[str, RankingFigures], split: Split, vectors: sp.csr_matrix | None
) -> dict[str, Figures]:
    """By model: how well it ranks, and what its lists are like."""
    train, known = split.train.matrix, split.known.matrix
    figures: dict[str, Figures] = {}
    for name, each in ranked.items():
        lists = evaluate_lists(each.lists, train=train, known=known, item_vectors=vectors)
        figures[name] = {**each.figures, **lists}
    return figures


def _calibration(
    dataset: Dataset, pair: TwoStage, asked: Split, seed: int
) -> dict[str, HeadCalibration]:
    """Of each head, on the candidates and the ratings of the test part."""
    quotas, some = pair.settings.quotas, with_test_users(asked, MAX_LISTS)
    assert quotas is not None
    lists = candidate_lists(some, pair.sources, pair.features, dataset.like_at, quotas, seed=seed)
    heads = {ENGAGED: engagement_of(pair.ranker, lists)}
    if dataset.like_at is not None and (rated := rated_rows(asked.test, dataset.like_at)):
        heads[LIKED] = likes_of(pair.ranker, pair.states, rated, dataset.like_at)
    if pair.ranker.actions is not None:
        heads |= said_of_later(
            dataset, asked, pair.features, pair.tower, pair.sources.neighbour,
            pair.ranker.actions, seed=seed,
        )  # fmt: skip
    segments, n_known = user_segments(dataset, asked), np.diff(asked.known.matrix.indptr)
    found = {
        name: measure_calibration(held, pair.calibration[name], segments, n_known)
        for name, held in heads.items()
    }
    return {name: one for name, one in found.items() if one is not None}


def _add_rating_figures(
    like_at: float, pair: TwoStage, measured: _Measured, *, seed: int, references: bool
) -> None:
    """Add what the ranker and the models beside it make of the ratings of test."""
    figures, seconds = measured.figures, measured.seconds
    asked = rated_rows(pair.split.test, like_at)
    if asked is None or len(asked) == 0:
        return
    predicted = predict_ratings(pair, asked)
    user, rating = asked.user, asked.value
    squared = evaluate_ratings(user, rating, predicted.mean)
    absolute = evaluate_ratings(user, rating, predicted.median)
    own = figures.setdefault("ranker", {})
    own.update({"rmse": squared["rmse"], "mse": squared["mse"], "mae": absolute["mae"]})
    own.update(evaluate_likes(user, rating >= like_at, predicted.p_like))
    seconds.setdefault("ranker", pair.seconds["fit ranker"])
    for name, (model, took) in fit_rating_baselines(pair.split, seed=seed).items():
        figures[name] = dict(evaluate_ratings(user, rating, model.predict(user, asked.item)))
        seconds[name] = took
    beside = rating_references(pair, asked, like_at, seed=seed) if references else {}
    for name, found in beside.items():
        squared = evaluate_ratings(user, rating, found.mean)
        absolute = evaluate_ratings(user, rating, found.median)
        figures[name] = {"rmse": squared["rmse"], "mse": squared["mse"], "mae": absolute["mae"]}
        seconds[name], measured.chosen[name] = found.seconds, dict(found.settings)
