"""A person's own files: what is read, what goes to quarantine, what is refused."""

import csv
import gzip
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.data.checks import CONTRADICTION, DUPLICATE
from candidfeed.data.files import read_files
from candidfeed.data.sources import Wanted, needed_bytes
from candidfeed.data.tables import Dataset
from candidfeed.errors import ConfigError, DataError

ReadLog = Callable[..., Dataset]

TIMES = 'timestamp = "t"\ntimestamp_unit = "s"\nvalue = "v"\n'
LOG = "u,i,t,v\n1,a,1700000000,5\n2,b,1700000001,4\n"
ROWS = [
    (1, "a", "interaction", 5.0, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
    (2, "b", "interaction", 4.0, datetime(2023, 11, 14, 22, 13, 21, tzinfo=UTC)),
]


def frame() -> pl.DataFrame:
    return pl.DataFrame(
        {"u": [1, 2], "i": ["a", "b"], "t": [1700000000, 1700000001], "v": [5.0, 4.0]}
    )


def refusal(read_log: ReadLog, *arguments: object, **keywords: object) -> str:
    with pytest.raises(DataError) as caught:
        read_log(*arguments, **keywords)
    return str(caught.value)


# Every format


def test_csv_is_read(read_log: ReadLog) -> None:
    dataset = read_log(LOG, TIMES)
    assert dataset.events.rows() == ROWS
    assert dataset.name == "shop"
    assert dataset.rows_read == 2
    assert len(dataset.quarantine) == 0
    assert dataset.positive_kinds == ("interaction",)
    assert dataset.like_at is None
    assert dataset.users.rows() == [(1,), (2,)]
    assert dataset.items.rows() == [("a", "a"), ("b", "b")]


def test_tsv_is_read(read_log: ReadLog) -> None:
    assert read_log(LOG.replace(",", "\t"), TIMES, path="e.tsv").events.rows() == ROWS


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_change_nothing(
    read_log: ReadLog,
) -> None:
    content = b"\xef\xbb\xbf" + LOG.replace("\n", "\r\n\r\n").encode()
    assert read_log(content, TIMES).events.rows() == ROWS


def test_gzip_is_read(read_log: ReadLog) -> None:
    assert read_log(gzip.compress(LOG.encode()), TIMES, path="e.csv.gz").events.rows() == ROWS


def test_parquet_is_read(read_log: ReadLog, tmp_path: Path) -> None:
    frame().write_parquet(tmp_path / "e.parquet")
    assert read_log(None, TIMES, path="e.parquet").events.rows() == ROWS


def test_gzipped_parquet_is_read(read_log: ReadLog, tmp_path: Path) -> None:
    frame().write_parquet(tmp_path / "e.parquet")
    packed = gzip.compress((tmp_path / "e.parquet").read_bytes())
    assert read_log(packed, TIMES, path="e.parquet.gz").events.rows() == ROWS


def test_a_folder_is_read_in_the_order_of_its_names_without_a_writers_notes(
    read_log: ReadLog, tmp_path: Path
) -> None:
    (tmp_path / "log" / "day=2").mkdir(parents=True)
    (tmp_path / "log" / "_SUCCESS").write_text("")
    (tmp_path / "log" / ".part.crc").write_text("x")
    (tmp_path / "log" / "day=2" / "part-0.parquet").touch()
    frame()[1:].write_parquet(tmp_path / "log" / "day=2" / "part-0.parquet")
    frame()[:1].write_parquet(tmp_path / "log" / "day=1.parquet")
    frame()[:0].write_parquet(tmp_path / "log" / "day=3.parquet")
    assert read_log(None, TIMES, path="log").events.rows() == ROWS


def test_a_glob_takes_what_matches_and_faults_name_the_file(
    read_log: ReadLog, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("u,i\n1,a\n,b\n")
    (tmp_path / "b.csv").write_text("i,u\nb,2\n")
    (tmp_path / "c.tsv").write_text("not this one")
    dataset = read_log(None, path="*.csv")
    assert dataset.events.select("user_id", "item_id").rows() == [(1, "a"), (2, "b")]
    assert dataset.quarantine.rows() == [("a.csv", 3, "'u' is empty", "(nothing)")]


def test_a_file_whose_name_looks_like_a_glob_is_taken_by_its_name(read_log: ReadLog) -> None:
    assert read_log(LOG, TIMES, path="e[1].csv").events.rows() == ROWS


# Ids


def test_ids_with_spaces_commas_emoji_and_quotes_come_back(read_log: ReadLog) -> None:
    ids = [
        "a b",
        "c,d",
        "😀",
        "👩‍👩‍👧",
        'say "hi"',
        "ä\tö",
        "[bold]",
        " lead",
        "two\nlines",
        "=1+1",
    ]
    text = "u,i\n" + "".join('"{}",{}\n'.format(u.replace('"', '""'), n) for n, u in enumerate(ids))
    dataset = read_log(text)
    assert dataset.events["user_id"].to_list() == ids
    assert dataset.users["user_id"].to_list() == ids
    assert len(dataset.quarantine) == 0


def test_an_id_of_ten_kilobytes_goes_to_quarantine_and_is_shown_cut(read_log: ReadLog) -> None:
    dataset = read_log("u,i\n1,a\n" + "x" * 10_240 + ",b\n2,b\n")
    assert dataset.events["user_id"].to_list() == [1, 2]
    [(file, row, reason, received)] = dataset.quarantine.rows()
    assert (file, row, reason) == ("e.csv", 3, "'u' is longer than 1,024 bytes")
    assert received == "'" + "x" * 79 + "… (10,240 characters)"


def test_the_longest_id_that_is_taken_has_1024_bytes(read_log: ReadLog) -> None:
    longest = "é" * 512
    dataset = read_log(f"u,i\n{longest},a\n{longest}x,b\n")
    assert dataset.events["user_id"].to_list() == [longest]
    assert dataset.quarantine["row"].to_list() == [3]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["1", "-2", "0"], [1, -2, 0]),
        (["007", "7"], ["007", "7"]),
        (["1", "b"], ["1", "b"]),
        (["9223372036854775807", "1"], [9223372036854775807, 1]),
        (["9223372036854775808", "1"], ["9223372036854775808", "1"]),
        (["1", "1.0"], ["1", "1.0"]),
        (["+1", "2"], ["+1", "2"]),
    ],
)
def test_ids_are_integers_only_where_all_are_written_plainly(
    read_log: ReadLog, ids: list[str], expected: list[int | str]
) -> None:
    text = "u,i\n" + "".join(f"{one},x\n" for one in ids)
    assert read_log(text).events["user_id"].to_list() == expected


