"""One rule for what an unquoted value is: in studies, in stages' configs, in data checks and on the command line."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from datamodules.checking.configs import measure_settings_of
from lit_avg.commands.fit import TrainingCLI
from lit_avg.config.parser import TrainingParser
from lit_avg.studies.spec.config_files import config_content
from lit_avg.utils.errors import UserError
from lit_avg.utils.yaml_reader import StrictLoader, dump_yaml, read_yaml

ROOT = Path(__file__).parents[3]

TEXT = ["4:00:00", "1:30", "1:30.5", "190:20:30", "1-0", "2024-01-02", "1-00:00:00", "00:30", "1.0.0", "y", "n", "nan"]
TEXT += ["inf", "a_1", "_1", "=", "Yes please", "${run_root}/x"]

PLAIN: dict[str, Any] = dict.fromkeys(["null", "~", ""]) | {text: text for text in TEXT}
PLAIN |= {
    "true": True,
    "TRUE": True,
    "False": False,
    "'yes'": "yes",
    '"010"': "010",
    "'1e-5'": "1e-5",
    "'null'": "null",
}
PLAIN |= {"10": 10, "-0": 0, "+1": 1, "0x1F": 31, "0o17": 15, "1" * 40: int("1" * 40), ".inf": math.inf}
PLAIN |= {"1e-5": 1e-5, "1e-3": 1e-3, "12e03": 12e3, "1e5": 1e5, ".5": 0.5, "1.": 1.0, "-1.5e+3": -1500.0, "01.5": 1.5}

UNCLEAR = ["yes", "Yes", "NO", "on", "Off", "010", "08", "00", "-07", "0b11", "1_000", "1_0.5", "0x1_0", "-0x10"]
UNCLEAR += ["2024_01", "1_", "1e400", "-1e999", "!!int 4:00", "!!bool on", "!!timestamp 2024-01-02", "!!set {a}"]
UNCLEAR += ["{[1]: 2}", "{{k}: 2}", "{a: 1, 'a': 2}", "{1: 1, '1': 2}", "&a {x: *a}", "!!python/name:os.system"]


def written(folder: Path, text: str, name: str = "it.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", PLAIN)
def test_an_unquoted_value_is_what_yaml_1_2_takes_it_for(tmp_path: Path, text: str) -> None:
    value = read_yaml(written(tmp_path, f"deep:\n- it: {text}\n"))["deep"][0]["it"]
    assert (value, type(value)) == (PLAIN[text], type(PLAIN[text]))


@pytest.mark.parametrize("text", UNCLEAR)
@pytest.mark.parametrize("read", [read_yaml, config_content, lambda path: measure_settings_of([path])])
def test_what_cannot_be_clear_is_refused_with_its_line_by_every_reader(tmp_path: Path, text: str, read: Any) -> None:
    path = written(tmp_path, f"# one\nfirst: 1\nsecond:\n  deep: {text}\n")
    with pytest.raises(UserError, match=r"it\.yaml:4: no valid YAML: "):
        read(path)


def test_keys_are_texts_as_they_are_written(tmp_path: Path) -> None:
    names = ["no", "on", "true", "1", "1.0", "010", "null", "~", "1e5", "2024-01-02", "4:00"]
    assert list(read_yaml(written(tmp_path, "".join(f"{name}: 1\n" for name in names)))) == names


def test_merged_entries_are_no_twins_and_twins_within_them_are(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b\n  <<: *a\n  x: 2\nc: {<<: [*a, *b], y: 3}\n"
    content = read_yaml(written(tmp_path, text))
    assert (content["b"], content["c"]) == ({"x": 2, "y": 1}, {"x": 1, "y": 3})
    with pytest.raises(UserError, match=r"it\.yaml:5: no valid YAML: 'x' is there already, in line 4"):
        read_yaml(written(tmp_path, "a: &a {x: 1}\nb:\n  <<: *a\n  x: 2\n  x: 3\n"))


TEXTS = st.sampled_from([*(text.strip("'\"") for text in PLAIN), *UNCLEAR]) | st.text(
    st.sampled_from("0123456789.eExXobyYnNoOfF+-_:~ =<{}[]'\"#%&*!|>tTruUlLaAsS\n"), max_size=8
)


@given(st.dictionaries(TEXTS, TEXTS | st.floats(allow_nan=False) | st.integers() | st.booleans() | st.none()))
def test_what_is_written_is_read_back_as_it_was_by_this_and_by_other_readers(content: dict[str, Any]) -> None:
    text = dump_yaml(content)
    assert yaml.load(text, StrictLoader) == content
    assert list(yaml.safe_load(text).values()) == list(content.values())


def parser() -> TrainingParser:
    made = TrainingParser(parser_mode="omegaconf+")
    made.add_argument("--config", action="config")
    made.add_argument("--number", type=int | None)
    made.add_argument("--rate", type=float | None)
    made.add_argument("--switch", type=bool | None)
    made.add_argument("--name", type=str | None)
    made.add_argument("--free", type=dict[str, Any] | None)
    return made


@pytest.mark.parametrize("quote", ["", "'"])
@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("number", "1:30"),
        ("number", "1_000"),
        ("number", "1e2"),
        ("rate", "1:30.5"),
        ("switch", "yes"),
        ("switch", "on"),
    ],
)
def test_no_field_of_a_config_takes_a_text_for_a_number_or_a_switch(
    tmp_path: Path, option: str, text: str, quote: str
) -> None:
    for arguments in (
        ["--config", str(written(tmp_path, f"{option}: {quote}{text}{quote}\n"))],
        [f"--{option}", text],
        [f"--{option}={text}"],
    ):
        with pytest.raises(UserError):
            parser().parse_args(arguments)


def test_the_fields_of_a_config_have_what_was_written(tmp_path: Path) -> None:
    text = "number: 0x10\nrate: 1e-5\nswitch: true\nname: 1:12:00:00\nfree: {a: 4:00, no: 1-0, 1: 2e3}\n"
    read = parser().parse_args(["--config", str(written(tmp_path, text))])
    assert (read.number, read.rate, read.switch, read.name) == (16, 1e-5, True, "1:12:00:00")
    assert read.free == {"a": "4:00", "no": "1-0", "1": 2000.0}
    said = parser().parse_args(["--number", "0x10", "--rate", "1e-5", "--switch", "true", "--name", "1:12:00:00"])
    assert (said.number, said.rate, said.switch, said.name) == (16, 1e-5, True, "1:12:00:00")
    assert parser().parse_args(["--config", str(written(tmp_path, read_back(parser().dump(read))))]).free == read.free


def read_back(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("config:"))


@pytest.mark.parametrize("text", ["trainer:\n  max_steps: 3\n  max_steps: 4\n", "trainer:\n  x: 1\n  max_steps: 010\n"])
def test_a_training_names_the_line_also_in_a_file_that_its_config_names(tmp_path: Path, text: str) -> None:
    inner, outer = written(tmp_path, text, "inner.yaml"), written(tmp_path, "model: inner.yaml\n")
    for config in (inner, outer):
        with pytest.raises(UserError, match=r"inner\.yaml:3: no valid YAML: "):
            TrainingCLI(["fit", "--config", str(config)])


def test_every_config_that_ships_means_the_same_to_readers_of_yaml_1_1() -> None:
    for path in sorted((ROOT / "experiments").rglob("*.yaml")):
        assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8")), path
