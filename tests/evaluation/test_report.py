"""The report as JSON, as a table of 80 columns, and as one plain sentence."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from candidfeed.evaluation.bootstrap import Estimate, mean_over_users, pooled
from candidfeed.evaluation.report import SeedRun, report_view, summarise, verdict

USERS = np.arange(200, dtype=np.int32)
NAMES = (
    "two-stage",
    "retrieval",
    "ranker",
    "popular",
    "popular-recent",
    "item-knn",
    "ease",
    "ials",
    "tfrs-retrieval",
)
METRICS = ("top@100", "top@100/seen", "recall@20", "ndcg@10", "ndcg@20", "mse", "mae")


def around(mean, seed=0, spread=0.1):
    """A figure whose users scatter around `mean`; the same seed gives the same scatter."""
    noise = np.random.default_rng(seed).normal(0, spread, len(USERS))
    return mean_over_users(USERS, mean + noise - noise.mean())


def run_of(figures, **changes):
    options = {
        "seed": 42,
        "test_rows_sha256": "ab12",
        "n_test_rows": 20_000,
        "n_test_users": 200,
        "figures": figures,
        "seconds": dict.fromkeys(figures, 1.5),
        "chosen": {"ease": {"reg": 300.0}},
    }
    return SeedRun(**(options | changes))


def report_of(*runs, protocol="random"):
    rng = np.random.default_rng(1)
    return summarise(runs, dataset="ml-100k", protocol=protocol, rng=rng, n_replicates=400)


def full_report(protocol="given"):
    # The widest figures: three digits before the point for a log of ratings up to 100.
    figures = {
        name: {m: around(250.0 if m in ("mse", "mae") else 0.4 + i / 50) for m in METRICS}
        for i, name in enumerate(NAMES)
    }
    seconds = {name: 1234.5 for name in NAMES}
    return report_of(run_of(figures, seconds=seconds), protocol=protocol)


def drawn(report):
    console = Console(width=80, file=io.StringIO(), markup=False)
    console.print(report_view(report))
    return console.file.getvalue()


def number_row(text, model):
    return next(line for line in text.splitlines() if line.startswith(f"{model} ")).split()


# JSON


def test_the_json_has_the_agreed_keys_and_values():
    report = report_of(run_of({"ease": {"ndcg@10": around(0.4)}, "ials": {"mse": around(0.9)}}))
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["dataset"] == "ml-100k"
    assert content["protocol"] == "random"
    assert content["seed"] == 42
    assert content["test_rows_sha256"] == "ab12"
    assert content["seconds"] == {"ease": 1.5, "ials": 1.5}
    assert content["models"].keys() == {"ease", "ials"}
    assert content["models"]["ease"].keys() == {"ndcg@10"}
    assert content["models"]["ease"]["ndcg@10"].keys() == {"mean", "low", "high"}
    assert content["models"]["ease"]["ndcg@10"]["mean"] == pytest.approx(0.4)
    assert (content["n_test_rows"], content["n_test_users"]) == (20_000, 200)
    assert content["chosen"] == {"ease": {"reg": 300.0}}
    assert content["paired"] == {}
    assert "by_seed" not in content


def test_what_is_not_defined_is_absent_from_the_json():
    broken = mean_over_users(USERS, np.full(len(USERS), np.nan))
    report = report_of(
        run_of({"two-stage": {"ndcg@10": broken}, "ease": {"ndcg@10": around(0.4), "auc": broken}})
    )
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["models"]["two-stage"] == {}
    assert content["models"]["ease"].keys() == {"ndcg@10"}
    assert content["paired"] == {}
    assert verdict(report) == ""
    assert number_row(drawn(report), "two-stage") == ["two-stage", "-", "1.5"]


def test_paired_differences_are_those_of_the_deep_model_less_the_other():
    a, b = around(0.45, seed=1), around(0.40, seed=2)
    content = report_of(run_of({"two-stage": {"ndcg@10": a}, "ease": {"ndcg@10": b}})).to_json()
    found = content["paired"]["two-stage"]["ndcg@10"]["ease"]
    assert found["mean"] == pytest.approx(0.05)
    half = 1.96 * (a.sums[:, 0] - b.sums[:, 0]).std() / np.sqrt(len(USERS))
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.15)


def test_seeds_are_averaged_and_each_is_kept_beside():
    runs = [
        run_of({"ease": {"ndcg@10": around(0.3)}}, seconds={"ease": 1.0}),
        run_of({"ease": {"ndcg@10": around(0.5)}}, seconds={"ease": 3.0}, seed=43),
    ]
    content = json.loads(json.dumps(report_of(*runs).to_json(), allow_nan=False))
    assert content["seed"] == 42
    assert content["models"]["ease"]["ndcg@10"]["mean"] == pytest.approx(0.4)
    assert content["seconds"] == {"ease": 2.0}
    by_seed = [(run["seed"], run["models"]["ease"]["ndcg@10"]) for run in content["by_seed"]]
    assert by_seed == [(42, pytest.approx(0.3)), (43, pytest.approx(0.5))]


def test_seeds_with_other_users_are_put_together():
    some = mean_over_users(USERS[:50], np.full(50, 0.2))
    others = mean_over_users(USERS[50:], np.full(150, 0.6))
    report = report_of(
        run_of({"ease": {"ndcg@10": some}}), run_of({"ease": {"ndcg@10": others}}, seed=43)
    )
    found = report.models["ease"]["ndcg@10"]
    assert (found.mean, found.low, found.high) == pytest.approx((0.4, 0.4, 0.4))


def test_the_same_seed_gives_the_same_report():
    run = run_of({name: {"ndcg@10": around(0.4, seed=i)} for i, name in enumerate(NAMES)})
    assert report_of(run).to_json() == report_of(run).to_json()


def test_runs_of_different_models_are_refused():
    first, second = run_of({"ease": {}}), run_of({"ials": {}})
    with pytest.raises(ValueError, match="each seed must have the models"):
        report_of(first, second)
    with pytest.raises(ValueError, match="no run"):
        report_of()


# The sentence


def sentence(deep, *, metric="ndcg@10", model="two-stage", **baselines):
    figures = {model: {metric: deep}}
    figures |= {name.replace("_", "-"): {metric: figure} for name, figure in baselines.items()}
    return verdict(report_of(run_of(figures)))


def test_a_loss_is_said_plainly():
    deep = mean_over_users(USERS, around(0.4).sums[:, 0] - 0.012)
    assert sentence(deep, ease=around(0.4), popular=around(0.2)) == (
        "two-stage loses to ease on ndcg@10 by 0.012 [0.012, 0.012]"
    )


def test_a_win_and_a_tie_are_told_apart():
    assert sentence(around(0.5, seed=1), ease=around(0.4, seed=2)).startswith(
        "two-stage beats ease on ndcg@10 by 0.100 [0.0"
    )
    tie = sentence(around(0.401, seed=1), ease=around(0.4, seed=2))
    assert tie.startswith("two-stage ties with ease on ndcg@10, ahead by 0.001 [-0.0")
    tie = sentence(around(0.399, seed=1), ease=around(0.4, seed=2))
    assert tie.startswith("two-stage ties with ease on ndcg@10, behind by 0.001 [-0.0")


def test_the_interval_of_a_loss_runs_from_low_to_high():
    text = sentence(around(0.40, seed=1), ease=around(0.45, seed=2))
    low, high = text.split("[")[1].rstrip("]").split(", ")
    assert text.startswith("two-stage loses to ease on ndcg@10 by 0.050 ")
    assert 0 < float(low) < 0.05 < float(high)


def test_the_best_baseline_is_the_one_compared_with():
    text = sentence(around(0.5), popular=around(0.2), ials=around(0.45), item_knn=around(0.3))
    assert text.startswith("two-stage beats ials on ndcg@10 by 0.050 ")


def test_a_deep_model_is_no_baseline():
    figures = {name: {"ndcg@10": around(0.4)} for name in ("two-stage", "retrieval", "ranker")}
    report = report_of(run_of(figures))
    assert verdict(report) == ""
    assert report.paired["two-stage"]["ndcg@10"].keys() == {"retrieval", "ranker"}


def test_a_lower_error_is_a_win():
    worse = sentence(around(0.9), metric="mse", model="ranker", biases=around(0.8))
    assert worse.startswith("ranker loses to biases on mse by 0.100 ")
    better = sentence(
        around(0.7), metric="mse", model="ranker", biases=around(0.8), mean=around(1.1)
    )
    assert better.startswith("ranker beats biases on mse by 0.100 ")


def test_each_deep_model_is_judged_by_its_own_job():
    figures = {
        "two-stage": {"ndcg@10": around(0.5), "top@100": around(0.1)},
        "retrieval": {"ndcg@10": around(0.1), "top@100": around(0.6)},
        "ease": {"ndcg@10": around(0.4), "top@100": around(0.7)},
    }
    assert verdict(report_of(run_of(figures))) == (
        "two-stage beats ease on ndcg@10 by 0.100 [0.100, 0.100]; "
        "retrieval loses to ease on top@100 by 0.100 [0.100, 0.100]"
    )


def test_a_small_difference_is_not_rounded_to_nothing():
    deep = mean_over_users(USERS, around(0.4).sums[:, 0] + 0.0002)
    text = sentence(deep, ease=around(0.4))
    assert text == "two-stage beats ease on ndcg@10 by 0.0002 [0.0002, 0.0002]"


def test_equal_models_tie_by_nothing():
    deep = mean_over_users(USERS, around(0.4).sums[:, 0] + 1e-16)
    assert sentence(deep, ease=around(0.4)) == (
        "two-stage ties with ease on ndcg@10, ahead by 0.000 [0.000, 0.000]"
    )


@pytest.mark.parametrize(
    ("n", "said"), [(1, "one test user is too few"), (9, "9 test users are too few")]
)
def test_fewer_than_ten_users_are_too_few_to_judge_by(n, said):
    some = USERS[:n]
    figures = {
        "two-stage": {"ndcg@10": mean_over_users(some, np.ones(n))},
        "ease": {"ndcg@10": mean_over_users(some, np.zeros(n))},
    }
    report = report_of(run_of(figures, n_test_users=n))
    assert report.models["two-stage"]["ndcg@10"] == Estimate(1.0, 1.0, 1.0)
    assert verdict(report) == f"{said} to say which model is better (at least 10)"


def test_a_difference_that_is_one_of_many_has_to_be_clearer_to_count():
    rng = np.random.default_rng(4)
    own, noise = rng.normal(0.4, 0.1, len(USERS)), rng.normal(0, 0.1, len(USERS))
    # Two and a half standard errors.
    deep = mean_over_users(USERS, own + noise - noise.mean() + 2.5 * noise.std() / 200**0.5)
    base = mean_over_users(USERS, own)
    assert sentence(deep, ease=base).startswith("two-stage beats ease")
    figures = {"two-stage": {"ndcg@10": deep}, "ease": {"ndcg@10": base}}
    figures |= {f"the same {n}": {"ndcg@10": deep} for n in range(8)}
    report = report_of(run_of(figures))
    found = report.paired["two-stage"]["ndcg@10"]["ease"]
    assert found.low > 0
    assert found.p_holm == pytest.approx(9 * found.p)
    assert not found.is_significant


# The table


@pytest.mark.parametrize("protocol", ["random", "given"])
def test_the_widest_table_fits_80_columns_uncut(protocol):
    text = drawn(full_report(protocol))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    for name in NAMES:
        n_columns = 9 if protocol == "random" else 10
        assert len(number_row(text, name)) == n_columns


def test_the_best_of_each_column_is_marked():
    figures = {
        "ease": {"ndcg@10": around(0.41), "mse": around(0.8)},
        "ials": {"ndcg@10": around(0.38), "mse": around(0.7)},
        "popular": {"ndcg@10": around(0.2), "mse": around(0.7)},
    }
    text = drawn(report_of(run_of(figures)))
    assert number_row(text, "ease")[1] == "0.410*"
    assert number_row(text, "ease")[-2:] == ["0.800", "1.5"]
    assert number_row(text, "ials")[-2:] == ["0.700*", "1.5"]
    assert number_row(text, "popular")[-2:] == ["0.700*", "1.5"]


def test_the_interval_stands_beside_the_headline_metric():
    report = report_of(run_of({"ease": {"ndcg@10": around(0.41), "recall@20": around(0.3)}}))
    found = report.models["ease"]["ndcg@10"]
    assert number_row(drawn(report), "ease") == [
        "ease",
        "0.300",
        "0.410",
        f"{found.low:.3f}-{found.high:.3f}".replace("0.", "."),
        "1.5",
    ]


def test_where_only_ratings_are_predicted_the_squared_error_leads():
    report = report_of(run_of({"keras-dot": {"mse": around(0.9), "mae": around(0.7)}}))
    assert len(number_row(drawn(report), "keras-dot")) == 5
    assert number_row(drawn(report), "keras-dot")[2].startswith(".8")


@pytest.mark.parametrize(
    ("mse", "shown"), [(9.5, "9.500"), (250, "250.0"), (12_345, "12345"), (2.4e24, "2e+24")]
)
def test_an_error_of_any_size_takes_five_characters(mse, shown):
    figures = {name: {"ndcg@10": around(0.4), "mse": around(mse)} for name in ("ease", "ials")}
    assert number_row(drawn(report_of(run_of(figures))), "ease")[-2] == f"{shown}*"


def test_one_row_and_one_user_are_told_in_the_singular():
    run = run_of({"ease": {"ndcg@10": around(0.4)}}, n_test_rows=1, n_test_users=1)
    assert "1 test row of 1 user." in drawn(report_of(run))


def test_broken_scores_and_known_targets_are_told():
    run = run_of(
        {"ease": {"ndcg@10": around(0.4)}},
        n_non_finite={"ease": 1200, "ials": 0},
        n_known_targets=7,
    )
    text = drawn(report_of(run))
    assert "ease: 1,200 scores were NaN or infinite; they were ranked last" in text
    assert "ials" not in text
    assert "7 test pairs were known before" in " ".join(text.split())


def test_baselines_that_were_not_tuned_are_told_and_are_in_the_json():
    figures = {"ease": {"ndcg@10": around(0.4)}}
    report = report_of(run_of(figures, untuned=("item-knn", "ials")))
    told = "item-knn, ials: settings not tuned, the log is too large"
    assert told in " ".join(drawn(report).split())
    assert report.to_json()["untuned"] == ["item-knn", "ials"]
    assert "not tuned" not in drawn(report_of(run_of(figures)))


def test_names_are_shown_as_they_are():
    run = run_of({"[bold]": {"ndcg@10": around(0.4)}})
    rng = np.random.default_rng(0)
    text = drawn(summarise([run], dataset="[red]", protocol="random", rng=rng, n_replicates=10))
    assert "[red], protocol random, seed 42" in text
    assert "[bold]" in text


def test_several_seeds_are_named_in_the_title():
    runs = [run_of({"ease": {"ndcg@10": around(0.4)}}, seed=seed) for seed in (42, 43, 44)]
    assert "mean of 3 seeds" in drawn(report_of(*runs))


def test_an_evaluation_of_pooled_figures_is_reported_too():
    over, under = np.full(len(USERS), 3.0), np.full(len(USERS), 4.0)
    report = report_of(run_of({"ease": {"top@100": pooled(USERS, over, under)}}))
    assert report.models["ease"]["top@100"] == Estimate(0.75, 0.75, 0.75)
    assert number_row(drawn(report), "ease") == ["ease", "0.750", "1.5"]


def test_the_legend_says_of_how_many_users_those_who_were_asked_for_were_drawn() -> None:
    figures = {"ease": {"ndcg@10": around(0.4)}}
    all_asked = drawn(report_of(run_of(figures, n_test_users=200, n_users_to_ask=200)))
    some = drawn(report_of(run_of(figures, n_test_users=200, n_users_to_ask=5_000)))
    assert "of 200 users. * the best" in " ".join(all_asked.split())
    assert "of 200 users, drawn of 5,000. * the best" in " ".join(some.split())