def test_integers_in_the_log_and_text_in_a_table_both_become_text(
    read_log: ReadLog, tmp_path: Path
) -> None:
    (tmp_path / "u.csv").write_text("id\n1\nbob\n")
    dataset = read_log(LOG, TIMES, tables='[users]\npath = "u.csv"\nuser_id = "id"\n')
    assert dataset.events["user_id"].to_list() == ["1", "2"]
    assert dataset.users["user_id"].to_list() == ["1", "bob", "2"]


def test_whole_floats_are_integers_and_missing_ones_go_to_quarantine(
    read_log: ReadLog, tmp_path: Path
) -> None:
    ids = pl.Series([1.0, 2.0, None, float("nan")])
    pl.DataFrame({"u": ids, "i": [1, 2, 3, 4]}).write_parquet(tmp_path / "e.parquet")
    dataset = read_log(None, path="e.parquet")
    assert dataset.events["user_id"].to_list() == [1, 2]
    assert dataset.quarantine.rows() == [
        ("e.parquet", 3, "'u' is empty", "(nothing)"),
        ("e.parquet", 4, "'u' is empty", "nan"),
    ]


# Times


@pytest.mark.parametrize(
    ("written", "keys", "expected"),
    [
        ("1700000000", 'timestamp_unit = "s"', "2023-11-14 22:13:20"),
        ("1700000000.25", 'timestamp_unit = "s"', "2023-11-14 22:13:20.25"),
        ("1700000000123", 'timestamp_unit = "ms"', "2023-11-14 22:13:20.123"),
        ("1700000000123456", 'timestamp_unit = "us"', "2023-11-14 22:13:20.123456"),
        ("2024-05-01T12:00:00Z", "", "2024-05-01 12:00:00"),
        ("2024-05-01 12:00:00.5+02:00", "", "2024-05-01 10:00:00.5"),
        ("2024-05-01T12:00-0330", "", "2024-05-01 15:30:00"),
        ("2024-05-01 12:00:00 UTC", "", "2024-05-01 12:00:00"),
        ("2024-05-01", 'timezone = "UTC"', "2024-05-01 00:00:00"),
        ("2024-05-01 12:00", 'timezone = "Europe/Zurich"', "2024-05-01 10:00:00"),
        ("2024-05-01 12:00Z", 'timezone = "Europe/Zurich"', "2024-05-01 12:00:00"),
        ("2024-10-27 02:30", 'timezone = "Europe/Zurich"', "2024-10-27 00:30:00"),
    ],
)
def test_a_time_is_stored_in_utc(read_log: ReadLog, written: str, keys: str, expected: str) -> None:
    dataset = read_log(f"u,i,t\n1,a,{written}\n", f'timestamp = "t"\n{keys}\n')
    moment = datetime.fromisoformat(expected).replace(tzinfo=UTC)
    assert dataset.events["timestamp"].to_list() == [moment]


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ([datetime(2024, 5, 1, 12, tzinfo=UTC)], ""),
        ([datetime(2024, 5, 1, 14)], 'timezone = "Europe/Zurich"'),  # noqa: DTZ001
        ([1714564800], 'timestamp_unit = "s"'),
        ([1714564800.0], 'timestamp_unit = "s"'),
        (["2024-05-01T12:00:00Z"], ""),
    ],
)
def test_times_of_parquet_are_read_by_their_type(
    read_log: ReadLog, tmp_path: Path, values: list[object], keys: str
) -> None:
    pl.DataFrame({"u": [1], "i": [1], "t": values}).write_parquet(tmp_path / "e.parquet")
    dataset = read_log(None, f'timestamp = "t"\n{keys}\n', path="e.parquet")
    assert dataset.events["timestamp"].to_list() == [datetime(2024, 5, 1, 12, tzinfo=UTC)]


