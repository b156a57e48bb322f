"""Fit the ranker: on the candidates that retrieval proposes, and on the ratings that are known."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.ranking.action_training import Actions
from candidfeed.ranking.actions import ActionHeads
from candidfeed.ranking.engagement import HeadTraining
from candidfeed.ranking.feature_choice import choose_features, reads
from candidfeed.ranking.inputs import DENSE_FEATURES, RankerSpace, ranker_inputs
from candidfeed.ranking.posterior_training import pays, posterior_of
from candidfeed.ranking.ranker import EngagedHead, Ranker
from candidfeed.ranking.settings import RankerSettings
from candidfeed.ranking.taste_training import RankerBatches, fit_trunk
from candidfeed.ranking.user_state import UserStates

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class CandidateLists:
    """Candidates of users with what happened next: what engagement is learned from.

    Attributes:
        user: row of the user, int32 [n].
        items: int32 [n, c], padded with n_items.
        dense: float32 [n, c, f], as it was when the user was asked for.
        engaged: float32 [n, c]; 1, 0, or -1 where padded.
    """

    user: NDArray[np.int32]
    items: NDArray[np.int32]
    dense: Floats
    engaged: Floats

    def __len__(self) -> int:
        return len(self.items)

    def take(self, places: NDArray[np.integer] | slice) -> "CandidateLists":
        """The lists at these places."""
        return CandidateLists(
            self.user[places], self.items[places], self.dense[places], self.engaged[places]
        )

    def first(self, n: int) -> "CandidateLists":
        """The first n candidates of each list, of the lists that have a hit among them."""
        found = (self.engaged[:, :n] > 0).any(axis=1)
        return CandidateLists(
            self.user[found],
            self.items[found, :n],
            self.dense[found, :n],
            self.engaged[found, :n],
        )

    def joined(self, later: "CandidateLists") -> "CandidateLists":
        """Both, one after the other; both come from one set of users and items."""
        return CandidateLists(
            np.concatenate([self.user, later.user]),
            np.concatenate([self.items, later.items]),
            np.concatenate([self.dense, later.dense]),
            np.concatenate([self.engaged, later.engaged]),
        )


@dataclass(frozen=True)
class FittedRanker:
    """A trained ranker, what it was trained with, and Keras' curves of both trainings."""

    model: Ranker
    space: RankerSpace
    settings: RankerSettings
    curves: dict[str, list[float]]
    engagement_curves: dict[str, list[float]]
    actions: Actions | None = None

    @property
    def rates_by(self) -> str:
        """What its rating distributions come from."""
        if self.model.trunk is None:
            return "nothing: the log has no ratings"
        if self.model.posterior is None:
            return "ordinal taste trunk"
        n_draws = self.model.posterior.sizes["n_draws"]
        return f"Bayesian ordinal factorisation (Gibbs, {n_draws} draws) mixed with the taste trunk"


