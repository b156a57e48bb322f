"""Ranking metrics against ir-measures, a slow loop, and figures worked out by hand."""

from dataclasses import dataclass
from math import log2

import hypothesis.strategies as st
import ir_measures
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from ir_measures import AP, RR, P, R, Success, nDCG

from candidfeed.errors import DataError
from candidfeed.evaluation import ranking_metrics
from candidfeed.evaluation.ranking_metrics import KS, TOP_KS, evaluate_ranking


@dataclass(frozen=True)
class Table:
    """A model that knows the score of each (user, item)."""

    table: np.ndarray

    def scores(self, users):
        return self.table[users]


def pairs(n_users, n_items, *of):
    """CSR with a one for each (user, item)."""
    users, items = [u for u, _ in of], [i for _, i in of]
    return sp.csr_matrix((np.ones(len(of), np.float32), (users, items)), shape=(n_users, n_items))


def one_user(scores, *, targets, known=(), **options):
    scores = np.asarray([scores], dtype=np.float32)
    n_items = scores.shape[1]
    return evaluate_ranking(
        Table(scores),
        known=pairs(1, n_items, *((0, item) for item in known)),
        test=pairs(1, n_items, *((0, item) for item in targets)),
        **options,
    )


def values(figures):
    return {name: figure.value() for name, figure in figures.figures.items()}


def random_pairs(rng, n_users, n_items, share):
    return sp.csr_matrix((rng.random((n_users, n_items)) < share).astype(np.float32))


# Against an independent reference


def test_without_ties_every_user_has_the_figures_of_ir_measures():
    rng = np.random.default_rng(3)
    n_users, n_items = 40, 260
    table = np.stack([rng.permutation(n_items) for _ in range(n_users)]).astype(np.float32)
    known = random_pairs(rng, n_users, n_items, 0.1)
    test = random_pairs(rng, n_users, n_items, 0.08)
    test = sp.csr_matrix(test - test.multiply(known))
    test.eliminate_zeros()
    figures = evaluate_ranking(Table(table), known=known, test=test).figures

    qrels, run = {}, {}
    for user in np.flatnonzero(np.diff(test.indptr)):
        qrels[f"{user}"] = {f"{item}": 1 for item in test[user].indices}
        unseen = set(range(n_items)) - set(known[user].indices)
        run[f"{user}"] = {f"{item}": float(table[user, item]) for item in unseen}
    measures = {RR: "mrr"}
    for k in KS:
        measures |= {R @ k: f"recall@{k}", P @ k: f"precision@{k}", nDCG @ k: f"ndcg@{k}"}
        measures |= {AP @ k: f"map@{k}", Success @ k: f"hit@{k}"}
    seen = set()
    for found in ir_measures.iter_calc(list(measures), qrels, run):
        figure = figures[measures[found.measure]]
        place = np.searchsorted(figure.users, int(found.query_id))
        assert figure.sums[place, 0] == pytest.approx(found.value, abs=1e-9), found
        seen.add((measures[found.measure], found.query_id))
    assert len(seen) == len(measures) * len(qrels)


def slow_values(scores, known, targets, ks, top_ks):
    """All metrics of one user, straight from the definitions in docs/metrics.md."""
    scores = [x if np.isfinite(x) else -np.inf for x in scores]

    def rank(target, competitors):
        others = [i for i in competitors if i != target]
        better = sum(scores[i] > scores[target] for i in others)
        return 1 + better + sum(scores[i] == scores[target] for i in others) / 2

    items = range(len(scores))
    seen_ranks = [rank(t, items) for t in targets]
    open_items = [i for i in items if i not in known]
    ranks = sorted(rank(t, open_items) for t in targets if t not in known)
    found = {f"top@{k}/seen": sum(r <= k for r in seen_ranks) / len(targets) for k in top_ks}
    if not ranks:
        return found
    found |= {f"top@{k}": sum(r <= k for r in ranks) / len(ranks) for k in top_ks}
    found["mrr"] = 1 / ranks[0]
    for k in ks:
        listed = [r for r in ranks[:k] if r <= k]
        ideal = sum(1 / log2(1 + n) for n in range(1, min(k, len(ranks)) + 1))
        found[f"recall@{k}"] = len(listed) / len(ranks)
        found[f"precision@{k}"] = len(listed) / k
        found[f"ndcg@{k}"] = sum(1 / log2(1 + r) for r in listed) / ideal
        found[f"map@{k}"] = sum(n / r for n, r in enumerate(listed, start=1)) / len(ranks)
        found[f"hit@{k}"] = float(bool(listed))
    return found


