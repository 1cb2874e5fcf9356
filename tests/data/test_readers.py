import csv
from pathlib import Path

import pandas as pd
import pytest

from sot_nlp.data import readers, tables
from sot_nlp.data.readers import open_table
from sot_nlp.data.tables import Table
from sot_nlp.errors import UserError


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="")
    return path


def examples(table: Table, *columns: str | int) -> list[tuple]:
    """(line, index, value, ...) of every example."""
    return [
        row
        for rows in table.rows(columns)
        for row in zip(rows.lines, rows.indices, *rows.columns, strict=True)
    ]


def test_csv_gives_columns_in_the_order_asked_with_the_line_each_example_begins_at(tmp_path):
    table = open_table(write(tmp_path / "a.csv", 'id,text,label\n1,"one\nzorp, ""two""",x\n2,dax,y\n'))
    assert table.columns == ("id", "text", "label")
    assert examples(table, "label", "text") == [(2, 0, "x", 'one\nzorp, "two"'), (4, 1, "y", "dax")]
    assert table.where(4) == f"{tmp_path}/a.csv, line 4"


def test_tsv_takes_quotes_as_characters_unless_told_otherwise(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"a ""wug"""\t1\n"b\t2\n')
    assert examples(open_table(path), "text") == [(2, 0, '"a ""wug"""'), (3, 1, '"b')]
    write(path, 'text\tlabel\n"a ""wug"""\t1\n')
    assert examples(open_table(path, quoting=True), "text") == [(2, 0, 'a "wug"')]


def test_file_without_header_is_read_by_position(tmp_path):
    path = write(tmp_path / "a.tsv", "x\t1\ta zorp\nx\t0\ta dax")
    assert examples(open_table(path, header=False, num_columns=3), 2, 1) == [
        (1, 0, "a zorp", "1"),
        (2, 1, "a dax", "0"),
    ]


def test_one_column_keeps_empty_lines_between_examples(tmp_path):
    path = write(tmp_path / "a.tsv", "text\none\n\nthree\n\n")
    assert examples(open_table(path), "text") == [(2, 0, "one"), (3, 1, ""), (4, 2, "three")]
    path = write(tmp_path / "a.csv", 'text\none\n""\n\n""\n\n')  # written as empty texts, also at the end
    expected = [(2, 0, "one"), (3, 1, ""), (4, 2, ""), (5, 3, "")]
    assert examples(open_table(path), "text") == expected


def test_broken_lines_are_named_and_keep_their_place_in_the_count(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tb\n1\t2\nbroken\n3\t4\n5\t6\t7\n")
    table = open_table(path, tolerant=True)
    assert examples(table, "b") == [(2, 0, "2"), (4, 2, "4")]
    (rows,) = table.rows(["a"])
    assert rows.unreadable == [
        (3, "has 1 column; expected 2, as in its header, separated by tabs"),
        (5, "has 3 columns; expected 2, as in its header, separated by tabs"),
    ]


@pytest.mark.parametrize("content", ['[{"a": 1, "b": "x"},\n\n {"a": 2,\n "b": "y"}]\n', "JSON lines"])
def test_json_list_and_json_lines_name_the_line_of_each_object(tmp_path, content):
    if content == "JSON lines":
        content = '{"a": 1, "b": "x"}\n\n{"b": "y", "a": 2}\n'
    table = open_table(write(tmp_path / "a.json", content))
    assert examples(table, "b", "a") == [(1, 0, "x", 1), (3, 1, "y", 2)]
    assert table.typed


def test_tables_come_in_chunks_and_can_be_read_again(tmp_path, monkeypatch):
    for module in (tables, readers, __import__("sot_nlp.data.json_reader", fromlist=["CHUNK"])):
        monkeypatch.setattr(module, "CHUNK", 3)
    lines = [f"text {i},{i}" for i in range(8)]
    for table in (
        open_table(write(tmp_path / "a.csv", "\n".join(["text,label", *lines]))),
        open_table(write(tmp_path / "a.jsonl", "\n".join(f'{{"text": "text {i}"}}' for i in range(8)))),
    ):
        for _ in range(2):
            chunks = list(table.rows(["text"]))
            assert [len(rows.lines) for rows in chunks] == [3, 3, 2]
            assert [text for rows in chunks for text in rows.columns[0]] == [f"text {i}" for i in range(8)]
            assert [i for rows in chunks for i in rows.indices] == list(range(8))


def test_parquet_gives_lists_and_numbers_as_they_are(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "tags": [["x"], []], "n": [1, 2]}), path)
    table = open_table(path)
    assert (table.columns, table.typed) == (("text", "tags", "n"), True)
    assert examples(table, "tags", "text", "n") == [(1, 0, ["x"], "a", 1), (2, 1, [], "b", 2)]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("folder", "columns", "counts"),
    [
        ("CoLA", ("sentence",), (8551, 1043, 1063)),
        ("RTE", ("sentence1", "sentence2"), (2490, 277, 3000)),
        ("STS-B", ("sentence1", "sentence2"), (5749, 1500, 1379)),
    ],
)
def test_glue_files_give_every_example_in_order(glue_folder, folder, columns, counts):
    for name, count in zip(("train", "dev", "test"), counts, strict=True):
        path = glue_folder / folder / f"{name}.tsv"
        headless = folder == "CoLA" and name != "test"
        table = open_table(path, header=not headless, quoting=False, num_columns=4 if headless else None)
        rows = examples(table, *([3] if headless else columns))
        lines = path.read_bytes().decode().rstrip("\n").split("\n")[0 if headless else 1 :]
        assert len(rows) == count == len(lines)
        # Its texts stand in each line as they are, the last column's at its end.
        for row, line in zip(rows, lines, strict=True):
            assert all(f"\t{text}" in line for text in row[2:])
        assert [row[1] for row in rows] == list(range(count))


