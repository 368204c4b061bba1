"""Records are read one by one, and mistakes in a file are told or refused line by line."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from datamodules.packing.records import Records
from lit_avg.errors import UserError


def written(folder: Path, content: str | bytes, name: str = "it.json") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ["it.json", "it.jsonl", "it.txt"])
def test_the_content_tells_a_list_from_lines(tmp_path: Path, name: str) -> None:
    values: list[dict[str, Any]] = [{"id": 7}, {"id": "ü", "n": 0.5}, {"deep": [1, {"a": None}]}]
    as_list = written(tmp_path, b"\xef\xbb\xbf \n" + json.dumps(values, indent=1).encode(), name)
    assert [(record.source, record.value) for record in Records([as_list])] == [
        (f"{name}#{number}", value) for number, value in enumerate(values)
    ]
    as_lines = written(tmp_path, "\n" + "\r\n".join(json.dumps(value) for value in values) + "\n\n", name)
    assert [record.value for record in Records([as_lines])] == values


def test_several_files_follow_each_other(tmp_path: Path) -> None:
    files = [written(tmp_path, '[{"id": 1}, {"id": 2}]', "a.json"), written(tmp_path, '{"id": 3}', "b.jsonl")]
    records = Records(files)
    assert [record.source for record in records] == ["a.json#0", "a.json#1", "b.jsonl#0"]
    assert records.bytes_read == records.bytes_in_all == 22 + 9


def test_a_line_that_is_not_json_is_one_bad_record(tmp_path: Path) -> None:
    values = [record.value for record in Records([written(tmp_path, b'{"id": 1}\n{"id": \n\xff\xfe\n{"id": 4}\n')])]
    assert [type(value) for value in values] == [dict, json.JSONDecodeError, UnicodeDecodeError, dict]


@pytest.mark.parametrize("content", ['[{"id": 1}, {"id": 2', '[{"id": 1} {"id": 2}]', '[{"id": 1}, NaN]'])
def test_a_list_that_breaks_off_says_behind_how_many_records(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"it\.json is not JSON behind its first 1 records"):
        list(Records([written(tmp_path, content)]))


def test_something_else_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it\.json is not JSON: it begins with b'<'"):
        list(Records([written(tmp_path, "<html>")]))
    assert list(Records([written(tmp_path, "")])) == []


def test_a_long_list_is_never_read_whole(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps([{"id": number, "text": "x" * 1000} for number in range(5000)]))
    assert path.stat().st_size > 5_000_000
    tracemalloc.start()
    assert sum(1 for _ in Records([path])) == 5000
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
