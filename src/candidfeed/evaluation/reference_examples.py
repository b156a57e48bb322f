"""What a classic model says of one person: its first titles, or the ratings it expects."""

import difflib
from dataclasses import dataclass

import keras_rs
import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split
from candidfeed.data.tables import Dataset
from candidfeed.errors import ConfigError
from candidfeed.evaluation.list_metrics import top_rows
from candidfeed.evaluation.reference_run import ReferenceRun
from candidfeed.reference.models import TfrsRetrieval
from candidfeed.reference.training import predict

DEFAULT_USER = "42"
"""Whom the TFRS tutorials ask for."""

N_TITLES = 5
N_BEST = 3

_TITLES_LOOKED_THROUGH = 10_000


@dataclass(frozen=True)
class Title:
    """One item as a model puts it.

    Attributes:
        score: dot product of the towers, or the predicted rating.
        is_known: the user has touched it before: it is in train or history.
    """

    title: str
    score: float
    is_known: bool


@dataclass(frozen=True)
class ExpectedRating:
    """One (user, item) pair.

    Attributes:
        rating: what the user gave; NaN where they gave none.
        part: where that rating stands: `test`, `train`, or empty.
    """

    title: str
    predicted: float
    rating: float
    part: str


def find_user(dataset: Dataset, user: str | None) -> str | int:
    """The id of a user, as the data set has it; without a wish DEFAULT_USER, else the first.

    Raises:
        ConfigError: the data set has no such user.
    """
    ids = dataset.users["user_id"]
    as_text = ids.cast(pl.String)
    found = ids.filter(as_text == (DEFAULT_USER if user is None else user))
    if len(found):
        return found[0]
    if user is None:
        return ids[0]
    some = ", ".join(repr(one) for one in as_text.head(3))
    raise ConfigError(f"no user {user!r} in {dataset.name}; it has {len(ids):,}, such as {some}")


def find_item(dataset: Dataset, title: str) -> str | int:
    """The id of the first item with this title.

    Raises:
        ConfigError: the data set has no such title.
    """
    items = dataset.items
    found = items.filter(pl.col("title") == title)["item_id"]
    if not len(found):
        titles = items["title"].drop_nulls().head(_TITLES_LOOKED_THROUGH).to_list()
        near = difflib.get_close_matches(title, titles, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"no title {title!r} in {dataset.name}{hint}")
    return found[0]


def first_titles(run: ReferenceRun, dataset: Dataset, user: str | int) -> list[Title]:
    """The N_TITLES items with the highest scores, what the user knows among them (as in TFRS)."""
    model, split = run.model, run.split
    if not isinstance(model, TfrsRetrieval):
        raise ValueError(f"{run.reference.name} does not retrieve")
    row = split.users.rows([user])
    items = model.item_vectors()
    retrieval = keras_rs.layers.BruteForceRetrieval(items, k=min(N_TITLES, len(items)))
    scores, rows = retrieval(model.user_vectors()[row])
    return _titles(split, dataset, int(row[0]), np.asarray(rows)[0], np.asarray(scores)[0])


def best_titles(run: ReferenceRun, dataset: Dataset, user: str | int) -> list[Title]:
    """The N_BEST items with the highest predicted ratings that the user does not know yet."""
    split = run.split
    row = int(split.users.rows([user])[0])
    items = np.arange(len(split.items), dtype=np.int32)
    ratings = predict(run.model, np.full(len(items), row), items)
    rows = top_rows(ratings, split.known.matrix[row].indices, N_BEST)
    return _titles(split, dataset, row, rows, ratings[rows])


def expected_rating(
    run: ReferenceRun, dataset: Dataset, user: str | int, item: str | int | None
) -> ExpectedRating:
    """The prediction for a pair; without a wish the user's first test item.

    Where they have no test item either, the item with most train rows.
    """
    split = run.split
    user_row = int(split.users.rows([user])[0])
    if item is not None:
        item_row = int(split.items.rows([item])[0])
    elif (split.test.user == user_row).any():
        item_row = int(split.test.item[split.test.user == user_row][0])
    else:
        item_row = int(np.bincount(split.train.item, minlength=len(split.items)).argmax())
    rating, part = _given(split, user_row, item_row)
    predicted = float(predict(run.model, [user_row], [item_row])[0])
    return ExpectedRating(_name(dataset, split.items.id_of(item_row)), predicted, rating, part)


def _given(split: Split, user: int, item: int) -> tuple[float, str]:
    for events, part in ((split.test, "test"), (split.history, "history"), (split.train, "train")):
        value = _value(events, user, item)
        if np.isfinite(value):
            return value, part
    return float("nan"), ""


def _value(events: Interactions, user: int, item: int) -> float:
    """The latest value of a pair; NaN without one."""
    values = events.value[(events.user == user) & (events.item == item)]
    return float(values[-1]) if len(values) else float("nan")


def _titles(
    split: Split,
    dataset: Dataset,
    user: int,
    rows: NDArray[np.integer],
    scores: NDArray[np.floating],
) -> list[Title]:
    known = set(split.known.matrix[user].indices.tolist())
    return [
        Title(_name(dataset, split.items.id_of(int(row))), float(score), int(row) in known)
        for row, score in zip(rows, scores, strict=True)
    ]


def _name(dataset: Dataset, item: str | int) -> str:
    """The item's title; where it has none, its id."""
    titles = dataset.items.filter(pl.col("item_id") == item)["title"]
    return titles[0] if len(titles) and titles[0] else str(item)