def test_dates_of_parquet_are_midnight_where_the_clock_stood(
    read_log: ReadLog, tmp_path: Path
) -> None:
    log = pl.DataFrame({"u": [1], "i": [1], "t": [date(2024, 5, 1)]})
    log.write_parquet(tmp_path / "e.parquet")
    keys = 'timestamp = "t"\ntimezone = "Europe/Zurich"\n'
    dataset = read_log(None, keys, path="e.parquet")
    assert dataset.events["timestamp"].to_list() == [datetime(2024, 4, 30, 22, tzinfo=UTC)]


def test_times_are_taken_from_1970_to_a_day_from_now(read_log: ReadLog) -> None:
    now = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp())
    day = 24 * 3600
    times = [-1, 0, now + day, now + day + 1, now, now, 10**17]
    text = "u,i,t\n" + "".join(f"{n},a,{t}\n" for n, t in enumerate(times))
    dataset = read_log(text, 'timestamp = "t"\ntimestamp_unit = "s"\n')
    assert dataset.quarantine.rows() == [
        ("e.csv", 2, "'t' is before 1970", "'-1'"),
        ("e.csv", 5, "'t' is in the future", f"'{now + day + 1}'"),
        ("e.csv", 8, "'t' is in the future", f"'{10**17}'"),
    ]


def test_an_hour_that_the_clock_skips_cannot_be_used(read_log: ReadLog) -> None:
    text = "u,i,t\n1,a,2024-03-31 02:30\n2,b,2024-03-31 03:30\n"
    dataset = read_log(text, 'timestamp = "t"\ntimezone = "Europe/Zurich"\n')
    assert dataset.quarantine.rows() == [("e.csv", 2, "'t' is not a time", "'2024-03-31 02:30'")]


def test_without_times_the_log_has_none(read_log: ReadLog) -> None:
    dataset = read_log("u,i\n1,a\n2,b\n")
    assert not dataset.has_times
    assert dataset.events["timestamp"].null_count() == 2


# Values and kinds


