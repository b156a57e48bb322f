"""The two stages as one system: figures worked out by hand, cohorts, and what the report shows."""

import io
import json

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from rich.console import Console

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import SourceRows, Split
from candidfeed.data.vocabulary import Vocabulary
from candidfeed.evaluation.bootstrap import Resamples
from candidfeed.evaluation.pair import (
    EVERYBODY,
    EVERYTHING,
    FINAL,
    ITEM_COHORTS,
    ORACLE,
    RECALL,
    RETRIEVAL,
    USER_COHORTS,
    PairFigures,
    Ranks,
    pair_figures,
    pair_table,
    summarise_pair,
)
from candidfeed.evaluation.ranking_metrics import Targets


def events(pairs, n_users, n_items):
    user, item = np.array(pairs, np.int32).reshape(-1, 2).T
    return Interactions(
        user, item, np.full(len(user), np.nan, np.float32), np.full(len(user), np.nan),
        n_users, n_items,
    )  # fmt: skip


def split_of(train, history, test, *, n_users, n_items):
    def ids(n):
        return Vocabulary(pl.Series(range(n)))

    parts = [events(pairs, n_users, n_items) for pairs in (train, history, test)]
    return Split("random", 1, ids(n_users), ids(n_items), *parts, "ab", SourceRows.unknown())


def targets(pairs, ranks):
    user, item = np.array(pairs, np.int32).T
    users, owner = np.unique(user, return_inverse=True)
    return Targets(users, owner, item, np.array(ranks, float))


# Two users, three candidates each: user 0 wants items 1, 2 and 9, user 1 wants item 3.
PAIRS = [(0, 1), (0, 2), (0, 9), (1, 3)]
SPLIT = split_of([(0, 0), (1, 0), (1, 4)], [], PAIRS, n_users=2, n_items=10)


def found(everything=None):
    ranks = Ranks(
        n_candidates=3,
        final=targets(PAIRS, [1, 3, 4, 2]),
        retrieval=targets(PAIRS, [2, 3, 8, 1]),
        everything=None if everything is None else targets(PAIRS, everything),
    )
    return pair_figures(ranks, SPLIT)


def test_each_figure_is_the_one_worked_out_by_hand():
    figures = found(everything=[1, 2, 4, 1]).cohorts[EVERYBODY].figures
    gain = 1 / np.log2(np.arange(2, 12))
    of_three = gain[:3].sum()
    # User 0: two of three wanted are candidates; user 1: all.
    assert figures[RECALL].value() == pytest.approx((2 / 3 + 1) / 2)
    assert figures[ORACLE].value() == pytest.approx((gain[:2].sum() / of_three + 1) / 2)
    assert figures[FINAL].value() == pytest.approx(((gain[0] + gain[2]) / of_three + gain[1]) / 2)
    # The item at place 8 is no candidate: it has no place in retrieval's order of them.
    assert figures[RETRIEVAL].value() == pytest.approx(((gain[1] + gain[2]) / of_three + 1) / 2)
    assert figures[EVERYTHING].value() == pytest.approx(
        ((gain[0] + gain[1] + gain[3]) / of_three + 1) / 2
    )


def test_without_ranking_everything_there_is_no_lift_over_it():
    pair = found()
    assert EVERYTHING not in pair.cohorts[EVERYBODY].figures
    report = summarise_pair([pair], Resamples.draw(np.arange(2, dtype=np.int32), rng=rng()))
    assert report.cohorts[EVERYBODY].lifts.keys() == {RETRIEVAL}
    assert drawn(report).splitlines()[3].split()[-1] == "-"


def test_no_order_of_the_candidates_is_better_than_the_oracles():
    generator = rng()
    n_users, n_items, n_candidates = 30, 40, 12
    test = np.argwhere(generator.random((n_users, n_items)) < 0.2)
    split = split_of([(0, 0)], [], test, n_users=n_users, n_items=n_items)
    order = np.argsort(generator.random((n_users, n_items)), axis=1) + 1
    ranks = order[test[:, 0], test[:, 1]]
    once = Ranks(n_candidates, targets(test, ranks), targets(test, ranks), None)
    figures = pair_figures(once, split).cohorts[EVERYBODY].figures
    by_user = figures[ORACLE].sums[:, 0] - figures[FINAL].sums[:, 0]
    assert (by_user >= -1e-12).all()
    assert by_user.max() > 0.1


