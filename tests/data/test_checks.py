"""When a data set may be trained on, and what is said when it may not."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from candidfeed.data.checks import (
    CONTRADICTION,
    DUPLICATE,
    check_canonical,
    repeated_events,
    require_usable,
    write_quarantine,
)
from candidfeed.data.tables import TIME, Dataset
from candidfeed.errors import DataError

ReadLog = Callable[..., Dataset]
NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)
TIMES = 'timestamp = "t"\ntimestamp_unit = "s"\n'


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def refusal(dataset: Dataset, **options: Path) -> str:
    with pytest.raises(DataError) as caught:
        require_usable(dataset, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def log_with(n_good: int, *bad: str) -> str:
    good = (f"{n % 7},{n},1700000000" for n in range(n_good))
    return "\n".join(["u,i,t", *good, *bad])


def test_a_clean_data_set_passes_and_no_file_is_written(read_log: ReadLog) -> None:
    assert require_usable(read_log(log_with(10), TIMES)) is None
    assert list(Path().iterdir()) == []


def test_one_bad_row_stops_training_and_the_message_says_all_that_is_needed(
    read_log: ReadLog,
) -> None:
    dataset = read_log(log_with(199, "1,x,soon"), TIMES)
    assert refusal(dataset) == (
        "shop: 1 row can't be used (the log has 200): 1 x 't' is not a time; first: e.csv, line "
        "201, received 'soon'; all are in shop.quarantine.csv; fix the rows or allow them: "
        "max_bad_share = 0.01 under [events]"
    )
    assert Path("shop.quarantine.csv").read_text() == (
        "file,row,reason,received\ne.csv,201,'t' is not a time,'soon'\n"
    )


def test_bad_rows_up_to_the_allowed_share_pass_and_are_written_all_the_same(
    read_log: ReadLog, tmp_path: Path
) -> None:
    dataset = read_log(log_with(99, "1,x,soon"), TIMES + "max_bad_share = 0.01\n")
    assert require_usable(dataset, quarantine=tmp_path / "q.csv") == tmp_path / "q.csv"
    assert (tmp_path / "q.csv").exists()
    assert list(Path().iterdir()) == []
    more = read_log(log_with(98, "1,x,soon", ",x,1700000000"), TIMES + "max_bad_share = 0.01\n")
    assert "2 rows can't be used (the log has 100)" in refusal(more)
    assert refusal(more).endswith("allow them: max_bad_share = 0.02 under [events]")


def test_many_reasons_are_told_by_their_count(read_log: ReadLog) -> None:
    bad = ["1,x,soon", "1,x,later", ",x,1700000000", "1,,1700000000", "1,x,", "1,x,-5"]
    dataset = read_log(log_with(9, *bad, "1,x,9999999999"), TIMES)
    message = refusal(dataset)
    assert (
        "7 rows can't be used (the log has 16): 2 x 't' is not a time, 1 x 'i' is empty, "
        in message
    )
    assert "1 more reason; first: e.csv, line 11, received 'soon'" in message


def test_a_log_of_which_nothing_is_left_says_why(read_log: ReadLog) -> None:
    dataset = read_log("u,i\n,a\n,b\n", "max_bad_share = 0.99\n")
    assert refusal(dataset) == (
        "shop: 2 rows can't be used (the log has 2): 2 x 'u' is empty; first: e.csv, line 2, "
        "received (nothing); all are in shop.quarantine.csv; fix the rows"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "u,i\n1,a\n1,b\n",
            "shop: all 2 events are of one user (1); at least 2 users and 2 items are needed",
        ),
        (
            "u,i\n1,a\n2,a\n",
            "shop: all 2 events are of one item ('a'); at least 2 users and 2 items are needed",
        ),
    ],
)
def test_one_user_or_one_item_is_too_little(read_log: ReadLog, text: str, message: str) -> None:
    assert refusal(read_log(text)) == message


def test_a_log_without_a_positive_event_is_refused(read_log: ReadLog) -> None:
    keys = 'kind = "k"\nkinds = ["view", "buy"]\npositive = ["buy"]\n'
    dataset = read_log("u,i,k\n1,a,view\n2,b,view\n", keys)
    assert refusal(dataset) == (
        "shop: no event is positive; `positive` under [events] names 'buy', the log has 'view'"
    )


def test_a_user_without_events_is_no_fault(read_log: ReadLog, tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_text("id\n1\n2\n9\n")
    tables = '[users]\npath = "u.csv"\nuser_id = "id"\n'
    assert require_usable(read_log("u,i\n1,a\n2,b\n", tables=tables)) is None


def test_the_message_stands_even_where_the_file_cannot_be_written(
    read_log: ReadLog, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    message = refusal(read_log("u,i\n1,a\n2,b\n,c\n"), quarantine=tmp_path / "file" / "q.csv")
    assert message.startswith(
        "shop: 1 row can't be used (the log has 3): 1 x 'u' is empty; first: "
    )
    assert "the quarantined rows can't be written there" in message


def test_the_quarantine_file_is_written_whole_and_nothing_beside_it(
    read_log: ReadLog, tmp_path: Path
) -> None:
    dataset = read_log('u,i\n1,a\n2,b\n,"c, d"\n,e\n')
    written = write_quarantine(dataset, tmp_path / "new" / "q.csv")
    assert written == tmp_path / "new" / "q.csv"
    assert [one.name for one in written.parent.iterdir()] == ["q.csv"]
    assert pl.read_csv(written).rows() == dataset.quarantine.rows()


def test_a_data_set_that_breaks_the_contract_is_refused(read_log: ReadLog) -> None:
    dataset = read_log("u,i\n1,a\n2,b\n")
    broken = {
        "events.value is Float64, not Float32": replace(
            dataset, events=dataset.events.cast({"value": pl.Float64})
        ),
        "events.kind has nulls": replace(
            dataset, events=dataset.events.with_columns(pl.lit(None, pl.String).alias("kind"))
        ),
        "users.user_id has nulls or stands twice": replace(
            dataset, users=pl.concat([dataset.users, dataset.users])
        ),
        "events name a user_id that is not in users": replace(dataset, users=dataset.users[:1]),
        "user_id is String in users, Int64 in events": replace(
            dataset, users=dataset.users.cast(pl.String)
        ),
        r"items have the columns \['item_id'\]": replace(
            dataset, items=dataset.items.drop("title")
        ),
        "2 events of 1 rows read": replace(dataset, rows_read=1),
    }
    for message, wrong in broken.items():
        with pytest.raises(DataError, match=f"shop: {message}"):
            check_canonical(wrong)


# Events that stand more than once


def test_repeated_events_are_found_as_by_comparing_all_rows() -> None:
    rng = np.random.default_rng(0)
    n = 2_000
    events = pl.DataFrame(
        {
            "user_id": rng.integers(30, size=n),
            "item_id": rng.integers(30, size=n),
            "kind": rng.choice(["click", "like"], size=n),
            "value": rng.choice([1.0, 2.0, None], size=n, p=[0.9, 0.05, 0.05]).tolist(),
            "timestamp": [NEW_YEAR if each else None for each in rng.integers(2, size=n)],
        },
        schema_overrides={"value": pl.Float32, "timestamp": TIME},
    )
    rows: dict[tuple[object, ...], list[int]] = {}
    for place, row in enumerate(events.select(pl.exclude("value")).rows()):
        rows.setdefault(row, []).append(place)
    values = events["value"].to_list()
    again, contradicting = np.zeros(n, bool), np.zeros(n, bool)
    for places in rows.values():
        if len({values[one] for one in places}) > 1:
            contradicting[places] = True
        again[places[1:]] = True
    found = {fault.reason: fault.bad.to_numpy() for fault in repeated_events(events)}
    np.testing.assert_array_equal(found[DUPLICATE], again)
    np.testing.assert_array_equal(found[CONTRADICTION], contradicting)
