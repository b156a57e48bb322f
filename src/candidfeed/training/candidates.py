"""Candidates for training and measuring the second stage: from the same sources as in serving."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split
from candidfeed.ranking.inputs import RankerSpace, dense_features
from candidfeed.ranking.training import CandidateLists
from candidfeed.ranking.user_state import UserState, UserStates
from candidfeed.retrieval.merge import NEIGHBOURS, SOURCES, TOWER, TRENDING, merge_by_quota
from candidfeed.retrieval.popularity import Popular, PopularRecent
from candidfeed.retrieval.top_k import best_columns
from candidfeed.retrieval.validation import Asked
from candidfeed.training.neighbour_choice import Neighbour
from candidfeed.training.side_features import SideFeatures

# Shares of the candidates that each source may bring; the first that finds most is taken.
_MIXES = ((1.0, 0.0, 0.0), (0.9, 0.1, 0.0), (0.8, 0.15, 0.05), (0.6, 0.3, 0.1))
# Of the time from the first event of train to its last, the part in which trends are counted.
_TREND_SHARE = 0.1
# More lists teach the ranker next to nothing and cost memory, one holds 26 kB, and a score of every
# item each.
MAX_LISTS = 10_000
_MAX_LIST_SCORES = 4_000_000_000
_MAX_CHOOSING_USERS = 1_000
_SCORES_AT_ONCE = 2**26
_USERS_OF_SLICE = 32

Floats = NDArray[np.float32]
Rows = NDArray[np.int32]
Quotas = Mapping[str, int]


class UserScorer(Protocol):
    """Stage one for users by row."""

    def scores(self, users: NDArray[np.int32]) -> Floats:
        """float32 [len(users), n_items]."""
        ...


@dataclass(frozen=True)
class Candidates:
    """What the sources propose to a batch of users, best of stage one first.

    Attributes:
        items: int32 [b, c], padded with n_items.
        source: place in SOURCES, int8 [b, c]; -1 where padded.
        tower, neighbour: scores of stage one and of the neighbour model, float32 [b, c]; without
            meaning where padded.
        tower_rows: stage one's scores of all items, float32 [b, n_items].
    """

    items: Rows
    source: NDArray[np.int8]
    tower: Floats
    neighbour: Floats
    tower_rows: Floats


@dataclass(frozen=True)
class Sources:
    """Fitted retrieval with what it knows of the users.

    Attributes:
        neighbour: None where the catalogue is too large for one.
        trending: all items, those first that most people touched lately; int32 [n_items].
        known: what each user has touched, which is never proposed.
    """

    tower: UserScorer
    neighbour: Neighbour | None
    trending: Rows
    known: sp.csr_matrix

    @staticmethod
    def of(tower: UserScorer, neighbour: Neighbour | None, split: Split) -> "Sources":
        return Sources(tower, neighbour, trending_of(split.train), split.known.matrix)

    def scores(self, users: NDArray[np.int32]) -> tuple[Floats, Floats]:
        """Tower and neighbour scores, float32 [len(users), n_items] both; 0 without neighbours."""
        tower = self.tower.scores(users)
        if self.neighbour is None:
            return tower, np.broadcast_to(np.float32(0), tower.shape)
        return tower, self.neighbour.scores(users)

    def propose(self, users: NDArray[np.int32], quotas: Quotas) -> Candidates:
        """As many items as the quotas sum up to, none that its user has touched."""
        (found,) = self.propose_each(users, [quotas])
        return found

    def propose_each(
        self, users: NDArray[np.int32], each_quotas: Sequence[Quotas]
    ) -> Iterator[Candidates]:
        """What `propose` gives by each of these quotas, which all have one sum."""
        tower, neighbour = self.scores(users)
        n = min(sum(each_quotas[0].values()), self.n_items)
        proposed = list(self._proposed(users, tower, neighbour, n))
        at = np.arange(len(users))[:, None]
        for quotas in each_quotas:
            items = np.full((len(users), n), self.n_items, np.int32)
            source = np.full(items.shape, -1, np.int8)
            limits = [quotas[name] for name in SOURCES]
            for place, of_user in enumerate(proposed):
                merged = merge_by_quota(of_user, limits)
                order = np.argsort(-tower[place, merged.rows], kind="stable")[:n]
                items[place, : len(order)] = merged.rows[order]
                source[place, : len(order)] = merged.source[order]
            item = np.minimum(items, self.n_items - 1)
            yield Candidates(items, source, tower[at, item], neighbour[at, item], tower)

    def everything(self, users: NDArray[np.int32]) -> Candidates:
        """All items in the order of their rows, what the users have touched too."""
        tower, neighbour = self.scores(users)
        items = np.tile(np.arange(self.n_items, dtype=np.int32), (len(users), 1))
        source = np.zeros(items.shape, np.int8)
        return Candidates(items, source, tower, neighbour, tower)

    def _proposed(
        self, users: NDArray[np.int32], tower: Floats, neighbour: Floats, n: int
    ) -> Iterator[tuple[Rows, Rows, Rows]]:
        """Of each user the n best of every source."""
        by_tower = best_unseen(tower, self.known, users, n)
        nothing = np.empty(0, np.int32)
        by_neighbour = (
            best_unseen(neighbour, self.known, users, n) if self.neighbour is not None else None
        )
        for place, user in enumerate(users):
            touched = self.known.indices[self.known.indptr[user] : self.known.indptr[user + 1]]
            lately = self.trending[: n + len(touched)]
            yield (
                _real(by_tower[place], self.n_items),
                nothing if by_neighbour is None else _real(by_neighbour[place], self.n_items),
                lately[~np.isin(lately, touched)],
            )

    @cached_property
    def n_items(self) -> int:
        return len(self.trending)

    @property
    def users_at_once(self) -> int:
        """Users whose scores of all items are held at once."""
        n = max(1, min(256, _SCORES_AT_ONCE // self.n_items))
        # The scorers fill slices of so many: part of one costs as much as the whole.
        return max(1, n // _USERS_OF_SLICE) * _USERS_OF_SLICE if n > _USERS_OF_SLICE // 2 else n


def trending_of(train: Interactions) -> Rows:
    """All items, those first that most people touched lately; ever, where the log has no times."""
    timed = len(train) > 0 and not np.isnan(train.time_s).any()
    model = PopularRecent.fit(train, window_share=_TREND_SHARE) if timed else Popular.fit(train)
    return np.argsort(-model.item_scores, kind="stable").astype(np.int32)


def all_from_tower(n: int) -> dict[str, int]:
    return {TOWER: n, NEIGHBOURS: 0, TRENDING: 0}


def choose_quotas(sources: Sources, asked: Asked, n: int) -> dict[str, int]:
    """The quotas with which n candidates hold most of what users did next; the tower's in a tie."""
    n = min(n, sources.n_items)
    n_users = min(_MAX_CHOOSING_USERS, max(1, _MAX_LIST_SCORES // sources.n_items // len(_MIXES)))
    users = asked.users[:n_users]
    if n == sources.n_items:
        return all_from_tower(n)
    each_quotas = [_quotas(mix, n, sources.neighbour is None) for mix in _MIXES]
    found = np.zeros(len(each_quotas), np.int64)
    for part in _parts(users, sources.users_at_once):
        for place, candidates in enumerate(sources.propose_each(part, each_quotas)):
            found[place] += touched_by(asked.target.matrix, part, candidates.items).sum()
    return each_quotas[int(found.argmax())]


def _quotas(mix: tuple[float, ...], n: int, is_without_neighbours: bool) -> dict[str, int]:
    tower, neighbours, trending = mix
    if is_without_neighbours:
        tower, neighbours = tower + neighbours, 0.0
    shares = zip(SOURCES, (tower, neighbours, trending), strict=True)
    quotas = {name: round(share * n) for name, share in shares}
    quotas[TOWER] += n - sum(quotas.values())
    return quotas


def candidate_lists(
    split: Split,
    sources: Sources,
    features: SideFeatures,
    like_at: float | None,
    quotas: Quotas,
    *,
    seed: int,
) -> CandidateLists:
    """What `sources` propose to the split's test users, labelled by what they did.

    Of very many users some are drawn; a list without a hit teaches nothing and is left out.
    """
    space = RankerSpace.fit(split.train, features.item_bag, features.item_map.n_ids, like_at)
    states = UserStates.of(split.known, features.user_bag, space.scale)
    users = np.unique(split.test.user).astype(np.int32)
    n_lists = min(MAX_LISTS, max(1, _MAX_LIST_SCORES // sources.n_items))
    if len(users) > n_lists:
        users = np.sort(np.random.default_rng(seed).choice(users, n_lists, replace=False))
    target, parts = split.test.matrix, []
    for part in _parts(users, sources.users_at_once):
        found = sources.propose(part, quotas)
        dense = dense_of(space, states.take(part), found)
        hits = touched_by(target, part, found.items)
        engaged = np.where(found.items < space.n_items, hits, -1.0).astype(np.float32)
        has_hit = hits.any(axis=1)
        parts.append((part[has_hit], found.items[has_hit], dense[has_hit], engaged[has_hit]))
    return CandidateLists(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def dense_of(space: RankerSpace, states: UserState, found: Candidates) -> Floats:
    """The ranker's dense features of these candidates, float32 [b, c, f]."""
    return dense_features(space, states, found.items, tower=found.tower, neighbour=found.neighbour)


def best_unseen(scores: Floats, known: sp.csr_matrix, users: NDArray[np.int32], n: int) -> Rows:
    """The n best items of each row that its user has not touched, int32 [b, n], best first.

    Where fewer are left the rest is padding (n_items). `scores` is as before in the end.
    """
    n_items = scores.shape[1]
    touched = known[users].tocoo()
    seen = touched.row, touched.col
    # In place: a copy of a million columns takes longer than to find the best of them.
    kept = scores[seen]
    scores[seen] = -np.inf
    best = best_columns(scores, n)
    is_open = np.isfinite(scores[np.arange(len(users))[:, None], best])
    scores[seen] = kept
    return np.where(is_open, best, n_items).astype(np.int32)


def touched_by(touched: sp.csr_matrix, users: NDArray[np.int32], items: Rows) -> NDArray[np.bool_]:
    """Whether each user touched each of their items, bool [b, c]; padding is never touched."""
    n_items = touched.get_shape()[1]
    own = touched[users].tocoo()
    pairs = own.row.astype(np.int64) * (n_items + 1) + own.col
    asked = np.arange(len(users))[:, None] * (n_items + 1) + items
    return np.isin(asked, pairs)


def _real(rows: Rows, n_items: int) -> Rows:
    return rows[rows < n_items]


def _parts(users: NDArray[np.int32], size: int) -> Iterator[NDArray[np.int32]]:
    for start in range(0, len(users), size):
        yield users[start : start + size]
