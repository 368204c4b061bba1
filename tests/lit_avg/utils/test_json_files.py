"""A damaged JSON file is told by its name, its fault and what to do."""

from pathlib import Path

import pytest

from lit_avg.utils.errors import UserError
from lit_avg.utils.json_files import read_entries


def test_the_entries_are_read_as_utf_8_whatever_the_machine_prefers(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes('{"metrics": {"é": NaN}}'.encode())
    assert list(read_entries(tmp_path / "result.json", "test again", ("metrics",))["metrics"]) == ["é"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"metrics": ', r"Expecting value: line 1 column 13 \(char 12\)"),
        (b'{"a": "\xff"}', "'utf-8' codec can't decode byte 0xff"),
        (b"[1]", "it holds no named entries"),
        (b'{"metrics": {}}', "it lacks checkpoint"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_what_to_do(content: bytes, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"result\.json cannot be read \({fault}.*\); test again$"):
        read_entries(path, "test again", ("metrics", "checkpoint"))


def test_a_file_that_is_not_there_is_missed_in_its_folder(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none", Path(__file__)):
        with pytest.raises(UserError, match=rf"there is no result\.json in {folder}; test again$"):
            read_entries(folder / "result.json", "test again")
