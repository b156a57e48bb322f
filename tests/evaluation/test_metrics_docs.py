"""docs/metrics.md defines each metric that the code computes, and no other."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from candidfeed.evaluation import report
from candidfeed.evaluation.baselines import MAX_TUNED_EVENTS, MAX_TUNED_ITEMS
from candidfeed.evaluation.bootstrap import N_REPLICATES
from candidfeed.evaluation.cold_items import AMONG_NEW
from candidfeed.evaluation.list_metrics import LIST_LENGTH, evaluate_lists
from candidfeed.evaluation.ranking_metrics import KS, TOP_KS, evaluate_ranking
from candidfeed.evaluation.rating_metrics import N_BINS, evaluate_likes, evaluate_ratings

DOCUMENT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Constant:
    n_items: int

    def scores(self, users):
        return np.zeros((len(users), self.n_items), dtype=np.float32)


def computed_names():
    pair = sp.csr_matrix(np.array([[0, 1]], dtype=np.float32))
    ranking = evaluate_ranking(Constant(2), known=pair, test=pair)
    lists = evaluate_lists(ranking.lists, train=pair, known=pair)
    user, ones = np.array([0]), np.array([1.0])
    ratings = evaluate_ratings(user, ones, ones)
    likes = evaluate_likes(user, np.array([True]), ones)
    return [*ranking.figures, *lists, *ratings, *likes, *AMONG_NEW]


def section(heading):
    return DOCUMENT.split(f"## {heading}\n")[1].split("\n## ")[0]


def test_each_metric_is_documented_and_each_documented_metric_exists():
    documented = re.findall(r"^### `(.+)`$", DOCUMENT, flags=re.MULTILINE)
    computed = {re.sub(r"@\d+", "@k", name) for name in computed_names()}
    assert sorted(documented) == sorted(computed)


def test_documented_defaults_are_those_of_the_code():
    def listed(numbers):
        return f"Cut-offs: {', '.join(map(str, numbers))}."

    assert listed(TOP_KS) in section("Pooled over targets")
    assert listed(KS) in section("Averaged over users")
    assert f"The first {LIST_LENGTH} of each user" in section("Lists")
    assert f"cut into {N_BINS} bins" in section("Predicted ratings and likes")
    limits = f"more than {MAX_TUNED_EVENTS:,} events of train, or {MAX_TUNED_ITEMS:,} items"
    assert limits in section("The JSON")
    assert f"of {N_REPLICATES:,} resamples" in section("Intervals and differences")


def test_the_metrics_that_the_report_shows_are_computed():
    computed = set(computed_names())
    claimed = {metric for _, metric in report.CLAIMS}
    assert computed >= {*report.COLUMNS, *report.HEADLINES, *report.LOWER_IS_BETTER, *claimed}


def test_the_keys_of_the_json_are_documented():
    pair = sp.csr_matrix(np.array([[0, 1]], dtype=np.float32))
    figures = {"ease": evaluate_ranking(Constant(2), known=pair, test=pair).figures}
    run = report.SeedRun(1, "", 1, 1, figures, {"ease": 0.0})
    rng = np.random.default_rng(0)
    found = report.summarise([run, run], dataset="d", protocol="p", rng=rng, n_replicates=2)
    assert all(f"`{key}`" in section("The JSON") for key in found.to_json())