def test_each_bad_row_is_put_down_to_its_first_fault_with_its_line(read_log: ReadLog) -> None:
    text = (
        "u,i,t,v,k\n"
        "1,a,1700000000,5,rate\n"
        "2,b,1700000000,nan,rate\n"
        "2,b,1700000001,-inf,rate\n"
        "2,b,1700000002,1e999,rate\n"
        "2,b,1700000003,four,rate\n"
        "2,b,1700000004,0.5,rate\n"
        "2,b,1700000005,5.5,rate\n"
        "2,b,soon,4,rate\n"
        "2,b,,4,rate\n"
        "2,b,1700000006,4,buy\n"
        "2,b,1700000006,4,\n"
        ",b,1700000006,nan,rate\n"
        "2,  ,1700000006,4,rate\n"
        "2,b,1700000006,,view\n"
    )
    keys = TIMES + (
        'value_min = 1\nvalue_max = 5\nlike_at = 4\nkind = "k"\nkinds = ["rate", "view"]\n'
        'positive = ["rate"]\n'
    )
    dataset = read_log(text, keys)
    assert dataset.events.select("user_id", "kind", "value").rows() == [
        (1, "rate", 5.0),
        (2, "view", None),
    ]
    assert dataset.quarantine.rows() == [
        ("e.csv", 3, "'v' is NaN or infinite", "'nan'"),
        ("e.csv", 4, "'v' is NaN or infinite", "'-inf'"),
        ("e.csv", 5, "'v' is NaN or infinite", "'1e999'"),
        ("e.csv", 6, "'v' is not a number", "'four'"),
        ("e.csv", 7, "'v' is less than 1", "'0.5'"),
        ("e.csv", 8, "'v' is greater than 5", "'5.5'"),
        ("e.csv", 9, "'t' is not a time", "'soon'"),
        ("e.csv", 10, "'t' is empty", "(nothing)"),
        ("e.csv", 11, "'k' is none of kinds", "'buy'"),
        ("e.csv", 12, "'k' is empty", "(nothing)"),
        ("e.csv", 13, "'u' is empty", "(nothing)"),
        ("e.csv", 14, "'i' is empty", "'  '"),
    ]
    assert dataset.rows_read == 14
    assert dataset.positive_kinds == ("rate",)
    assert dataset.like_at == 4.0


def test_a_rating_may_be_missing_only_where_other_kinds_have_none(read_log: ReadLog) -> None:
    alone = read_log("u,i,v\n1,a,5\n2,b,\n", 'value = "v"\nlike_at = 4\n')
    assert alone.events["kind"].to_list() == ["rating"]
    assert alone.quarantine["reason"].to_list() == ["'v' is empty"]
    among = read_log("u,i,v,k\n1,a,5,rate\n2,b,,view\n", 'value = "v"\nlike_at = 4\nkind = "k"\n')
    assert among.events["value"].to_list() == [5.0, None]
    assert among.positive_kinds == ("rate", "view")


def test_a_parquet_value_that_is_nan_goes_to_quarantine(read_log: ReadLog, tmp_path: Path) -> None:
    log = frame().with_columns(v=pl.Series([float("nan"), 3.0]))
    log.write_parquet(tmp_path / "e.parquet")
    dataset = read_log(None, TIMES, path="e.parquet")
    assert dataset.quarantine.rows() == [("e.parquet", 1, "'v' is NaN or infinite", "nan")]


def test_of_equal_events_the_first_stays_and_of_contradicting_ones_none(read_log: ReadLog) -> None:
    text = LOG + "1,a,1700000000,5\n3,c,1700000002,1\n3,c,1700000002,2\n1,a,1700000009,5\n"
    dataset = read_log(text, TIMES)
    assert dataset.events["user_id"].to_list() == [1, 2, 1]
    at = "2023-11-14 22:13"
    assert dataset.quarantine.rows() == [
        ("e.csv", 4, DUPLICATE, f"user 1, item a, interaction, {at}:20, value 5.0"),
        ("e.csv", 5, CONTRADICTION, f"user 3, item c, interaction, {at}:22, value 1.0"),
        ("e.csv", 6, CONTRADICTION, f"user 3, item c, interaction, {at}:22, value 2.0"),
    ]


# Tables of users and items

TABLES = """
[users]
path = "u.csv"
user_id = "id"
[users.features.age]
kind = "bucket"
sensitive = true
[users.features.since]
kind = "time"
timezone = "UTC"
[items]
path = "i.tsv"
item_id = "id"
title = "name"
[items.features.tags]
kind = "tags"
separator = ";"
[items.features.words]
kind = "text"
column = "name"
[items.features.maker]
kind = "category"
"""


