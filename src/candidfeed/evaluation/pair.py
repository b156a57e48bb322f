"""The two stages as one system: what stage one finds, and what stage two makes of it, by cohort.

A cohort is a part of the test users, or of the test pairs by their item. docs/metrics.md defines
each figure and cohort.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from candidfeed.data.splits import Split
from candidfeed.evaluation.bootstrap import (
    MIN_USERS,
    Comparison,
    Difference,
    Estimate,
    Resamples,
    SumFigure,
    compared,
    estimates,
    mean_over_users,
    paired_difference,
)
from candidfeed.evaluation.ranking_metrics import RankingFigures, Targets, figures_of_users
from candidfeed.evaluation.rating_metrics import equal_mass_bins

K = 10
RECALL, ORACLE, FINAL = "recall", "oracle", "final"
RETRIEVAL, EVERYTHING = "retrieval", "everything"
EVERYBODY = "all"
USER_COHORTS = ("new users", "light users", "medium users", "heavy users")
ITEM_COHORTS = ("head items", "middle items", "tail items")

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Ranks:
    """The same test pairs in the order of the final list, of stage one, and of the ranker alone.

    Attributes:
        n_candidates: how many items stage one hands on.
        everything: None where ranking everything was left out.
    """

    n_candidates: int
    final: Targets
    retrieval: Targets
    everything: Targets | None

    @staticmethod
    def of(ranked: Mapping[str, RankingFigures], n_candidates: int) -> "Ranks":
        """From how our models rank all items, by their names in a report."""
        everything = ranked.get("ranker")
        return Ranks(
            n_candidates,
            ranked["two-stage"].targets,
            ranked["retrieval"].targets,
            None if everything is None else everything.targets,
        )

    def where(self, keep: Mask) -> "Ranks":
        everything = None if self.everything is None else self.everything.where(keep)
        return Ranks(
            self.n_candidates, self.final.where(keep), self.retrieval.where(keep), everything
        )


@dataclass(frozen=True)
class CohortFigures:
    """One cohort of one split: how large it is, and its figures by name."""

    n_users: int
    n_pairs: int
    figures: Mapping[str, SumFigure]


@dataclass(frozen=True)
class PairFigures:
    """What was measured of the pair on one split; cohorts as in `PairReport`."""

    n_candidates: int
    cohorts: Mapping[str, CohortFigures]


@dataclass(frozen=True)
class CohortReport:
    """One cohort over all seeds.

    Attributes:
        n_users, n_pairs: the mean over seeds.
        figures: by name.
        lifts: of the final list over `retrieval` and `everything`.
    """

    n_users: float
    n_pairs: float
    figures: Mapping[str, Estimate]
    lifts: Mapping[str, Comparison]


@dataclass(frozen=True)
class PairReport:
    """Cohorts in a fixed order, everybody first; those without a test pair are not there."""

    n_candidates: int
    cohorts: Mapping[str, CohortReport]

    def to_json(self) -> dict[str, object]:
        return {
            "n_candidates": self.n_candidates,
            "cohorts": {name: asdict(cohort) for name, cohort in self.cohorts.items()},
        }


def pair_figures(ranks: Ranks, split: Split) -> PairFigures:
    """The figures of every cohort that has a test pair."""
    final = ranks.final
    everybody = (EVERYBODY, np.ones(len(final.owner), bool))
    found = {}
    for name, keep in (everybody, *_user_cohorts(final, split), *_item_cohorts(final, split)):
        if keep.any():
            found[name] = _figures(ranks.where(keep))
    return PairFigures(ranks.n_candidates, found)


def summarise_pair(runs: Sequence[PairFigures], resamples: Resamples) -> PairReport:
    """Means over seeds with intervals over users, of the cohorts that every seed has.

    The lifts of all cohorts are one family of comparisons.
    """
    names = [name for name in runs[0].cohorts if all(name in run.cohorts for run in runs)]
    by_cohort = {name: [run.cohorts[name] for run in runs] for name in names}
    lifts = compared(dict(_differences(by_cohort, resamples)))
    cohorts = {}
    for name, seeds in by_cohort.items():
        figures = {one: [seed.figures[one] for seed in seeds] for one in seeds[0].figures}
        cohorts[name] = CohortReport(
            n_users=float(np.mean([seed.n_users for seed in seeds])),
            n_pairs=float(np.mean([seed.n_pairs for seed in seeds])),
            figures=estimates(figures, resamples),
            lifts={other: one for (cohort, other), one in lifts.items() if cohort == name},
        )
    return PairReport(runs[0].n_candidates, cohorts)


def _differences(
    by_cohort: Mapping[str, Sequence[CohortFigures]], resamples: Resamples
) -> Iterator[tuple[tuple[str, str], Difference]]:
    for name, seeds in by_cohort.items():
        final = [seed.figures[FINAL] for seed in seeds]
        for other in (RETRIEVAL, EVERYTHING):
            if other in seeds[0].figures:
                lift = paired_difference(final, [seed.figures[other] for seed in seeds], resamples)
                if lift is not None:
                    yield (name, other), lift


def pair_table(report: PairReport) -> Table:
    """For a terminal of 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("test pairs of", no_wrap=True)
    headings = ("users", f"recall\n@{report.n_candidates}", f"oracle\nndcg@{K}", f"final\nndcg@{K}")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("lift over\nretrieval's order", justify="right", no_wrap=True)
    table.add_column("lift over\nranking everything", justify="right", no_wrap=True)
    for name, cohort in report.cohorts.items():
        means = [f"{cohort.figures[one].mean:.3f}" for one in (RECALL, ORACLE, FINAL)]
        lifts = [_lift(cohort, other) for other in (RETRIEVAL, EVERYTHING)]
        table.add_row(name, f"{cohort.n_users:,.0f}", *means, *lifts)
    return table