def test_cohorts_part_the_users_by_what_is_known_and_the_items_by_thirds_of_train():
    # Users 0 to 2 have 1, 2 and 3 events in train, user 3 has two in its history only.
    train = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (4, 3), (4, 4)]
    test = [(0, 5), (1, 2), (2, 3), (3, 0), (3, 1)]
    split = split_of(train, [(3, 2), (3, 3)], test, n_users=5, n_items=6)
    ranked = targets(test, [1, 2, 3, 4, 5])
    pair = pair_figures(Ranks(6, ranked, ranked, None), split).cohorts
    users = {name: pair[name].figures[RECALL].users.tolist() for name in USER_COHORTS}
    assert users == {
        "new users": [3], "light users": [0], "medium users": [1], "heavy users": [2],
    }  # fmt: skip
    # Of eight train events item 0 has three, item 1 two, three others one; the tail holds 5 too.
    counted = {name: pair[name].n_pairs for name in ITEM_COHORTS if name in pair}
    assert counted == {"head items": 1, "middle items": 1, "tail items": 3}
    assert pair["tail items"].n_users == 3


def test_where_no_pair_is_asked_for_there_is_no_cohort():
    nothing = Targets(np.empty(0, int), np.empty(0, int), np.empty(0, np.int32), np.empty(0))
    found = pair_figures(Ranks(3, nothing, nothing, None), SPLIT)
    assert found.cohorts == {}
    report = summarise_pair([found], Resamples.draw(np.arange(2), rng=np.random.default_rng(0)))
    assert report.cohorts == {}
    assert pair_table(report).row_count == 0


def test_every_pair_is_in_one_cohort_of_users_and_in_one_of_items():
    generator = rng()
    known, test = (np.argwhere(generator.random((50, 30)) < share) for share in (0.3, 0.1))
    split = split_of(known, [], test, n_users=50, n_items=30)
    ranked = targets(test, generator.integers(1, 30, len(test)))
    cohorts = pair_figures(Ranks(10, ranked, ranked, ranked), split).cohorts
    for names in (USER_COHORTS, ITEM_COHORTS):
        assert sum(cohorts[name].n_pairs for name in names if name in cohorts) == len(test)


def many_users(lift, *, n=200):
    """Everybody wants one item, which the final list has higher by `lift` for a part of them."""
    pairs = [(u, u % 7) for u in range(n)]
    generator = rng()
    before = generator.integers(2, 10, n).astype(float)
    after = np.where(generator.random(n) < 0.5, before - lift, before)
    split = split_of([(0, 8)], [], pairs, n_users=n, n_items=9)
    last = targets(pairs, before)
    return pair_figures(Ranks(9, targets(pairs, after), last, last), split)


def rng():
    return np.random.default_rng(5)


def drawn(report):
    console = Console(width=80, file=io.StringIO(), markup=False)
    console.print(pair_table(report))
    return console.file.getvalue()


def test_a_lift_has_an_interval_and_a_p_among_all_lifts():
    resamples = Resamples.draw(np.arange(200, dtype=np.int32), rng=rng())
    report = summarise_pair([many_users(1)], resamples)
    lift = report.cohorts[EVERYBODY].lifts[RETRIEVAL]
    assert 0 < lift.low < lift.mean < lift.high
    assert lift.is_significant
    assert lift.p_holm > lift.p
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["n_candidates"] == 9
    assert content["cohorts"]["all"]["lifts"]["retrieval"]["p_holm"] == lift.p_holm
    row = next(line for line in drawn(report).splitlines() if line.startswith("all"))
    assert row.count("*") == 2
    none = summarise_pair([many_users(0)], resamples).cohorts[EVERYBODY].lifts[RETRIEVAL]
    assert (none.mean, none.p_holm) == (0, 1)


def test_the_table_fits_80_columns_and_says_where_users_are_too_few():
    resamples = Resamples.draw(np.arange(200, dtype=np.int32), rng=rng())
    text = drawn(summarise_pair([many_users(1)], resamples))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    few = summarise_pair([found()], Resamples.draw(np.arange(2, dtype=np.int32), rng=rng()))
    assert "too few users" in drawn(few)


def test_a_cohort_that_one_seed_lacks_is_not_averaged():
    whole = many_users(1)
    part = PairFigures(9, {EVERYBODY: whole.cohorts[EVERYBODY]})
    resamples = Resamples.draw(np.arange(200, dtype=np.int32), rng=rng())
    assert summarise_pair([whole, part], resamples).cohorts.keys() == {EVERYBODY}


def test_the_ranks_of_a_report_are_those_of_our_own_models_by_name():
    from candidfeed.evaluation.ranking_metrics import evaluate_ranking

    class Scores:
        def scores(self, users):
            return np.tile(np.arange(5, dtype=np.float32), (len(users), 1))

    one = sp.csr_matrix(np.eye(5, dtype=np.float32))
    ranked = evaluate_ranking(Scores(), known=sp.csr_matrix((5, 5), dtype=np.float32), test=one)
    ranks = Ranks.of({"two-stage": ranked, "retrieval": ranked}, 3)
    assert ranks.everything is None
    assert ranks.final.rank.tolist() == [5, 4, 3, 2, 1]
    assert ranks.final.item.tolist() == [0, 1, 2, 3, 4]