def test_features_are_read_by_their_kind_and_what_is_missing_stays_null(
    read_log: ReadLog, tmp_path: Path
) -> None:
    (tmp_path / "u.csv").write_text("id,age,since\n1,34,1922-03-04\n3,nan,\n")
    (tmp_path / "i.tsv").write_text(
        "id\tname\ttags\tmaker\na\tL'Été: 12\" Disc (2nd)\tx; y;;z \t7\nc\t\t\t\n"
    )
    dataset = read_log(LOG, TIMES, tables=TABLES)
    assert dataset.users.rows() == [
        (1, 34.0, datetime(1922, 3, 4, tzinfo=UTC)),
        (3, None, None),
        (2, None, None),
    ]
    assert dataset.items.rows() == [
        ("a", "L'Été: 12\" Disc (2nd)", ["x", "y", "z"], ["l'été", "12", "disc", "2nd"], "7"),
        ("c", "c", None, None, None),
        ("b", "b", None, None, None),
    ]
    assert [(one.name, one.kind, one.sensitive) for one in dataset.user_features] == [
        ("age", "bucket", True),
        ("since", "time", False),
    ]


def test_bad_rows_of_a_table_go_to_quarantine_and_the_user_stays(
    read_log: ReadLog, tmp_path: Path
) -> None:
    (tmp_path / "u.csv").write_text(
        "id,age,since\n1,inf,2020-01-01\n2,old,2020-01-01\n3,1,2020-02-30\n4,1,\n4,1,\n5,1,\n5,2,\n,1,\n"
        "6,7,\n"
    )
    (tmp_path / "i.tsv").write_text("id\tname\ttags\tmaker\na\t\t\t\n")
    dataset = read_log(LOG, TIMES, tables=TABLES)
    assert dataset.users["user_id"].to_list() == [4, 6, 1, 2]
    assert dataset.quarantine.rows() == [
        ("u.csv", 2, "'age' is NaN or infinite", "'inf'"),
        ("u.csv", 3, "'age' is not a number", "'old'"),
        ("u.csv", 4, "'since' is not a time", "'2020-02-30'"),
        ("u.csv", 6, "the id stands twice", "4"),
        ("u.csv", 7, "the id stands twice, with other values", "5"),
        ("u.csv", 8, "the id stands twice, with other values", "5"),
        ("u.csv", 9, "'id' is empty", "(nothing)"),
    ]
    assert dataset.rows_read == 2


def test_lists_and_categories_of_parquet_are_features_too(
    read_log: ReadLog, tmp_path: Path
) -> None:
    pl.DataFrame(
        {
            "id": ["a", "b"],
            "tags": [["x", " "], None],
            "colour": pl.Series(["red", "blue"], dtype=pl.Categorical),
            "price": pl.Series(["1.50", None]).cast(pl.Decimal(10, 2)),
            "new": [True, False],
        }
    ).write_parquet(tmp_path / "i.parquet")
    tables = '[items]\npath = "i.parquet"\nitem_id = "id"\n'
    for name, kind in {
        "tags": "tags",
        "colour": "category",
        "price": "number",
        "new": "number",
    }.items():
        tables += f'[items.features.{name}]\nkind = "{kind}"\n'
    dataset = read_log(LOG, TIMES, tables=tables)
    assert dataset.items.rows() == [
        ("a", "a", ["x"], "red", 1.5, 1.0),
        ("b", "b", None, "blue", None, 0.0),
    ]


# Faults of a whole source


def test_a_missing_column_is_named_with_those_that_are_there(read_log: ReadLog) -> None:
    assert refusal(read_log, LOG, 'timestamp = "ts"\n') == (
        "e.csv: has no column 'ts' (events.timestamp); did you mean 't'? "
        "there are: 'u', 'i', 't', 'v'"
    )
    assert refusal(read_log, LOG.replace(",", ";")) == (
        "e.csv: has no column 'u' (events.user_id); there are: 'u;i;t;v'; "
        "a .csv is separated by commas, a .tsv by tabs"
    )


def test_a_column_that_stands_twice_is_refused(read_log: ReadLog) -> None:
    assert refusal(read_log, "u,i,u\n1,a,2\n") == (
        "e.csv: column 'u' (events.user_id) stands in the header 2 times; give each column its own "
        "name"
    )


