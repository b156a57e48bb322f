"""A small data set with ratings, times and metadata, and a way to cut it down."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from candidfeed.data.tables import Dataset, Feature

N_USERS, N_ITEMS = 12, 10
START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def small() -> Dataset:
    """12 users with 9 ratings each: users like items of their own parity."""
    pairs = [(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if (u + i) % N_ITEMS]
    order = np.random.default_rng(0).permutation(len(pairs))
    users, items = np.array(pairs)[order].T
    events = pl.DataFrame(
        {
            "user_id": users + 1,
            "item_id": items + 101,
            "kind": ["rating"] * len(pairs),
            "value": np.where((users + items) % 2, 2.0, 5.0).astype(np.float32),
            "timestamp": [START + timedelta(hours=n) for n in range(len(pairs))],
        },
        schema_overrides={"timestamp": pl.Datetime("us", "UTC")},
    )
    return Dataset(
        name="small",
        events=events,
        users=pl.DataFrame(
            {
                "user_id": np.arange(N_USERS) + 1,
                "job": ["baker" if u % 2 else "nurse" for u in range(N_USERS)],
                "age": pl.Series(range(20, 20 + N_USERS), dtype=pl.Float32),
            }
        ),
        items=pl.DataFrame(
            {
                "item_id": np.arange(N_ITEMS) + 101,
                "title": [f"Item {i}" for i in range(N_ITEMS)],
                "tags": [["even"] if i % 2 == 0 else ["odd", "new"] for i in range(N_ITEMS)],
                "words": [["item", str(i)] for i in range(N_ITEMS)],
            }
        ),
        user_features=(Feature("job", "category"), Feature("age", "number", sensitive=True)),
        item_features=(Feature("tags", "tags"), Feature("words", "text")),
        quarantine=pl.DataFrame(
            schema={"file": pl.String, "row": pl.Int64, "reason": pl.String, "received": pl.String}
        ),
        rows_read=len(pairs),
        max_bad_share=0.0,
        positive_kinds=("rating",),
        like_at=4.0,
    )