def _lift(cohort: CohortReport, other: str) -> str:
    """Mean and interval; `*` where it is significant among all lifts of the table."""
    if other not in cohort.lifts:
        return "-"
    if cohort.lifts[other].n_users < MIN_USERS:
        return "too few users"
    one = cohort.lifts[other]
    low, mean, high = (f"{x + 0.0:+.3f}".replace("0.", ".") for x in (one.low, one.mean, one.high))
    return f"{mean}{'*' if one.is_significant else ' '} {low} {high}"


def _figures(ranks: Ranks) -> CohortFigures:
    final = ranks.final
    found = final.rank <= ranks.n_candidates
    n_found, n_pairs = final.sum_by_user(found), final.sum_by_user(np.ones(len(found)))
    figures = {
        RECALL: mean_over_users(final.users, n_found / n_pairs),
        ORACLE: _ndcg(final.ranked(_best_order(found, final.owner))),
        FINAL: _ndcg(_listed(final, found)),
        RETRIEVAL: _ndcg(_listed(ranks.retrieval, found)),
    }
    if ranks.everything is not None:
        figures[EVERYTHING] = _ndcg(ranks.everything)
    return CohortFigures(len(final.users), len(found), figures)


def _ndcg(targets: Targets) -> SumFigure:
    return figures_of_users(targets, (K,))[f"ndcg@{K}"]


def _listed(targets: Targets, found: Mask) -> Targets:
    """Only what is a candidate has a place."""
    return targets.ranked(np.where(found, targets.rank, np.inf))


def _best_order(found: Mask, owner: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ranks if each user's found targets stood in front, float64 [n]; infinite for the others."""
    so_far = np.cumsum(found)
    before = np.concatenate([[0], so_far])[np.searchsorted(owner, owner)]
    return np.where(found, so_far - before, np.inf)


def _user_cohorts(targets: Targets, split: Split) -> Iterator[tuple[str, Mask]]:
    """Users without an event in train; the others in thirds by how many events are known."""
    n_train = np.diff(split.train.matrix.indptr)[targets.users]
    n_known = np.diff(split.known.matrix.indptr)[targets.users]
    cohort = np.zeros(len(targets.users), np.int64)
    cohort[n_train > 0] = 1 + equal_mass_bins(n_known[n_train > 0], 3)
    for place, name in enumerate(USER_COHORTS):
        yield name, (cohort == place)[targets.owner]


def _item_cohorts(targets: Targets, split: Split) -> Iterator[tuple[str, Mask]]:
    """Items by popularity: the head, the middle and the tail hold a third of train's pairs each."""
    touched = split.train.matrix.indices
    n_users = np.bincount(touched, minlength=len(split.items))
    cohort = np.full(len(split.items), len(ITEM_COHORTS) - 1)
    cohort[touched] = equal_mass_bins(-n_users[touched], 3)
    for place, name in enumerate(ITEM_COHORTS):
        yield name, cohort[targets.item] == place
