"""A mistake in an option of any verb is one line that names the option, the value and what is expected."""

import re
from pathlib import Path

import pytest

from lit_avg.cli import VERBS, main

ROOT = Path(__file__).parents[3]

SWEEP, LOGS, STATUS = ["sweep", "no.yaml"], ["logs", "no.yaml", "run"], ["status", "no.yaml"]
SHARD = ["shard", "--annotations", "no.json", "--out", "no"]
CHECK, REPORT = ["data", "check", "no"], ["feedback", "report", "no"]
FEEDBACK = ["feedback", "--config", "no.yaml", "--out", "no"]
CALIBRATE = ["calibrate", "--ckpt", "no"]
PLAN = ["plan", "--config", "no.yaml"]

WHOLE = ["0", "-1", "1.5", "nan", "inf", "three", "", "1e3"]
MISTAKES = [
    (SWEEP, "--jobs", "a whole number at least 1 and at most 1024", [*WHOLE, "100000000000"]),
    (SWEEP, "--poll", "a number above 0 and at most 86400", ["0", "-1", "nan", "inf", "1e12", "often", ""]),
    (STATUS, "--every", "a number above 0 and at most 86400", ["0", "-1", "nan", "inf", "1e12", "often", ""]),
    (LOGS, "--lines", "a whole number at least 1", WHOLE),
    (LOGS, "--seed", "a whole number at least 0", ["-1", "nan", "x"]),
    (SHARD, "--workers", "a whole number at least 1 and at most 1024", WHOLE),
    (SHARD, "--val-share", "a number at least 0 and below 1", ["1", "-0.1", "nan", "inf", "half"]),
    (SHARD, "--max-rejects", "a number at least 0 and at most 1", ["1.1", "-0.1", "nan", "inf", "few"]),
    (SHARD, "--shard-size-mb", "a number at least 0.001 and at most 1e+06", ["0", "-1", "nan", "inf", "1e305", "big"]),
    (SHARD, "--max-side", "a whole number at least 1", WHOLE),
    (SHARD, "--quality", "a whole number at least 1 and at most 100", [*WHOLE, "101"]),
    (CHECK, "--workers", "a whole number at least 1 and at most 1024", WHOLE),
    (CHECK, "--max-length", "a whole number at least 1", WHOLE),
    (REPORT, "--epsilon", "a number at least 0", ["-0.1", "nan", "inf", "none"]),
    (FEEDBACK, "--samples-per-part", "a whole number at least 1", WHOLE),
    (CALIBRATE, "--max-accuracy-loss", "a number at least 0 and below 1", ["-1", "1", "nan", "inf", "little"]),
    (PLAN, "--devices", "a whole number at least 1", WHOLE),
    (PLAN, "--nodes", "a whole number at least 1", WHOLE),
    (PLAN, "--memory", "a number above 0", ["0", "-1", "nan", "inf", "much"]),
    (PLAN, "--tflops", "a number above 0", ["0", "-1", "nan", "inf", "many"]),
    (PLAN, "--utilisation", "a number above 0 and at most 1", ["0", "-1", "4", "nan", "inf", "half"]),
    (PLAN, "--samples", "a whole number at least 1", WHOLE),
    (PLAN, "--text-tokens", "a whole number at least 2", [*WHOLE, "1"]),
    (PLAN, "--longest-text", "a whole number at least 2", [*WHOLE, "1"]),
    (CALIBRATE, "--budget", "a number above 0 and at most 1", ["0", "-1", "4", "nan", "inf", "half"]),
]
"""How a verb is called, one of its options, what that takes, and values that it does not."""


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a command is refused with."""
    capsys.readouterr()
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line.removeprefix("lit-avg: ")


@pytest.mark.parametrize(("command", "option", "expected", "values"), MISTAKES)
def test_a_number_that_cannot_be_meant_is_refused_before_anything_is_read(
    command: list[str], option: str, expected: str, values: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for value in values:
        told = refusal(capsys, *command, f"{option}={value}")
        assert told.startswith(f"{option} must be {expected}, but is {value} (`lit-avg {command[0]}")


def test_no_option_of_a_verb_takes_any_number_there_is() -> None:
    files = [path for package in ("lit_avg", "datamodules") for path in (ROOT / package).rglob("*.py")]
    sources = {path: path.read_text(encoding="utf-8") for path in files}
    adding = "".join(text for text in sources.values() if "VerbParser" in text)
    bounded = set(re.findall(r'add_argument\(\s*"(--[\w-]+)",\s*type=(?:whole_number|number|process_count)\(', adding))
    assert bounded == {option for _, option, _, _ in MISTAKES}, "each is among the mistakes above"
    assert [str(path) for path, text in sources.items() if re.search(r"type=(int|float)[,)]", text)] == []
    plain = r"(?<!class )(?<!Verb)\bArgumentParser\((?!exit_on_error=False)"  # one that raises tells its caller
    assert [str(path) for path, text in sources.items() if re.search(plain, text)] == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_lacks_what_it_needs_says_so_without_a_page(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = refusal(capsys, verb)
    assert "usage" not in told


def test_an_option_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, *SWEEP, "--job", "1", "--jbos", "2").startswith(
        "unrecognized arguments: --jbos 2 (`lit-avg sweep"
    )
    assert "--format: invalid choice: 'pdf'" in refusal(capsys, "table", "no.yaml", "--format", "pdf")