@st.composite
def tied_users(draw):
    """One user's scores with many ties, what is known, and at least one target."""
    n_items = draw(st.integers(2, 30))
    value = st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, 1e-30, np.nan, np.inf, -np.inf])
    scores = draw(st.lists(value, min_size=n_items, max_size=n_items))
    item = st.integers(0, n_items - 1)
    return scores, draw(st.sets(item)), sorted(draw(st.sets(item, min_size=1)))


@given(tied_users())
def test_with_ties_and_broken_scores_every_figure_is_that_of_its_definition(user):
    scores, known, targets = user
    found = values(one_user(scores, targets=targets, known=known, ks=(1, 3, 40), top_ks=(2, 50)))
    wanted = slow_values(scores, known, targets, (1, 3, 40), (2, 50))
    assert {name: value for name, value in found.items() if not np.isnan(value)} == pytest.approx(
        wanted
    )


@pytest.mark.parametrize("n_targets", [1, 2, 60])
def test_few_and_many_targets_are_counted_alike(n_targets):
    # One target among 900 items is counted by comparing, sixty by sorting.
    rng = np.random.default_rng(n_targets)
    scores = rng.integers(0, 200, size=900).astype(np.float32)
    targets = rng.choice(900, n_targets, replace=False).tolist()
    known = set(rng.choice(900, 300, replace=False).tolist()) - {targets[0]}
    found = values(one_user(scores, targets=targets, known=known))
    assert found == pytest.approx(slow_values(scores, known, targets, KS, TOP_KS))


# By hand