@pytest.mark.parametrize(
    ("content", "path", "message"),
    [
        (b"", "e.csv", "e.csv: is empty (0 bytes); write the log to it first"),
        (b"", "e.parquet", "e.parquet: is empty (0 bytes); write the log to it first"),
        (
            gzip.compress(b"", mtime=0),
            "e.csv.gz",
            "e.csv.gz: is empty once unpacked; write the log to it first",
        ),
        (b"u,i\n", "e.csv", "e.csv: has a header but no row; nothing can be learned from it"),
        (
            gzip.compress(b"u,i\n1,a\n" * 99, mtime=0)[:-9],
            "e.csv.gz",
            "e.csv.gz: can't be unpacked as gzip (Compressed file ended before the end-of-stream "
            "marker was reached); copy it again",
        ),
        (
            b"u,i\n1,a\n",
            "e.csv.gz",
            "e.csv.gz: can't be unpacked as gzip (Not a gzipped file (b'u,')); copy it again",
        ),
        (
            gzip.compress(b"u,i\n", mtime=0),
            "e.csv",
            "e.csv: is gzip-compressed; name it with .gz at the end",
        ),
        (b"PAR1", "e.csv", "e.csv: is Parquet; name it .parquet"),
        ("u,i\n".encode("utf-16"), "e.csv", "e.csv: is UTF-16 text; save it as UTF-8"),
        (
            b"u,i\n1,a\n",
            "e.txt",
            "e.txt: can't tell its format from its name; expected CSV (.csv), TSV (.tsv) or "
            "Parquet (.parquet), each also gzipped (.gz)",
        ),
        (
            b"u,i\n1,a\n2\n",
            "e.csv",
            "e.csv, line 3: has 1 field, but the header has 2; mend the line, or quote a field "
            "that holds a comma",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    read_log: ReadLog, content: bytes, path: str, message: str
) -> None:
    assert refusal(read_log, content, path=path) == message


def test_a_parquet_file_that_cannot_be_read_is_refused(read_log: ReadLog, tmp_path: Path) -> None:
    frame().write_parquet(tmp_path / "whole.parquet")
    cut = (tmp_path / "whole.parquet").read_bytes()[:-20]
    message = refusal(read_log, cut, path="e.parquet")
    assert message.startswith("e.parquet: can't be read as Parquet (")
    assert message.endswith("); write it again")


def test_a_path_that_leads_nowhere_is_refused(read_log: ReadLog, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(LOG)
    assert refusal(read_log, None, path="evnts.csv") == (
        f"evnts.csv: no such file or folder in {tmp_path}; did you mean 'events.csv'? "
        "there are: 'events.csv', 'shop.toml'"
    )
    assert refusal(read_log, None, path="*.tsv") == (
        f"*.tsv: no file matches this pattern in {tmp_path}"
    )
    (tmp_path / "log").mkdir()
    assert refusal(read_log, None, path="log").startswith("log: the folder holds no file; expected")
    (tmp_path / "log" / "notes.md").write_text("x")
    assert refusal(read_log, None, path="log").startswith("log/notes.md: can't tell its format")


def test_files_of_one_log_have_the_same_types(read_log: ReadLog, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    frame().write_parquet(tmp_path / "log" / "a.parquet")
    frame().cast({"u": pl.String}).write_parquet(tmp_path / "log" / "b.parquet")
    assert refusal(read_log, None, path="log") == (
        "log/b.parquet: column 'u' is String, but Int64 in log/a.parquet; "
        "write all files with the same types"
    )


@pytest.mark.parametrize(
    ("values", "keys", "message"),
    [
        (
            {"v": ["bad", "worse"]},
            'value = "v"',
            "column 'v' (events.value) should hold numbers, but none of its values is one "
            "(e.parquet, row 1: 'bad'); name the right column, or write numbers with a decimal "
            "point",
        ),
        (
            {"v": [True, False]},
            'value = "v"',
            "column 'v' (events.value) has the wrong type, Boolean (e.parquet, row 1: True); "
            "values are numbers; name the right column or write it with another type",
        ),
        (
            {"u": [[1], [2]]},
            "",
            "column 'u' (events.user_id) has the wrong type, List(Int64) (e.parquet, row 1: [1]); "
            "ids are integers or text; name the right column or write it with another type",
        ),
        (
            {"u": [1.0, 2.5]},
            "",
            "column 'u' (events.user_id) holds ids as floating-point numbers (e.parquet, row 2: "
            "2.5); ids are integers or text; write them so",
        ),
        (
            {"t": [datetime(2024, 1, 1), datetime(2024, 1, 2)]},  # noqa: DTZ001
            'timestamp = "t"',
            "column 't' (events.timestamp) holds times without a zone (e.parquet, row 1: "
            '2024-01-01 00:00:00); store UTC, or state timezone = "UTC" (or where the clock stood) '
            "under [events]",
        ),
        (
            {"t": ["2024-01-01T10:00:00Z", "2024-01-02 10:00"]},
            'timestamp = "t"',
            "column 't' (events.timestamp) holds times without a zone (e.parquet, row 2: "
            "'2024-01-02 10:00'); store UTC, or state timezone = \"UTC\" (or where the clock "
            "stood) under [events]",
        ),
        (
            {"t": ["1.5.2024", "yesterday"]},
            'timestamp = "t"',
            "column 't' (events.timestamp) should hold times, but none of its values is one "
            "(e.parquet, row 1: '1.5.2024'); write numbers, or ISO 8601 such as "
            "2024-05-01T12:00:00Z",
        ),
        (
            {"t": ["2024-01-01T10:00:00Z", "2024-01-02T10:00:00Z"]},
            'timestamp = "t"\ntimestamp_unit = "s"',
            "column 't' (events.timestamp) does not hold numbers, but timestamp_unit = 's' is "
            "stated (e.parquet, row 1: '2024-01-01T10:00:00Z'); drop timestamp_unit",
        ),
        (
            {"t": [1700000000, 1700000001]},
            'timestamp = "t"',
            "column 't' (events.timestamp) holds times as numbers without a unit (e.parquet, row "
            '1: 1700000000); state timestamp_unit = "s" (1700000000 would be 2023-11-14)',
        ),
        (
            {"t": [1700000000000, 1700000001000]},
            'timestamp = "t"\ntimestamp_unit = "s"',
            "column 't' (events.timestamp) is not in 's': 1700000000000 would be in the year 55841 "
            '(e.parquet, row 1: 1700000000000); state timestamp_unit = "ms" (1700000000000 would '
            "be 2023-11-14)",
        ),
        (
            {"t": [1700000000, 1700000001]},
            'timestamp = "t"\ntimestamp_unit = "ms"',
            "column 't' (events.timestamp) is not in 'ms': 1700000000 would be in the year 1970 "
            '(e.parquet, row 1: 1700000000); state timestamp_unit = "s" (1700000000 would be '
            "2023-11-14)",
        ),
    ],
)
def test_a_column_of_the_wrong_kind_is_refused_with_an_example_and_the_mend(
    read_log: ReadLog, tmp_path: Path, values: dict[str, list], keys: str, message: str
) -> None:
    pl.DataFrame({"u": [1, 2], "i": ["a", "b"], **values}).write_parquet(tmp_path / "e.parquet")
    assert refusal(read_log, None, keys, path="e.parquet") == f"e.parquet: {message}"


def test_text_that_holds_numbers_needs_a_unit_too(read_log: ReadLog) -> None:
    assert refusal(read_log, LOG, 'timestamp = "t"\n') == (
        "e.csv: column 't' (events.timestamp) holds times as numbers without a unit (e.csv, line "
        "2: '1700000000'); state timestamp_unit = \"s\" (1700000000 would be 2023-11-14)"
    )


def test_a_positive_kind_that_the_log_does_not_have_is_refused(read_log: ReadLog) -> None:
    with pytest.raises(ConfigError) as caught:
        read_log("u,i,k\n1,a,view\n2,b,buy\n", 'kind = "k"\npositive = ["views"]\n')
    assert str(caught.value).endswith(
        "shop.toml: events.positive: 'views' is no kind of the log; did you mean 'view'? "
        "there are: 'buy', 'view'"
    )


def test_a_table_that_knows_none_of_the_logs_ids_is_refused(
    read_log: ReadLog, tmp_path: Path
) -> None:
    (tmp_path / "u.csv").write_text("id,name\nx,1\ny,2\n")
    tables = '[users]\npath = "u.csv"\nuser_id = "id"\n'
    assert refusal(read_log, LOG, TIMES, tables=tables) == (
        "u.csv: none of its user_ids is in the log ('x' here, 1 there); "
        "name the columns that hold the same ids"
    )


# Whatever the rows are

users = st.sampled_from(["1", "2", "x", "😀", "", " ", "a,b", 'q"'])
values = st.sampled_from(["1", "5", "4.5", "nan", "inf", "9", "x", ""])
times = st.sampled_from(["1700000000", "1700000001", "-1", "99999999999", "soon", ""])
records = st.lists(st.tuples(users, st.sampled_from(["a", "b"]), times, values), max_size=25)
KEYS = TIMES + "value_max = 5\nlike_at = 4\n"
# So that no column is wrong as a whole.
GOOD_RECORD = ("1", "good", "1700000000", "5")


def write_log(folder: Path, rows: list[tuple[str, ...]]) -> Dataset:
    with (folder / "e.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("u", "i", "t", "v"), *rows])
    config = folder / "shop.toml"
    config.write_text(f'[events]\npath = "e.csv"\nuser_id = "u"\nitem_id = "i"\n{KEYS}')
    return read_files(config, now=datetime(2025, 1, 1, tzinfo=UTC) + timedelta(0))


@given(rows=records)
def test_each_row_is_an_event_or_in_quarantine_and_never_both(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    log = [GOOD_RECORD, *rows]
    dataset = write_log(tmp_path_factory.mktemp("log"), log)
    assert dataset.rows_read == len(log) == len(dataset.events) + len(dataset.quarantine)
    lines = dataset.quarantine["row"].to_list()
    assert len(set(lines)) == len(lines)
    usable = [row for line, row in enumerate(log, start=2) if line not in set(lines)]
    told = dataset.events.select(
        pl.col("user_id").cast(pl.String),
        "item_id",
        pl.col("timestamp").dt.epoch("s").cast(pl.String),
        pl.col("value").cast(pl.Float64),
    ).rows()
    assert told == [(u, i, t, float(v)) for u, i, t, v in usable]


@given(rows=records, seed=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_change_what_is_used(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], seed: object
) -> None:
    log = [GOOD_RECORD, *rows]
    shuffled = list(log)
    seed.shuffle(shuffled)  # pyright: ignore[reportAttributeAccessIssue]
    one = write_log(tmp_path_factory.mktemp("log"), log)
    other = write_log(tmp_path_factory.mktemp("log"), shuffled)
    assert Counter(one.events.rows()) == Counter(other.events.rows())
    told = ("reason", "received")
    assert Counter(one.quarantine.select(told).rows()) == Counter(
        other.quarantine.select(told).rows()
    )
    assert set(one.users.rows()) == set(other.users.rows())


# Memory


def test_what_reading_would_not_fit_into_memory_is_refused_before_it_is_read(
    read_log: ReadLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("candidfeed.data.memory.available_bytes", lambda: 2**20)
    with pytest.raises(DataError, match=r"^e\.csv: reading it needs 0\.0 GiB of memory and 0\.0"):
        read_log("u,i\n1,2\n")


def test_the_memory_of_a_parquet_file_grows_with_its_rows_and_columns(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    pl.DataFrame({"u": range(1000), "kind": ["a"] * 1000}).write_parquet(path)
    wanted = [Wanted("user_id", "u", "events.user_id"), Wanted("kind", "kind", "events.kind")]
    assert needed_bytes(path, wanted[:1]) == 1.6 * 1000 * (9 + 8)
    assert needed_bytes(path, wanted) == 1.6 * 1000 * (9 + 8 + 16)
    path.write_bytes(b"PAR1 and no more")
    assert needed_bytes(path, wanted) == 0


def test_the_memory_of_a_text_file_grows_with_its_bytes_and_the_share_of_its_columns(
    tmp_path: Path,
) -> None:
    path, packed = tmp_path / "e.tsv", tmp_path / "e.tsv.gz"
    for one in (path, packed):
        one.write_bytes(b"u\tkind\tx\ty\n" * 100)
    wanted = [Wanted("user_id", "u", "events.user_id"), Wanted("kind", "kind", "events.kind")]
    assert needed_bytes(path, wanted) == 6 * 1100 / 2
    assert needed_bytes(packed, wanted) == 6 * 1100
