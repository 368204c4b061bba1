"""Records are read one by one, and mistakes in a file are told or refused line by line."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from datamodules.packing.records import Records
from lit_avg.utils.errors import UserError


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


@pytest.mark.parametrize(
    "content", ['[{"id": 1}, {"id": 2', '[{"id": 1} {"id": 2}]', '[{"id": 1}, nan]', '[{"id": 1}] x', '[{"id": 1},]']
)
def test_a_list_that_breaks_off_says_behind_how_many_records(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"it\.json is not JSON behind its first 1 records"):
        list(Records([written(tmp_path, content)]))


ODD = {
    '{"id": 1, "score": NaN, "best": [Infinity, -Infinity, 1e400]}': {"id": 1, "score": math.nan},
    '{"id": %s}' % ("7" * 40): {"id": int("7" * 40)},
    '{"id": %s}' % ("7" * 5000): {"id": "7" * 5000},
    '{"id": -0, "id": 1.0}': {"id": 1.0},
    r'{"id": "bad \ud800 end"}': {"id": "bad \ud800 end"},
    r'{"id": "\ud83d\ude00"}': {"id": "😀"},
    "NaN": math.nan,
    "12": 12,
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return all(same(one[key], other[key]) for key in one)
    return one == other or (one != one and other != other)


@pytest.mark.parametrize("text", ODD)
def test_a_record_means_the_same_in_a_list_and_on_a_line(tmp_path: Path, text: str) -> None:
    as_lines = written(tmp_path, f'{{"id": 0}}\n{text}\n{{"id": 2}}\n', "lines.json")
    as_list = written(tmp_path, f'[{{"id": 0}}, {text} , {{"id": 2}}]', "list.json")
    for path in (as_lines, as_list):
        first, odd, last = [record.value for record in Records([path])]
        assert (first, last) == ({"id": 0}, {"id": 2})
        assert same(ODD[text], odd)
        assert type(odd) is type(ODD[text])


def test_text_that_is_no_utf8_spoils_its_own_record_alone_in_a_list_and_on_a_line(tmp_path: Path) -> None:
    records = [b'{"id": "\xc3\xbc"}', b'{"id": "\xe9"}', b'{"id": "\xed\xa0\x80"}', b'{"id": 4}']
    for content in (b"\n".join(records), b"[" + b",".join(records) + b"]"):
        values = [record.value for record in Records([written(tmp_path, content)])]
        assert [type(value) for value in values] == [dict, UnicodeDecodeError, UnicodeDecodeError, dict]
        assert values[0] == {"id": "ü"}


@pytest.mark.parametrize("size", [2**16 - 30, 2**16 - 11, 2**16 - 10, 2**16, 2**17, 300_000])
def test_records_may_lie_across_the_pieces_that_a_list_is_read_in(tmp_path: Path, size: int) -> None:
    values = [{"id": "ü" * (size // 2)}, 123456, {"id": "x" * size}, 7]
    path = written(tmp_path, json.dumps(values, ensure_ascii=False))
    assert [record.value for record in Records([path])] == values
    (nested := tmp_path / "empty.json").write_text(" [ ] \n")
    assert list(Records([nested])) == []


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
