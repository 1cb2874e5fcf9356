from pathlib import Path

import pytest

from sot_nlp.data import readers, tables
from sot_nlp.data.readers import open_table
from sot_nlp.data.tables import Table


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
        found = examples(table, *([3] if headless else columns))
        lines = path.read_bytes().decode().rstrip("\n").split("\n")[0 if headless else 1 :]
        assert len(found) == count == len(lines)
        # Its texts stand in each line as they are, the last column's at its end.
        for row, line in zip(found, lines, strict=True):
            assert all(f"\t{text}" in line for text in row[2:])
        assert [row[1] for row in found] == list(range(count))
