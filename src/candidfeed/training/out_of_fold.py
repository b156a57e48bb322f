"""Lists that the ranker learns from: of rows left out at random, or of several cuts in time."""

import math
from itertools import islice

from candidfeed.data.splits import Split, fold_splits, rolling_splits
from candidfeed.ranking.training import CandidateLists
from candidfeed.training.candidates import MAX_LISTS, Quotas, Sources, candidate_lists
from candidfeed.training.neighbour_choice import Neighbour, fitted_again
from candidfeed.training.side_features import SideFeatures
from candidfeed.training.stage_one import Chosen, StageOneSettings, fit_stage_one

# Rows are left out a tenth at a time: which source is how good depends on how dense the log is, and
# with a fifth left out what is learned of that does not hold for the whole (docs/log.md).
N_FOLDS = 10
_MAX_FOLDS_ASKED = 5
# What decides over the head of a list stands among its first candidates; the rest costs time.
_MAX_LEARNED = 200
# Lists of what comes later are of another time than those that will be asked for; lists of rows
# that were left out at random are like them: what ranks those best is taken.
_LEAST_GAIN_SE, _LEAST_GAIN_SE_OF_FOLDS = 2.0, 0.0
# Protocols whose test rows are drawn at random; others are asked about what comes later.
_AT_RANDOM = frozenset({"random", "keras-notebook", "microsoft", "recbole"})
# Where rows are split by time: shares of train that further cuts begin at, each as long as the
# inner one, which begins at .8.
_ROLLING_STARTS = (0.4, 0.6)
# Of few events what stage one says at an earlier cut is of another scale.
_LEAST_ROLLING_EVENTS = 10_000


def may_fold(split: Split, stage_one: StageOneSettings) -> bool:
    """Whether what is left out at random is like what is asked for, and fits are quick."""
    return split.protocol in _AT_RANDOM and not stage_one.is_large


def least_gain_se(split: Split, stage_one: StageOneSettings) -> float:
    """By how many standard errors more features must rank held-out lists better, to be read."""
    return _LEAST_GAIN_SE_OF_FOLDS if may_fold(split, stage_one) else _LEAST_GAIN_SE


def may_roll(split: Split, stage_one: StageOneSettings) -> bool:
    """Whether earlier cuts in time are like the last, and fits are quick."""
    is_enough = len(split.train) >= _LEAST_ROLLING_EVENTS
    return split.protocol == "temporal" and is_enough and not stage_one.is_large


def lists_to_learn(
    split: Split,
    features: SideFeatures,
    chosen: Chosen,
    like_at: float | None,
    quotas: Quotas,
    *,
    neighbour: Neighbour | None,
    inner_lists: CandidateLists,
    seed: int,
) -> CandidateLists:
    """What the engagement head learns from, as the protocol allows.

    Args:
        neighbour: the kind of model, fitted anew on each cut.
        inner_lists: of the inner cut, which the head learns from where there is nothing better.
    """
    if may_fold(split, chosen.settings):
        return out_of_fold_lists(
            split, features, chosen, like_at, quotas, neighbour=neighbour, seed=seed
        )
    if not may_roll(split, chosen.settings):
        return inner_lists
    joined = inner_lists.first(_MAX_LEARNED)
    for cut in rolling_splits(split, starts=_ROLLING_STARTS):
        fitted = fit_stage_one(cut.train, features, settings=chosen.settings, seed=seed)
        sources = Sources.of(fitted.scorer(cut.known), fitted_again(neighbour, cut), cut)
        lists = candidate_lists(cut, sources, features, like_at, quotas, seed=seed)
        joined = joined.joined(lists.first(_MAX_LEARNED))
    return joined


def out_of_fold_lists(
    split: Split,
    features: SideFeatures,
    chosen: Chosen,
    like_at: float | None,
    quotas: Quotas,
    *,
    neighbour: Neighbour | None,
    seed: int,
) -> CandidateLists:
    """What sources that are fitted on nine tenths of train propose, labelled by the last tenth.

    As many tenths are asked about as it takes for MAX_LISTS lists, and no more than five. Of a
    list's candidates, at most _MAX_LEARNED, each source brings its share by the quotas.
    """
    share = min(1.0, _MAX_LEARNED / max(1, sum(quotas.values())))
    quotas = {name: round(share * n) for name, n in quotas.items()}
    n_asked = min(_MAX_FOLDS_ASKED, math.ceil(MAX_LISTS / max(1, len(split.users))))
    parts = []
    for fold in islice(fold_splits(split, n_folds=N_FOLDS, seed=seed), n_asked):
        fitted = fit_stage_one(fold.train, features, settings=chosen.settings, seed=seed)
        sources = Sources.of(fitted.scorer(fold.known), fitted_again(neighbour, fold), fold)
        parts.append(candidate_lists(fold, sources, features, like_at, quotas, seed=seed))
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.joined(part)
    return joined


def log_more_hits(asked: CandidateLists, learned: CandidateLists) -> float:
    """Log of how many more hits a list of `asked` holds than one of `learned`; 0 without hits.

    Of both as many candidates are looked at as the shorter lists have, best of stage one first.
    """
    if not len(asked) or not len(learned):
        return 0.0
    width = min(asked.engaged.shape[1], learned.engaged.shape[1])
    hits = [(lists.engaged[:, :width] > 0).sum() / len(lists) for lists in (asked, learned)]
    return float(math.log(hits[0] / hits[1])) if all(hits) else 0.0