def test_figures_worked_out_by_hand():
    # Ranks of the targets among the unseen: item 1 is first, item 4 third.
    found = values(
        one_user([9, 8, 7, 6, 5, 4], targets=[1, 4], known=[0, 3], ks=(2, 5), top_ks=(1, 3))
    )
    assert found["top@1"] == 1 / 2
    assert found["top@3"] == 1
    assert found["top@1/seen"] == 0
    assert found["top@3/seen"] == 1 / 2
    assert found["recall@2"] == 1 / 2
    assert found["precision@2"] == 1 / 2
    assert found["precision@5"] == 2 / 5
    assert found["ndcg@2"] == pytest.approx(1 / (1 + 1 / log2(3)))
    assert found["ndcg@5"] == pytest.approx((1 + 1 / 2) / (1 + 1 / log2(3)))
    assert found["map@2"] == 1 / 2
    assert found["map@5"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found["hit@2"] == found["mrr"] == 1


def test_a_tie_counts_as_its_average_rank():
    # Items 1, 2 and 3 share the ranks 2, 3 and 4.
    found = values(one_user([5, 3, 3, 3, 1], targets=[2], ks=(2, 3), top_ks=(2, 3)))
    assert (found["top@2"], found["top@3"]) == (0, 1)
    assert found["mrr"] == 1 / 3
    assert found["ndcg@3"] == 1 / log2(4)


def test_a_tie_with_a_known_item_only_counts_where_known_items_compete():
    found = values(one_user([3, 3, 1], targets=[0], known=[1], ks=(1,), top_ks=(1,)))
    assert (found["top@1"], found["top@1/seen"]) == (1, 0)


def test_targets_that_tie_beyond_the_list_do_not_lift_any_figure_above_one():
    # 19 targets tie for the ranks 1 to 19: each has rank 10, but a list of 10 holds 10 of them.
    found = values(one_user([1.0] * 19 + [0.0] * 5, targets=range(19), ks=(10, 20), top_ks=(10,)))
    assert found["precision@10"] == 1
    assert found["recall@10"] == 10 / 19
    assert found["recall@20"] == 1
    ideal = sum(1 / log2(1 + n) for n in range(1, 11))
    assert found["ndcg@10"] == pytest.approx(10 / log2(11) / ideal)
    assert max(found.values()) <= 1


@pytest.mark.parametrize("constant", [0.0, 1.0, -3e38, np.nan, np.inf, -np.inf])
def test_a_model_that_scores_everything_alike_puts_each_target_in_the_middle(constant):
    # 101 items, 10 of them known: the middle is rank 51 of all and 46 of the unseen.
    scores = np.full(101, constant)
    options = {"targets": [0, 40, 80], "known": range(91, 101), "ks": (45, 46)}
    found = values(one_user(scores, **options, top_ks=(45, 46, 50, 51)))
    assert (found["top@45"], found["top@46"]) == (0, 1)
    assert (found["top@50/seen"], found["top@51/seen"]) == (0, 1)
    assert found["mrr"] == pytest.approx(1 / 46)
    assert (found["recall@45"], found["recall@46"]) == (0, 1)


def test_top_k_is_pooled_over_targets_and_the_others_over_users():
    table = np.array([[5, 4, 3, 2, 1], [5, 4, 3, 2, 1]], dtype=np.float32)
    test = pairs(2, 5, (0, 0), (1, 1), (1, 2), (1, 3))
    found = evaluate_ranking(Table(table), known=pairs(2, 5), test=test, ks=(1, 2), top_ks=(1, 2))
    assert found.mean("top@2") == 2 / 4
    assert found.mean("hit@1") == 1 / 2
    assert found.mean("recall@2") == (1 + 1 / 3) / 2
    assert (found.n_users, found.n_targets) == (2, 4)


def test_users_without_a_target_are_not_asked_for():
    asked = []

    @dataclass(frozen=True)
    class Watched(Table):
        def scores(self, users):
            asked.extend(users.tolist())
            return super().scores(users)

    table = np.eye(4, dtype=np.float32)
    test = pairs(4, 4, (1, 1), (3, 0))
    found = evaluate_ranking(Watched(table), known=pairs(4, 4), test=test, ks=(1,), top_ks=(1,))
    assert asked == [1, 3]
    assert found.figures["hit@1"].users.tolist() == [1, 3]
    assert found.lists.users.tolist() == [1, 3]
    assert found.mean("hit@1") == 1 / 2


def test_a_target_that_is_known_already_is_only_asked_for_among_seen_items():
    table = np.array([[3, 2, 1], [3, 2, 1]], dtype=np.float32)
    known = pairs(2, 3, (0, 0), (1, 0), (1, 1))
    test = pairs(2, 3, (0, 0), (0, 2), (1, 1))
    found = evaluate_ranking(Table(table), known=known, test=test, ks=(1,), top_ks=(1, 2))
    assert found.n_known_targets == 2
    assert found.figures["hit@1"].users.tolist() == [0]
    assert found.mean("top@2") == 1
    assert found.mean("top@1") == 0
    assert found.mean("top@2/seen") == 2 / 3


def test_where_all_targets_are_known_the_other_figures_are_undefined():
    found = values(one_user([1, 2], targets=[0], known=[0]))
    assert found["top@1/seen"] == 0
    assert np.isnan(found["top@1"])
    assert np.isnan(found["ndcg@10"])


def test_broken_scores_are_counted_and_never_best():
    found = one_user([np.nan, 1, np.inf, 0, -np.inf], targets=[0, 1], ks=(1,), top_ks=(1, 3, 4))
    assert found.n_non_finite == 3
    assert found.mean("hit@1") == 1
    assert (found.mean("top@3"), found.mean("top@4")) == (1 / 2, 1)
    assert found.lists.items[0, :3].tolist() == [1, 3, -1]


def test_a_list_holds_the_best_unseen_items_in_order():
    found = one_user([4, 9, 1, 9, 7], targets=[0], known=[4], list_length=3)
    assert found.lists.items.tolist() == [[1, 3, 0]]


def test_a_cut_off_beyond_the_catalogue_finds_every_target():
    found = values(one_user([1, 2, 3], targets=[0], known=[1], ks=(100,), top_ks=(100,)))
    assert found["recall@100"] == found["top@100"] == found["top@100/seen"] == 1
    assert found["precision@100"] == 1 / 100
    assert found["ndcg@100"] == 1 / log2(3)


def test_one_item_and_one_user_are_enough():
    found = values(one_user([0.5], targets=[0]))
    assert found["top@1"] == found["ndcg@10"] == found["mrr"] == 1


# What must not matter


@st.composite
def problems(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n_users, n_items = draw(st.integers(1, 8)), draw(st.integers(2, 25))
    table = rng.integers(0, draw(st.sampled_from([2, 5, 1000])), size=(n_users, n_items))
    known = random_pairs(rng, n_users, n_items, 0.2)
    test = random_pairs(rng, n_users, n_items, 0.3).tolil()
    test[0, 0] = 1
    return rng, table.astype(np.float32), known, test.tocsr()


def same(a, b):
    assert a.figures.keys() == b.figures.keys()
    for name, figure in a.figures.items():
        np.testing.assert_array_equal(figure.users, b.figures[name].users)
        np.testing.assert_array_equal(figure.sums, b.figures[name].sums)


@given(problems())
def test_the_order_of_items_does_not_matter(problem):
    rng, table, known, test = problem
    order = rng.permutation(table.shape[1])
    moved = evaluate_ranking(Table(table[:, order]), known=known[:, order], test=test[:, order])
    same(evaluate_ranking(Table(table), known=known, test=test), moved)


@given(problems())
def test_the_order_of_users_does_not_matter(problem):
    rng, table, known, test = problem
    order = rng.permutation(len(table))
    moved = evaluate_ranking(Table(table[order]), known=known[order], test=test[order])
    for name, figure in evaluate_ranking(Table(table), known=known, test=test).figures.items():
        by_user = dict(zip(figure.users.tolist(), figure.sums.tolist(), strict=True))
        users = order[moved.figures[name].users].tolist()
        assert dict(zip(users, moved.figures[name].sums.tolist(), strict=True)) == by_user


@given(problems(), st.integers(1, 1000))
def test_the_size_of_a_block_does_not_matter(problem, chunk_bytes):
    _, table, known, test = problem
    whole = evaluate_ranking(Table(table), known=known, test=test)
    parts = evaluate_ranking(Table(table), known=known, test=test, chunk_bytes=chunk_bytes)
    same(whole, parts)
    np.testing.assert_array_equal(whole.lists.items, parts.lists.items)


def test_users_ranked_side_by_side_get_the_same_figures(monkeypatch):
    rng = np.random.default_rng(4)
    table = rng.integers(0, 50, (40, 300)).astype(np.float32)
    known, test = (sp.csr_matrix(rng.random((40, 300)) < share) for share in (0.1, 0.03))
    alone = evaluate_ranking(Table(table), known=known, test=test, chunk_bytes=9_000)
    monkeypatch.setattr(ranking_metrics, "_LONG_ROW", 1)
    together = evaluate_ranking(Table(table), known=known, test=test, chunk_bytes=9_000)
    same(alone, together)
    np.testing.assert_array_equal(alone.lists.items, together.lists.items)


@given(problems())
def test_only_the_order_of_the_scores_matters(problem):
    _, table, known, test = problem
    plain = evaluate_ranking(Table(table), known=known, test=test)
    for stretched in (table * 8 - 3, (table / 1000).astype(np.float64) ** 3, table.astype(int)):
        moved = evaluate_ranking(Table(stretched), known=known, test=test)
        same(plain, moved)
        np.testing.assert_array_equal(plain.lists.items, moved.lists.items)


def test_how_the_pairs_are_stored_does_not_matter():
    table = np.array([[3, 2, 1, 0]], dtype=np.float32)
    plain = evaluate_ranking(Table(table), known=pairs(1, 4, (0, 1)), test=pairs(1, 4, (0, 2)))
    # Unsorted, twice, a weight of 5, and a stored zero.
    twice = sp.csr_matrix((np.array([5.0, 1, 0]), np.array([2, 2, 0]), np.array([0, 3])), (1, 4))
    known = sp.csr_matrix((np.array([1.0, 0]), np.array([1, 0]), np.array([0, 2])), (1, 4))
    same(plain, evaluate_ranking(Table(table), known=known, test=twice))
    assert twice.nnz == 3


def test_scores_are_read_and_not_written():
    table = np.array([[3, np.nan, 1, 0]], dtype=np.float32)
    before = table.copy()
    table.setflags(write=False)
    evaluate_ranking(Table(table), known=pairs(1, 4, (0, 0)), test=pairs(1, 4, (0, 2)))
    np.testing.assert_array_equal(table, before)


# What is refused


def test_scores_of_the_wrong_shape_are_refused():
    model = Table(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match=r"returned shape \(1, 3\), not \(1, 4\)"):
        evaluate_ranking(model, known=pairs(1, 4), test=pairs(1, 4, (0, 0)))


def test_known_and_test_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"known is \(1, 5\), test is \(1, 4\)"):
        evaluate_ranking(Table(np.zeros((1, 4))), known=pairs(1, 5), test=pairs(1, 4, (0, 0)))


def test_an_empty_test_part_is_refused():
    with pytest.raises(DataError, match="nothing to predict"):
        evaluate_ranking(Table(np.zeros((1, 4))), known=pairs(1, 4), test=pairs(1, 4))


@pytest.mark.parametrize("option", [{"ks": (0,)}, {"top_ks": (-1,)}, {"list_length": 0}])
def test_a_cut_off_below_one_is_refused(option):
    with pytest.raises(ValueError, match="at least 1"):
        one_user([1, 2], targets=[0], **option)