FRAME = {"text": ['she said "a zorp"', "the dax", "one\ntwo", "a\tb"], "label": ["x", "y", "x", "y"]}


@pytest.mark.parametrize("rows", [slice(0, 2), slice(1, 3), slice(1, 4), slice(0, 4), slice(3, 4)])
def test_tsv_that_pandas_wrote_is_read_as_pandas_reads_it(tmp_path, rows):
    frame = pd.DataFrame(FRAME)[rows]
    for name, quotes in (("a", csv.QUOTE_MINIMAL), ("b", csv.QUOTE_ALL), ("c", csv.QUOTE_NONNUMERIC)):
        path = tmp_path / f"{name}.tsv"
        frame.to_csv(path, sep="\t", index=False, quoting=quotes)
        table = open_table(path)
        assert [row[2:] for row in examples(table, "text", "label")] == list(frame.itertuples(index=False))
        assert "--quoting false" in table.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        '"Hello."',  # a quotation, whole
        '"Hello," she said',
        'she said "hello"',
        'a 5" nail',
        '"open',
        'close"',
        '"a" and "b"',
    ],
)
def test_quotes_of_a_text_stay_in_it(tmp_path, text):
    path = write(tmp_path / "a.tsv", f"text\tlabel\nthe dax\tx\n{text}\ty\na wug\tx\n")
    table = open_table(path)
    assert [row[2] for row in examples(table, "text")] == ["the dax", text, "a wug"]
    assert table.notes == ()


def test_two_quotations_over_lines_are_no_field(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"Hello\tx\nthe dax\ty\nwug"\ty\n')
    assert [row[2] for row in examples(open_table(path), "text")] == ['"Hello', "the dax", 'wug"']


def test_flag_decides_on_quotes_and_messages_name_it(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"one\ntwo"\tx\na "b" c"\ty\n')
    with pytest.raises(UserError, match=r"line 2 has 1 column; expected 2.*: --quoting true"):
        examples(open_table(path), "text")
    write(path, 'text\tlabel\n"one\ntwo"\tx\n')
    assert examples(open_table(path, quoting=True), "text") == [(2, 0, "one\ntwo")]
    path = write(tmp_path / "a.csv", 'text,label\n"a" b,x\n')
    with pytest.raises(UserError, match="--quoting false takes quotes as characters"):
        examples(open_table(path), "text")
    assert examples(open_table(path, quoting=False), "text") == [(2, 0, '"a" b')]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "sep=,\ntext,label\na,x\n"),
        ("a.csv", "\ufeffsep=;\r\ntext;label\r\na;x\r\n"),
        ("a.csv", '"sep=;"\ntext;label\n"a";x\n'),
        ("a.csv", "sep=\t\ntext\tlabel\na\tx\n"),
        ("a.csv", "SEP=|\ntext|label\na|x\n"),
        ("a.tsv", "sep=\t\ntext\tlabel\na\tx\n"),
    ],
)
def test_spreadsheets_line_about_the_delimiter_is_no_header(tmp_path, name, content):
    table = open_table(write(tmp_path / name, content))
    assert (table.columns, examples(table, "text", "label")) == (("text", "label"), [(3, 0, "a", "x")])


PANDAS = pd.DataFrame({"text": ["a zorp", "the dax"], "label": ["x", "y"]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"data": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]}',
            "2 examples in a list under 'data'",
        ),
        ('{"version": 1,\n "rows": [{"text": "a"}]}', "1 examples in a list under 'rows'"),
        (PANDAS.to_json(), "is an object of objects"),
        (PANDAS.to_json(indent=1), "is an object of objects"),
        (PANDAS.to_json(orient="index"), "is an object of objects"),
        (PANDAS.to_json(orient="split"), 'as pandas\'s orient="split" writes'),
        (PANDAS.to_json(orient="table"), "2 examples in a list under 'data'"),
        ('{"text": ["a", "b"], "label": ["x", "y"]}', "an object of columns"),
        (PANDAS.to_json(orient="values"), "row 1 is a list|line 1 is a list"),
    ],
)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_json_around_all_examples_is_named_with_the_call_that_writes_it_right(
    tmp_path, content, message, ending
):
    with pytest.raises(
        UserError, match=rf"({message}).*df.to_json\(.*orient=\"records\", lines=True\)"
    ) as caught:
        open_table(write(tmp_path / f"a.{ending}", content))
    assert "\n" not in str(caught.value)


def test_one_example_is_json_lines(tmp_path):
    table = open_table(write(tmp_path / "a.json", '{"text": "a", "label": ["x", "y"]}'))
    assert examples(table, "text", "label") == [(1, 0, "a", ["x", "y"])]


def test_list_on_one_line_names_the_row(tmp_path):
    path = write(tmp_path / "a.json", '[{"a": 1}, {"a": 2}, {"b": 3}]')
    table = open_table(path)
    assert table.where(3) == f"{path}, row 3"
    with pytest.raises(UserError, match=r"a.json, row 3 has no 'a'"):
        examples(table, "a")
    with pytest.raises(UserError, match=r"a.json, row 3 is not JSON"):
        examples(open_table(write(path, '[{"a": 1}, {"a": 2}, {"b" 3}]')), "a")


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_columns_are_known_without_white_space_and_byte_order_marks(tmp_path, ending):
    frame = PANDAS.rename(columns={"text": "\ufefftext", "label": "label "})
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    elif ending == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)
    assert examples(open_table(path), "text", "label") == [
        (i + (2 if ending == "csv" else 1), i, *row) for i, row in enumerate(PANDAS.itertuples(index=False))
    ]
