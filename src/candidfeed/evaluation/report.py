"""What an evaluation found: as JSON for programs, as a table and one plain sentence for people."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from candidfeed.data.protocols import PROTOCOLS
from candidfeed.evaluation.bootstrap import (
    MIN_USERS,
    N_REPLICATES,
    Comparison,
    Difference,
    Estimate,
    Figure,
    Resamples,
    compared,
    estimates,
    paired_difference,
)
from candidfeed.evaluation.calibration import (
    HeadCalibration,
    describe_calibration,
    mean_calibration,
)
from candidfeed.evaluation.pair import PairFigures, PairReport, pair_table, summarise_pair

DEEP_MODELS = ("two-stage", "retrieval", "ranker")
RERANKERS = ("lgbm-binary", "lambdamart")
# What each deep model is judged by: the list that people see, the candidates, the rating.
CLAIMS = (("two-stage", "ndcg@10"), ("retrieval", "top@100"), ("ranker", "mse"))
LOWER_IS_BETTER = frozenset({"rmse", "mse", "mae", "logloss", "brier", "ece"})
COLUMNS = (
    "top@100", "top@100/seen", "top@10/new", "recall@20", "ndcg@10", "ndcg@20", "mse", "mae",
)  # fmt: skip
# Columns that say little under a protocol, so that the table fits.
_NOT_UNDER = {"item-cold": ("top@100/seen", "recall@20", "ndcg@20")}
HEADLINES = ("ndcg@10", "mse")
PAIR_LEGEND = (
    "recall: of the candidates. oracle: their best order. Lifts with 95 % intervals over users;"
    " * significant among all lifts (Holm)."
)


@dataclass(frozen=True)
class SeedRun:
    """All models, fitted and evaluated once on one split.

    Attributes:
        figures: by model, then by metric; every model was asked for the same test rows.
        seconds: fitting time by model, with the settings that were chosen.
        seconds_choosing: by model that says so, how long choosing its settings took.
        chosen: the settings that each model was fitted with, as JSON types.
        n_test_rows: rows of the test part that were asked for, repeated pairs included.
        n_test_users: users who were asked for.
        n_users_to_ask: users of the whole test part, of whom those were drawn; 0 where all were.
        n_known_targets: test pairs that the user is known to have touched before.
        n_non_finite: by model, scores that were NaN or infinite.
        pair: both stages as one system; None where there are no two stages.
        calibration: by head of the ranker.
        untuned: baselines whose settings were not chosen, for train is too large.
    """

    seed: int
    test_rows_sha256: str
    n_test_rows: int
    n_test_users: int
    figures: Mapping[str, Mapping[str, Figure]]
    seconds: Mapping[str, float]
    chosen: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    n_known_targets: int = 0
    n_non_finite: Mapping[str, int] = field(default_factory=dict)
    seconds_choosing: Mapping[str, float] = field(default_factory=dict)
    n_users_to_ask: int = 0
    pair: PairFigures | None = None
    calibration: Mapping[str, HeadCalibration] = field(default_factory=dict)
    untuned: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationReport:
    """How good each model is, with intervals; one run per seed, the first run's seed leads.

    Attributes:
        models: by model, then by metric; a metric that is not defined for a model is not there.
        paired: by deep model and the metric it is judged by, then by other model: deep - other. All
            of them are one family of comparisons.
        pair: both stages as one system; None where there are no two stages.
        calibration: by head of the ranker, the mean over seeds.
    """

    dataset: str
    protocol: str
    runs: tuple[SeedRun, ...]
    models: Mapping[str, Mapping[str, Estimate]]
    paired: Mapping[str, Mapping[str, Mapping[str, Comparison]]]
    pair: PairReport | None = None
    calibration: Mapping[str, HeadCalibration] = field(default_factory=dict)

    @property
    def seconds(self) -> dict[str, float]:
        """Fitting time by model, the mean over seeds."""
        return _means([run.seconds for run in self.runs])

    @property
    def seconds_choosing(self) -> dict[str, float]:
        """Time of choosing settings by model, the mean over seeds."""
        return _means([run.seconds_choosing for run in self.runs])

    def to_json(self) -> dict[str, object]:
        """The report in JSON types, without NaN; docs/metrics.md describes the keys."""
        first, known = self.runs[0], PROTOCOLS.get(self.protocol)
        content: dict[str, object] = {
            "dataset": self.dataset,
            "protocol": self.protocol,
            "protocol_card": dict(known.lines()) if known else {},
            "seed": first.seed,
            "test_rows_sha256": first.test_rows_sha256,
            "models": {name: _as_json(metrics) for name, metrics in self.models.items()},
            "seconds": self.seconds,
            "seconds_choosing": self.seconds_choosing,
            "n_test_rows": first.n_test_rows,
            "n_test_users": first.n_test_users,
            "n_users_to_ask": max(first.n_users_to_ask, first.n_test_users),
            "n_known_targets": first.n_known_targets,
            "n_non_finite": dict(first.n_non_finite),
            "chosen": {name: dict(settings) for name, settings in first.chosen.items()},
            "untuned": list(first.untuned),
            "paired": {
                model: {metric: _as_json(others) for metric, others in metrics.items()}
                for model, metrics in self.paired.items()
            },
        }
        if self.pair is not None:
            content["pair"] = self.pair.to_json()
        if self.calibration:
            content["calibration"] = {name: o.to_json() for name, o in self.calibration.items()}
        if len(self.runs) > 1:
            content["by_seed"] = [_seed_json(run) for run in self.runs]
        return content


def summarise(
    runs: Sequence[SeedRun],
    *,
    dataset: str,
    protocol: str,
    rng: np.random.Generator,
    n_replicates: int = N_REPLICATES,
) -> EvaluationReport:
    """Means over seeds, intervals over users, and differences of the deep models to each other one.

    All of it rests on one set of resamples, over the users of all seeds: see
    `bootstrap.estimates` for how seeds are put together.

    Raises:
        ValueError: there is no run, or the runs are not of the same models.
    """
    if not runs:
        raise ValueError("report: no run was given")
    names = list(runs[0].figures)
    if any(run.figures.keys() != runs[0].figures.keys() for run in runs):
        raise ValueError(f"report: each seed must have the models {names}")
    by_model = {name: _across_seeds([run.figures[name] for run in runs]) for name in names}
    every = [f.users for metrics in by_model.values() for seeds in metrics.values() for f in seeds]
    users = np.unique(np.concatenate([np.empty(0, dtype=np.int32), *every]))
    resamples = Resamples.draw(users, rng=rng, n_replicates=n_replicates)
    pairs = [run.pair for run in runs if run.pair is not None]
    return EvaluationReport(
        dataset=dataset,
        protocol=protocol,
        runs=tuple(runs),
        models={name: estimates(metrics, resamples) for name, metrics in by_model.items()},
        paired=_paired(by_model, resamples),
        pair=summarise_pair(pairs, resamples) if pairs else None,
        calibration={
            head: mean_calibration([run.calibration[head] for run in runs])
            for head in runs[0].calibration
            if all(head in run.calibration for run in runs)
        },
    )


def verdict(report: EvaluationReport) -> str:
    """Where each deep model beats, ties with or loses to the best baseline; one sentence.

    Empty where there is no deep model, or none beside it to compare with.
    """
    clauses = []
    for model, metric in CLAIMS:
        others = report.paired.get(model, {}).get(metric, {})
        # A re-ordered list of candidates is no rival of the stage that found them.
        no_rival = RERANKERS if model == "retrieval" else ()
        baselines = [name for name in others if name not in (*DEEP_MODELS, *no_rival)]
        if baselines:
            best = _best(report, metric, baselines)[0]
            clauses.append(_clause(model, best, metric, others[best]))
    n_users = report.runs[0].n_test_users
    if clauses and n_users < MIN_USERS:
        few = "one test user is" if n_users == 1 else f"{n_users} test users are"
        return f"{few} too few to say which model is better (at least {MIN_USERS})"
    return "; ".join(clauses)


def report_view(report: EvaluationReport) -> Group:
    """The table, what its marks mean, warnings, and the verdict; for a terminal of 80 columns."""
    first, n_seeds = report.runs[0], len(report.runs)
    title = f"{report.dataset}, protocol {report.protocol}, seed {first.seed}"
    if n_seeds > 1:
        title = f"{report.dataset}, protocol {report.protocol}, mean of {n_seeds} seeds"
    drawn = f", drawn of {first.n_users_to_ask:,}"
    legend = (
        f"{_count(first.n_test_rows, 'test row')} of {_count(first.n_test_users, 'user')}"
        f"{drawn if first.n_users_to_ask > first.n_test_users else ''}."
        " * the best. Beside the headline metric: its 95 % interval over users."
    )
    choosing = ", ".join(f"{name} {took:.0f} s" for name, took in report.seconds_choosing.items())
    if choosing:
        legend += f" Choosing settings, before the fit: {choosing}."
    lines = [Text(title, style="bold"), _table(report), Text(legend, style="dim")]
    lines += [Text(warning, style="yellow") for warning in _warnings(report)]
    if report.pair is not None:
        lines += [Text("\nThe two stages as one system", style="bold"), pair_table(report.pair)]
        lines.append(Text(PAIR_LEGEND, style="dim"))
    for head, found in report.calibration.items():
        lines.append(Text(describe_calibration(head, found)))
    lines += protocol_card(report.protocol)
    sentence = verdict(report)
    if sentence:
        lines.append(Text(f"\n{sentence}", style="bold"))
    return Group(*lines)


def protocol_card(protocol: str) -> list[Text]:
    """What has to be said before figures may be compared with those of another table."""
    title = Text(f"\nProtocol {protocol}", style="bold")
    known = PROTOCOLS.get(protocol)
    card = known.lines() if known else []
    return [title, *(Text(f"{name}: {text}", style="dim") for name, text in card)] if card else []


def _means(by_run: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in by_run])) for name in by_run[0]}


def _count(n: int, word: str) -> str:
    return f"{n:,} {word}{'s' * (n != 1)}"


def _across_seeds(runs: Sequence[Mapping[str, Figure]]) -> dict[str, list[Figure]]:
    """By metric, one figure per seed; only metrics that each seed has."""
    return {name: [run[name] for run in runs] for name in runs[0] if all(name in r for r in runs)}


def _paired(
    by_model: Mapping[str, Mapping[str, Sequence[Figure]]], resamples: Resamples
) -> dict[str, dict[str, dict[str, Comparison]]]:
    differences: dict[tuple[str, str, str], Difference] = {}
    for model, metric in CLAIMS:
        own = by_model.get(model, {}).get(metric)
        for name, metrics in by_model.items() if own else ():
            if own and name != model and metric in metrics:
                found = paired_difference(own, metrics[metric], resamples)
                if found is not None:
                    differences[model, metric, name] = found
    paired: dict[str, dict[str, dict[str, Comparison]]] = {}
    for (model, metric, name), comparison in compared(differences).items():
        paired.setdefault(model, {}).setdefault(metric, {})[name] = comparison
    return paired


def _best(report: EvaluationReport, metric: str, names: Sequence[str]) -> list[str]:
    """Those of the models with the best mean; more than one where they are equal."""
    means = {n: report.models[n][metric].mean for n in names if metric in report.models[n]}
    best = (min if metric in LOWER_IS_BETTER else max)(means.values(), default=None)
    return [name for name, mean in means.items() if mean == best]


def _clause(model: str, baseline: str, metric: str, difference: Comparison) -> str:
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    # Rounded: equal models may differ by the rounding of sums, and that is no win.
    ends = (difference.low, difference.mean, difference.high)
    low, mean, high = sorted(round(sign * x, 9) for x in ends)
    if difference.is_significant and mean > 0:
        return f"{model} beats {baseline} on {metric} by {_short(mean, low, high)}"
    if difference.is_significant and mean < 0:
        return f"{model} loses to {baseline} on {metric} by {_short(-mean, -high, -low)}"
    tie = f"{model} ties with {baseline} on {metric}"
    clear = low > 0 or high < 0
    among = f" (p {difference.p_holm:.2f} among all comparisons, Holm)" if clear else ""
    if mean < 0:
        return f"{tie}, behind by {_short(-mean, -high, -low)}{among}"
    return f"{tie}, ahead by {_short(mean, low, high)}{among}"


def _short(mean: float, low: float, high: float) -> str:
    """`0.012 [0.004, 0.020]`, with as many digits as it takes to tell the numbers from 0."""
    least = min((abs(x) for x in (mean, low, high) if x), default=1.0)
    digits = next(n for n in range(3, 11) if least >= 0.5 * 10**-n)
    # + 0.0: what rounds to nothing has no sign.
    mean, low, high = (round(x, digits) + 0.0 for x in (mean, low, high))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _table(report: EvaluationReport) -> Table:
    measured = {metric for metrics in report.models.values() for metric in metrics}
    columns = [
        name
        for name in COLUMNS
        if name in measured
        and (name != "ndcg@20" or report.protocol == "given")
        and name not in _NOT_UNDER.get(report.protocol, ())
    ]
    headline = next((name for name in HEADLINES if name in measured), None)
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("model", max_width=14, overflow="ellipsis", no_wrap=True)
    for name in columns:
        heading = name.replace("/", "\n/") if "/" in name else name.replace("@", "\n@")
        table.add_column(heading, no_wrap=True, justify="left" if name == headline else "right")
    table.add_column("fit s", justify="right", no_wrap=True)
    several = len(report.models) > 1
    best = {name: _best(report, name, list(report.models)) if several else [] for name in columns}
    for model, metrics in report.models.items():
        cells = [_cell(metrics.get(c), model in best[c], c == headline) for c in columns]
        table.add_row(Text(model), *cells, _seconds(report.seconds.get(model)))
    return table


def _cell(estimate: Estimate | None, is_best: bool, with_interval: bool) -> Text:
    if estimate is None:
        return Text("- ")
    cell = Text(_number(estimate.mean) + ("*" if is_best else " "))
    cell.stylize("bold" if is_best else "")
    if with_interval:
        low, high = (_number(x).removeprefix("0") for x in (estimate.low, estimate.high))
        cell.append(f" {low}-{high}", style="dim")
    return cell


def _number(value: float) -> str:
    """At most five characters and a sign, as far as its size allows."""
    size = abs(value)
    if size >= 99_999.5:
        return f"{value:.0e}"
    if size >= 999.95:
        return f"{value:.0f}"
    return f"{value:.3f}" if size < 10 else f"{value:.1f}"


def _seconds(seconds: float | None) -> Text:
    if seconds is None:
        return Text("-")
    return Text(f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}")


def _warnings(report: EvaluationReport) -> list[str]:
    first = report.runs[0]
    found = [
        f"{model}: {n:,} scores were NaN or infinite; they were ranked last"
        for model, n in first.n_non_finite.items()
        if n
    ]
    if first.untuned:
        found.append(f"{', '.join(first.untuned)}: settings not tuned, the log is too large")
    if first.n_known_targets:
        found.append(
            f"{first.n_known_targets:,} test pairs were known before and can't be recommended:"
            " only the metrics that end in /seen ask for them"
        )
    return found


def _as_json(named: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: asdict(estimate) for name, estimate in named.items()}


def _seed_json(run: SeedRun) -> dict[str, object]:
    """One seed's own figures, without intervals: how much they scatter between seeds."""
    values = {
        model: {name: figure.value() for name, figure in metrics.items()}
        for model, metrics in run.figures.items()
    }
    return {
        "seed": run.seed,
        "test_rows_sha256": run.test_rows_sha256,
        "n_test_rows": run.n_test_rows,
        "n_test_users": run.n_test_users,
        "n_known_targets": run.n_known_targets,
        "n_non_finite": dict(run.n_non_finite),
        "chosen": {name: dict(settings) for name, settings in run.chosen.items()},
        "seconds": dict(run.seconds),
        "models": {
            model: {name: value for name, value in metrics.items() if np.isfinite(value)}
            for model, metrics in values.items()
        },
    }
