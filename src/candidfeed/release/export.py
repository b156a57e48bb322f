"""From trained Keras models to what is served: functions of StableHLO, weights and arrays."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax
import jax.export  # is not loaded by `import jax`
import jax.numpy as jnp
import keras
import numpy as np
import polars as pl
import scipy.sparse as sp

from candidfeed.data.features import Bag
from candidfeed.data.splits import Split
from candidfeed.data.tables import Dataset, Feature
from candidfeed.errors import ReleaseError
from candidfeed.feed.exported import Arrays, ExportedFunction
from candidfeed.feed.item_table import ItemTable
from candidfeed.feed.newcomers import ContentMap
from candidfeed.feed.scoring import candidate_inputs, tower_inputs, user_state, user_vector
from candidfeed.feed.served import FeedSettings, Floats, Neighbours, Pasts, Person, Served
from candidfeed.ranking.action_inputs import ActionSpace
from candidfeed.ranking.inputs import DENSE_FEATURES, RankerSpace, item_inputs, user_inputs
from candidfeed.ranking.ranker import Ranker
from candidfeed.ranking.training import FittedRanker
from candidfeed.ranking.user_state import MAX_HISTORY as MAX_RANKER_HISTORY
from candidfeed.ranking.user_state import UserState
from candidfeed.retrieval.content import Content
from candidfeed.retrieval.index.vector_index import (
    DEFAULT_INDEX,
    N_QUERIES,
    IndexSettings,
    VectorIndex,
)
from candidfeed.retrieval.large.training import FittedLarge
from candidfeed.retrieval.neighbours import Ease
from candidfeed.retrieval.training import MAX_HISTORY as MAX_TOWER_HISTORY
from candidfeed.retrieval.user_knn import UserKnn, UserNeighbours
from candidfeed.training.neighbour_choice import Neighbour
from candidfeed.training.two_stage import TwoStage

# Widths are rounded up to this. XLA computes rows in groups of 8 and those that are left over in
# another way: in a full group a row's bits do not depend on its place.
_WIDTH_STEP = 64
_ITEMS_AT_ONCE = 8_192
# Trends that a release holds: enough for every quota and for what a person has touched of them.
MAX_TRENDING = 10_000


def export_pair(
    dataset: Dataset, pair: TwoStage, *, index_settings: IndexSettings = DEFAULT_INDEX
) -> Served:
    """Both stages, and what they know of users and items, as they are served.

    Raises:
        ReleaseError: a model has weights or item vectors that are NaN or infinite.
    """
    split, features, space = pair.split, pair.features, pair.ranker.space
    pasts = Pasts.of(split.known)
    settings = _settings(dataset, pair, pasts)
    anyone = _person(features.user_bag, pasts, 0)
    item_vectors = np.asarray(pair.tower.model.item_vectors())
    _require_finite("the item tower", {"item vectors": item_vectors})
    served = Served(
        release_id="",
        settings=settings,
        users=split.users,
        user_map=features.user_map,
        item_map=features.item_map,
        user_bag=features.user_bag,
        pasts=pasts,
        items=ItemTable(_shown_items(dataset, split)),
        index=VectorIndex.compare_all(item_vectors),
        tower=export_function(
            pair.tower.model,
            pair.tower.model.user_vectors,
            tower_inputs(anyone, settings, item_vectors=item_vectors),
        ),
        neighbours=_neighbours(pair.sources.neighbour, n_items=space.n_items),
        trending=pair.sources.trending[:MAX_TRENDING],
        space=space,
        **_exported_ranker(pair.ranker, anyone, settings),
        calibration=pair.calibration,
        content=_content_map(space, pasts, item_vectors),
    )
    if len(item_vectors) < index_settings.exact_below:
        return served
    users = _some_user_vectors(served, n=N_QUERIES)
    index = VectorIndex.build(item_vectors, queries=users, settings=index_settings)
    return replace(served, index=index)


def _exported_ranker(
    ranker: FittedRanker, person: Person, settings: FeedSettings
) -> dict[str, ExportedFunction]:
    """`ranker` and, where it stands apart, `ranker_actions` of `Served`."""
    model, space = ranker.model, ranker.space
    state = user_state(space, person, width=settings.ranker_width, now_s=float("nan"))

    def heads(inputs: Any, items: Any) -> Any:
        # Padding has a row too: no place is beyond the last, and none needs a check.
        part = {
            name: jnp.take(table, inputs["item"], axis=0, mode="clip")
            for name, table in items.items()
        }
        return model.heads(model.user_part(inputs), part, inputs)

    def actions(inputs: Any) -> Any:
        return {"actions": model.action_logs(model.user_part(inputs), inputs)}

    asked = _no_candidates(
        space, state, settings.candidate_width, with_actions=not settings.action_width
    )
    functions = {"ranker": export_function(model, heads, asked, tables=_item_tables(model, space))}
    if settings.action_width:
        asked = _no_candidates(space, state, settings.action_width, with_actions=True)
        functions["ranker_actions"] = export_function(model, actions, asked)
    return functions


def _item_tables(model: Ranker, space: RankerSpace) -> Arrays:
    """`Ranker.item_part` of every item, then of padding; float32 [n_items + 1, .] each."""
    rows = np.arange(space.n_items + 1, dtype=np.int32)[None]
    parts = [
        jax.tree.map(np.asarray, model.item_part(item_inputs(space, rows[:, start:end])))
        for start, end in pairwise([*range(0, rows.size, _ITEMS_AT_ONCE), rows.size])
    ]
    return {name: np.concatenate([part[name][0] for part in parts]) for name in parts[0]}


def export_function(
    model: keras.Model,
    call: Callable[..., Any],
    inputs: Arrays,
    *,
    tables: Arrays | None = None,
) -> ExportedFunction:
    """A function of a Keras model, for inputs of the shapes and types given, on any processor.

    Args:
        model: whose variables the function reads.
        inputs: by name, as many as `call` may read; the function takes those that it does read.
        call: from a dict of inputs to outputs; it changes no variable.
        tables: what the function holds beside the variables; `call` gets them after the inputs.

    Raises:
        ReleaseError: a weight that the function reads is NaN or infinite.
    """
    # Keras numbers the models of a process: without their names two builds give the same bytes.
    variables = {one.path.removeprefix(f"{model.name}/"): one for one in model.variables}
    asked = dict(inputs)
    if len(variables) < len(model.variables):
        raise ValueError(f"{model.name}: two variables have one path")

    def stateless(weights: dict[str, Any], given: dict[str, Any]) -> Any:
        # What the function does not read has no part in it, whatever stands here.
        inputs = {**asked, **given}
        values = [(one, weights[path]) for path, one in variables.items() if path in weights]
        with keras.StatelessScope(state_mapping=values):
            if tables is None:
                return call(inputs)
            held = {name: weights.get(f"table/{name}", one) for name, one in tables.items()}
            return call(inputs, jax.tree.map(jnp.asarray, held))

    weights = {path: np.asarray(variable) for path, variable in variables.items()}
    weights |= {f"table/{name}": table for name, table in (tables or {}).items()}
    to_export = jax.export.export(jax.jit(stateless), platforms=["cpu"])
    with _no_file_names():
        # Once to find out what is read, in JAX' order of two dicts, then without the rest.
        read = to_export(weights, asked).module_kept_var_idx
        n = len(weights)
        given = {name: asked[name] for at, name in enumerate(sorted(asked), n) if at in read}
        weights = {path: weights[path] for at, path in enumerate(sorted(weights)) if at in read}
        exported = to_export(weights, given)
    _require_finite(model.name, weights)
    return ExportedFunction(bytes(exported.serialize()), weights)


@contextmanager
def _no_file_names() -> Iterator[None]:
    """Keep the source files of each operation, with the folders of this machine, out of exports."""
    name = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, limit)


def _content_map(space: RankerSpace, pasts: Pasts, item_vectors: Floats) -> ContentMap:
    """What stage one expects of an item of which only the features are known."""
    content = Content.of(space.item_bag, pasts.items)
    effects = content.effects(item_vectors, n_ids=space.n_item_ids)
    return ContentMap(effects[:-1], effects[-1])


def _some_user_vectors(served: Served, *, n: int) -> Floats:
    """What the index will be asked for: users with a past, at random, float32 [at most n, dim]."""
    with_past = np.flatnonzero(np.diff(served.pasts.ends, prepend=0))
    drawn = np.random.default_rng(0).permutation(with_past)[:n]
    people = (_person(served.user_bag, served.pasts, int(row)) for row in drawn)
    return np.stack([user_vector(served, person) for person in people])


def _person(user_bag: Bag, pasts: Pasts, row: int) -> Person:
    """As the feed sees them, but for the id, which no model reads."""
    return Person(row, row, Bag(user_bag.ids[[row]], user_bag.weights[[row]]), pasts.of_user(row))


def _settings(dataset: Dataset, pair: TwoStage, pasts: Pasts) -> FeedSettings:
    longest = int(np.diff(pasts.ends, prepend=0).max())
    n_candidates = min(pair.settings.n_candidates, pair.ranker.space.n_items)
    is_large = isinstance(pair.tower, FittedLarge)
    most_read = pair.tower.model.max_history if is_large else MAX_TOWER_HISTORY
    return FeedSettings(
        dataset=dataset.name,
        n_candidates=n_candidates,
        quotas=dict(pair.settings.quotas or {}),
        value_weights=dict(pair.settings.value_weights or {}),
        candidate_width=_rounded_up(n_candidates),
        tower_width=_rounded_up(min(longest, most_read)),
        ranker_width=_rounded_up(min(longest, MAX_RANKER_HISTORY)),
        # A user of the history tower is made of items' vectors; another tower's of its own tables.
        tower_reads_vectors=is_large,
        action_width=_WIDTH_STEP if _actions_stand_apart(pair) else 0,
        positive_kinds=dataset.positive_kinds,
    )


def _actions_stand_apart(pair: TwoStage) -> bool:
    """Whether the order of a list depends on none of the action heads that there are."""
    space, weights = pair.ranker.space.actions, pair.settings.value_weights or {}
    return space is not None and not any(weights.get(label.name) for label in space.labels)


def _rounded_up(n: int) -> int:
    return -(-n // _WIDTH_STEP) * _WIDTH_STEP


def _no_candidates(
    space: RankerSpace, state: UserState, width: int, *, with_actions: bool
) -> dict[str, Any]:
    """Inputs of the shapes and types that `feed.scoring` will give; every candidate is padding."""
    items = np.full((1, width), space.n_items, np.int32)
    dense = np.zeros((*items.shape, len(DENSE_FEATURES)), np.float32)
    asked = {**user_inputs(space, state), **candidate_inputs(space, state, items, dense)}
    of_actions = () if with_actions else (*ActionSpace.OF_USER, *ActionSpace.OF_PAIR)
    return {name: one for name, one in asked.items() if name not in of_actions}


def _neighbours(model: Neighbour | None, *, n_items: int) -> Neighbours | UserNeighbours:
    if isinstance(model, UserKnn):
        return model.neighbours
    if model is None:
        return Neighbours(sp.csr_matrix((n_items, n_items), dtype=np.float32))
    return Neighbours(model.weights if isinstance(model, Ease) else model.similarity)


def _shown_items(dataset: Dataset, split: Split) -> pl.DataFrame:
    """Id, title and features of each item in the order of the rows; none that is sensitive."""
    shown = [one.name for one in dataset.item_features if _is_shown(one)]
    ids = split.items.ids.rename("item_id").to_frame()
    table = dataset.items.select("item_id", "title", *shown)
    return ids.join(table, on="item_id", how="left", maintain_order="left")


def _is_shown(feature: Feature) -> bool:
    # The words of a text stand in the title, or are long.
    return not feature.sensitive and feature.kind != "text"


def _require_finite(name: str, arrays: Arrays) -> None:
    for path, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ReleaseError(
                f"{name}: {path} is not finite after training; the release was not made"
            )
