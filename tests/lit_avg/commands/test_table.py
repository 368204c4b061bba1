import csv
import io
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lit_avg.commands import sweep as sweep_command
from lit_avg.commands import table as table_command
from lit_avg.studies.report.table import sheet_of
from lit_avg.studies.report.table_formats import as_csv, as_markdown
from lit_avg.studies.spec.study import load_study
from tests.lit_avg.studies.toy_command import toy_command

WriteStudy = Callable[..., Path]

HALVES = [0.5 * (0.5 + seed / 100) for seed in (0, 1, 2)]  # what the toy command says of the router
WHOLES = [2 * half for half in HALVES]  # and of the finest level


def swept(study: Path) -> Path:
    assert sweep_command.main([str(study)], toy_command) == 0
    return study


def test_the_csv_holds_mean_and_sample_deviation_of_every_metric(write_study: WriteStudy) -> None:
    study = load_study(swept(write_study(seeds=[0, 1, 2])))
    router, fixed = csv.DictReader(io.StringIO(as_csv(sheet_of(study))))
    assert list(router)[:4] == ["row", "n", "accuracy", "accuracy:sd"]
    assert (router["row"], fixed["row"], router["n"]) == ("router", "fixed 64", "3")
    assert float(router["accuracy"]) == pytest.approx(statistics.fmean(HALVES))
    assert float(router["accuracy:sd"]) == pytest.approx(0.005)
    assert float(fixed["token_share"]) == 1
    assert (study.out / "table.csv").read_text() == as_csv(sheet_of(study))


def test_one_seed_has_no_deviation(write_study: WriteStudy) -> None:
    study = load_study(swept(write_study()))
    router, _ = csv.DictReader(io.StringIO(as_csv(sheet_of(study))))
    assert (router["n"], router["accuracy"], router["accuracy:sd"]) == ("1", "0.25", "")


def test_people_read_percent_the_difference_to_the_reference_and_where_numbers_come_from(
    write_study: WriteStudy,
) -> None:
    study = load_study(swept(write_study(seeds=[0, 1, 2])))
    lines = as_markdown(sheet_of(study)).splitlines()
    assert lines[0] == "| row | n | accuracy | tokens_per_tile | token_share | accuracy − fixed 64 | token speed-up |"
    assert lines[2] == "| router | 3 | 25.5 ± 0.5 | 32.0 ± 0.0 | 50.0 ± 0.0 | -25.5 ± 0.5 | – |"
    assert lines[3] == "| fixed 64 | 3 | **51.0** ± 1.0 | 64.0 ± 0.0 | 100.0 ± 0.0 | reference | reference |"
    assert lines[-1] == f"- config {study.path} · seeds 0, 1, 2 · commit 0123456789 with changes · data da7a"


def test_rows_that_are_not_finished_are_shown_as_such(write_study: WriteStudy) -> None:
    swept(write_study(seeds=[0]))
    partly = as_markdown(sheet_of(load_study(write_study(seeds=[0, 1]))))
    assert "| router | 1 of 2 | 25.0 |" in partly
    nothing = as_markdown(sheet_of(load_study(write_study(seeds=[7]))))
    assert "| router | 0 of 1 | not finished | – | – | – | – |" in nothing


def test_a_run_made_with_another_config_is_not_taken_for_the_present_one(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    study = swept(write_study())
    (tmp_path / "second.yaml").write_text("accuracy: 0.9\n")
    assert "not finished" in as_markdown(sheet_of(load_study(study)))


def test_a_metric_that_no_result_has_leaves_its_cell_empty(write_study: WriteStudy) -> None:
    study = swept(write_study(columns=["accuracy", "accuracy/nowhere"]))
    assert "| router | 1 | 25.0 | – | -25.0 |" in as_markdown(sheet_of(load_study(study)))


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv"])
def test_the_command_prints_every_row_whole_when_piped(
    form: str, write_study: WriteStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = [f"accuracy/a-kind-with-a-long-name-{number}" for number in range(12)]
    study = write_study(columns=columns)
    assert table_command.main([str(study), "--format", form]) == 0
    printed = capsys.readouterr().out
    shown = printed.replace("\\_", "_")
    assert all(column in shown for column in columns)
    assert [row for row in ("router", "fixed 64") if row not in printed] == []


def test_a_table_needs_no_torch_and_no_matplotlib(write_study: WriteStudy) -> None:
    code = "import sys; from lit_avg.cli import main; assert main(['table', sys.argv[1]]) == 0;"
    code += "sys.exit(' '.join({'torch', 'lightning', 'matplotlib', 'pandas'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code, str(write_study())], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_study_file_that_is_no_yaml_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lit_avg.cli import main

    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump({"seeds": [0]}) + "runs: [")
    assert main(["table", str(path)]) == 2
    assert f"lit-avg: {path}:4: no valid YAML" in capsys.readouterr().err