def fit_ranker(
    space: RankerSpace,
    *,
    n_users: int,
    n_user_ids: int,
    rated: Interactions | None,
    states: UserStates,
    lists: CandidateLists | None,
    settings: RankerSettings,
    seed: int,
    log_more_hits: float = 0.0,
    actions: Actions | None = None,
    head_of: FittedRanker | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> FittedRanker:
    """Train both heads, one after the other: they share no weight.

    Args:
        rated: events with a rating; None where the log has none.
        states: of all users, as the rated rows' users are known.
        lists: candidates with feedback; None or none at all trains the rating head alone.
        log_more_hits: log of how many more hits than one of these a list will hold when asked.
        actions: heads that are trained already.
        head_of: whose engagement head has learned from these very lists already.
        callbacks: of the training on rated rows.

    Where there is neither, both heads stay as they begin: every candidate is equal.
    """
    keras.utils.set_random_seed(seed)
    sizes = {
        "n_users": n_users,
        "n_items": space.n_items,
        "n_user_ids": n_user_ids,
        "n_item_ids": space.n_item_ids,
        "n_times": len(space.time_edges) + 1,
    }
    n_draws = settings.n_draws if pays(rated) else 0
    # Beside draws half of the trunk's members and three quarters of its epochs do as well:
    # validation MSE .7903 against .7897 (`keras-notebook`), in two thirds of the time.
    beside_draws = replace(
        settings, members=-(-settings.members // 2), n_epochs=-(-settings.n_epochs * 3 // 4)
    )
    model = Ranker(
        sizes=sizes,
        level_shares=[float(share) for share in space.scale.shares],
        rates=space.scale.like_at is not None,
        dim=settings.dim,
        members=(beside_draws if n_draws else settings).members,
        l2=settings.l2,
        n_draws=n_draws,
        draw_dim=settings.draw_dim,
        actions=None if actions is None else actions.heads.get_config(),
    )
    whole = space if actions is None else replace(space, actions=actions.space)
    model.build(_input_shapes(whole, states, settings))
    if model.actions is not None and actions is not None:
        _copy(actions.heads, model.actions)
    if model.trunk is not None:
        model.trunk.set_items(space.item_bag)
    curves, engagement_curves = {}, {}
    # The head first: every step of the trunk's moves the state of what dropout draws.
    if head_of is not None:
        _copy(head_of.model.engaged, model.engaged)
        engagement_curves = head_of.engagement_curves
    elif lists:
        training = head_training(model.engaged, lists, settings)
        engagement_curves = training.fit(
            lists.dense, lists.engaged, reads=reads(settings.features),
            n_epochs=settings.n_epochs, seed=seed,
        )  # fmt: skip
        model.engaged.raise_logits(log_more_hits)
    if model.trunk is not None and rated is not None and len(rated):
        batches = RankerBatches(space, rated=rated, states=states, settings=settings, seed=seed)
        # The draws need no Keras: they are made while the trunk is compiled and trained.
        with ThreadPoolExecutor(1) as beside:
            drawn = None
            if model.posterior is not None:
                drawn = beside.submit(
                    posterior_of, space, rated, states,
                    n_user_ids=n_user_ids, n_draws=n_draws, dim=settings.draw_dim, seed=seed,
                )  # fmt: skip
            curves = fit_trunk(model, batches, beside_draws if n_draws else settings, callbacks)
        if model.posterior is not None and drawn is not None:
            drawn.result().fill(model.posterior)
    return FittedRanker(model, whole, settings, curves, engagement_curves, actions)


def _copy(trained: EngagedHead | ActionHeads, head: EngagedHead | ActionHeads) -> None:
    """Give a head what another has learned, the scale of its features too."""
    head.set_weights(trained.get_weights())
    # Keras' normalisation holds what it divides by beside its weights.
    head.scale.finalize_state()


def head_training(
    head: EngagedHead, lists: CandidateLists, settings: RankerSettings
) -> HeadTraining:
    return HeadTraining(
        head,
        lists.dense,
        lists.engaged,
        lists_per_batch=settings.lists_per_batch,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )


def _input_shapes(
    space: RankerSpace, states: UserStates, settings: RankerSettings
) -> dict[str, tuple[int, ...]]:
    state = states.take(np.zeros(settings.lists_per_batch, np.int32))
    items = np.zeros((settings.lists_per_batch, settings.list_length), np.int32)
    dense = np.zeros((*items.shape, len(DENSE_FEATURES)), np.float32)
    return {name: each.shape for name, each in ranker_inputs(space, state, items, dense).items()}


def with_chosen_features(
    lists: CandidateLists,
    settings: RankerSettings,
    *,
    asked: CandidateLists,
    least_gain_se: float,
    seed: int,
) -> tuple[RankerSettings, Floats | None]:
    """The settings with the features that order a held-out third of the users' lists best.

    Args:
        asked: lists that heads are asked about that learned none of their users'.
        least_gain_se: by how many standard errors a richer set must be better.

    Returns:
        Also what they say, `FeatureChoice.said`.
    """
    choice = choose_features(
        lambda head: head_training(head, lists, settings),
        lists.dense,
        lists.engaged,
        lists.user,
        asked=asked.dense,
        asked_user=asked.user,
        n_epochs=settings.n_epochs,
        least_gain_se=least_gain_se,
        seed=seed,
    )
    return replace(settings, features=choice.name), choice.said
