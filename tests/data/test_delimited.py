"""CSV and TSV: each line is accounted for."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.data import delimited
from candidfeed.data.delimited import open_delimited, read_delimited
from candidfeed.errors import DataError


def read(path: Path, content: bytes, columns: list[str], *, separator: str = ",") -> list[tuple]:
    path.write_bytes(content)
    opened = open_delimited(path, shown=path.name, separator=separator, unpacked=None)
    return read_delimited(opened, columns).rows()


def refusal(path: Path, content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(path, content, ["a"])
    return str(caught.value)


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n\n"])
def test_line_numbers_count_blank_lines_but_no_row_is_made_of_them(
    tmp_path: Path, ends: bytes, bom: bytes, last: bytes
) -> None:
    content = bom + (b"\n\na,b\n1,x\n\n2,y" + last).replace(b"\n", ends)
    assert read(tmp_path / "e.csv", content, ["b", "a"]) == [(4, "x", "1"), (6, "y", "2")]


def test_line_numbers_are_those_of_the_line_on_which_a_quoted_record_starts(tmp_path: Path) -> None:
    content = b'a,b\n"1\n2",x\n\n"3","y,""z"""\n4,\n'
    assert read(tmp_path / "e.csv", content, ["a", "b"]) == [
        (2, "1\n2", "x"),
        (5, "3", 'y,"z"'),
        (6, "4", None),
    ]


def test_a_quote_within_a_field_is_a_character_where_nothing_is_quoted(tmp_path: Path) -> None:
    content = b'a\tb\n12" mug\tx\n7" mug\ty\n'
    rows = read(tmp_path / "e.tsv", content, ["a"], separator="\t")
    assert rows == [(2, '12" mug'), (3, '7" mug')]


def test_a_file_in_pieces_reads_as_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{n},{'é' * (n % 7)}" for n in range(500)]
    content = "\n".join(["a,b", *lines]).encode()
    expected = [(n + 2, str(n), "é" * (n % 7) or None) for n in range(500)]
    assert read(tmp_path / "e.csv", content, ["a", "b"]) == expected
    monkeypatch.setattr(delimited, "_CHUNK_BYTES", 10)
    assert read(tmp_path / "e.csv", content, ["a", "b"]) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"a,b\n1,2\n\n3\n",
            "e.csv, line 4: has 1 field, but the header has 2; mend the line, or quote a field "
            "that holds a comma",
        ),
        (
            b"a,b\n1,2,3\n",
            "e.csv, line 2: has 3 fields, but the header has 2; mend the line, or quote a field "
            "that holds a comma",
        ),
        (
            b'a,b\n"1",2,3\n',
            "e.csv, line 2: has 3 fields, but the header has 2; mend the line, or quote a field "
            "that holds a comma",
        ),
        (
            b'a,b\n1,2\n"3,4\n5,6\n',
            "e.csv, line 3: can't be read (unexpected end of data); write a quote inside a quoted "
            "field as two quotes",
        ),
        (
            b"a,b\n1,2\n\xe9,3\n",
            "e.csv, line 3: is not UTF-8 text (b'\\xe9'); save the file as UTF-8",
        ),
        (
            b'a,b\n"1",2\n\xe9,3\n',
            "e.csv, line 3: is not UTF-8 text (b'\\xe9'); save the file as UTF-8",
        ),
        (b"a,b\r1,2\r", "e.csv: its lines end in bare carriage returns; save it with line feeds"),
        (b"\n\n", "e.csv: has no header line; the first line should name the columns"),
    ],
)
def test_a_fault_of_the_text_names_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    assert refusal(tmp_path / "e.csv", content) == message


fields = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=6)


@given(rows=st.lists(st.tuples(fields, fields), min_size=1, max_size=20), quoting=st.booleans())
def test_what_the_csv_module_wrote_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], quoting: bool
) -> None:
    text = io.StringIO()
    writer = csv.writer(
        text, quoting=csv.QUOTE_ALL if quoting else csv.QUOTE_MINIMAL, lineterminator="\n"
    )
    writer.writerow(["a", "b"])
    writer.writerows(rows)
    path = tmp_path_factory.mktemp("csv") / "e.csv"
    expected, line = [], 2
    for one, other in rows:
        expected.append((line, one or None, other or None))
        line += 1 + one.count("\n") + other.count("\n")
    assert read(path, text.getvalue().encode(), ["a", "b"]) == expected
