import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lit_avg.commands import sweep as sweep_command
from lit_avg.studies.runs.plan import plan, value_arguments
from lit_avg.studies.spec.axes import substituted
from lit_avg.studies.spec.overrides import Run
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.errors import UserError
from tests.lit_avg.studies.toy_command import toy_command

WriteStudy = Callable[..., Path]

ROUTED = {"run": "second", "policy": "router"}


def sweep(study: Path, *options: str) -> int:
    return sweep_command.main([str(study), *options], toy_command)


def with_rows(write_study: WriteStudy, rows: dict[str, object], **changes: object) -> Path:
    return write_study(rows={"router": ROUTED, **rows}, reference="router", **changes)


def names(study: Path) -> list[str]:
    return [run.name for run in plan(load_study(study))]


def test_an_axis_makes_a_row_and_a_run_for_each_of_its_values(write_study: WriteStudy) -> None:
    row = {**ROUTED, "set": {"k": "{k}"}}
    study = load_study(with_rows(write_study, {"k {k}": row}, axes={"k": [0, 8]}))
    assert [(row.name, dict(row.axes), row.run) for row in study.rows[1:]] == [
        ("k 0", {"k": 0}, "second@k=0/second"),
        ("k 8", {"k": 8}, "second@k=8/second"),
    ]
    last = plan(study)[-1]
    assert last.commands[0][-4:] == ("--k", "8", "--resume", "auto")
    assert last.parents == (study.out / "seed-0" / "first",)
    assert last.links == ((study.out / "seed-0" / "second@k=8" / "first", study.out / "seed-0" / "first"),)


def test_an_axis_leaves_an_entry_of_the_config_with_its_name_alone() -> None:
    content = {"at": "${k}/{k}", "k of {k}": ["{k}", "k", "{j}"]}
    assert substituted(content, {"k": 8}) == {"at": "${k}/8", "k of 8": [8, "k", "{j}"]}


def test_an_axis_may_have_any_name_and_be_all_of_a_rows_own(write_study: WriteStudy) -> None:
    rows = {"{α}": {**ROUTED, "set": {"k": "{α}"}}, "x": {**ROUTED, "set": {"at": "${α}"}}}
    study = load_study(with_rows(write_study, rows, axes={"α": [0, 8]}))
    assert [row.name for row in study.rows] == ["router", "0", "8", "x"]


def test_changes_that_are_called_alike_have_folders_of_their_own(write_study: WriteStudy) -> None:
    rows = {name: {**ROUTED, "set": {f"model.{name}.alpha": 1}} for name in ("llm", "router2")}
    assert names(with_rows(write_study, rows))[-2:] == ["second@alpha=1/second", "second@model.router2.alpha=1/second"]


def test_a_value_that_begins_with_a_dash_is_tied_to_its_option() -> None:
    values = (("alpha", -1e-05), ("k", 8), ("name", "--x"))
    assert value_arguments(Run("r", (), values=values)) == ["--alpha=-1e-05", "--k", "8", "--name=--x"]


def test_axes_multiply_and_a_row_uses_only_those_it_names(write_study: WriteStudy) -> None:
    rows = {
        "{k}, {accuracy}": {**ROUTED, "set": {"k": "{k}", "accuracy": "{accuracy}"}},
        "fixed {level}": {"run": "second", "policy": "fixed {level}"},
    }
    axes = {"k": [0, 8], "accuracy": [0.1, 0.2], "level": [4, 64]}
    study = load_study(with_rows(write_study, rows, axes=axes))
    grid = ["0, 0.1", "0, 0.2", "8, 0.1", "8, 0.2"]
    assert [row.name for row in study.rows] == ["router", *grid, "fixed 4", "fixed 64"]
    assert [row.policy for row in study.rows[-2:]] == ["fixed 4", "fixed 64"]


def test_a_row_that_touches_an_early_stage_branches_from_there_and_shares_what_is_before(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    (tmp_path / "other.yaml").write_text("accuracy: 0.7\n")
    runs = {
        "first": {"configs": ["first.yaml"]},
        "second": {"configs": ["second.yaml"], "after": ["first"]},
        "third": {"configs": ["third.yaml"], "after": ["second"], "test": True},
    }
    other = {"run": "third", "policy": "router", "overlays": ["other.yaml"], "stages": ["second"]}
    rows = {"router": {"run": "third", "policy": "router"}, "other": other}
    study = load_study(write_study(runs=runs, rows=rows, reference="router"))
    branch = f"second@{tmp_path.name}.other"
    assert list(study.runs) == ["first", "second", "third", f"{branch}/second", f"{branch}/third"]
    assert study.runs[f"{branch}/second"].after == ("first",)
    assert study.runs[f"{branch}/third"].after == (f"{branch}/second",)
    assert study.runs[f"{branch}/third"].configs == study.runs["third"].configs
    assert study.runs[f"{branch}/third"].links == ()  # its parent lies beside it, where its config looks


def test_rows_that_change_the_same_share_their_runs(write_study: WriteStudy) -> None:
    rows = {name: {**ROUTED, "policy": policy, "set": {"k": 3}} for name, policy in (("a", "router"), ("b", "fixed 4"))}
    assert names(with_rows(write_study, rows)) == ["first", "second", "third", "second@k=3/second"]


def test_what_comes_to_the_same_config_is_one_run_and_is_made_once(write_study: WriteStudy, tmp_path: Path) -> None:
    (tmp_path / "second.yaml").write_text("model: second\nk: 8\n")
    study = with_rows(write_study, {"k {k}": {**ROUTED, "set": {"k": "{k}"}}}, axes={"k": [0, 8]})
    assert sweep(study) == 0
    assert names(study) == ["first", "second", "third", "second@k=0/second"]
    rows = {row.name: row.run for row in load_study(study).rows}
    assert rows == {"router": "second", "k 0": "second@k=0/second", "k 8": "second"}
    assert not (tmp_path / "out" / "seed-0" / "second@k=8").exists()
    linked = tmp_path / "out" / "seed-0" / "second@k=0" / "first"
    assert linked.is_symlink()
    assert (linked / "result.json").is_file()


def test_a_value_moved_from_one_file_to_another_changes_nothing(write_study: WriteStudy, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("accuracy: 0.9\n")
    runs = {"first": {"configs": ["first.yaml", "more.yaml"]}, "second": {"configs": ["second.yaml"], "test": True}}
    assert sweep(write_study(runs=runs)) == 0
    (tmp_path / "first.yaml").write_text("model: first\naccuracy: 0.9\n")
    (tmp_path / "more.yaml").write_text("{}\n")
    assert sweep(write_study(runs=runs)) == 0
    assert (tmp_path / "out" / "seed-0" / "first" / "calls.txt").read_text() == "fit\n"


def test_an_edited_row_is_made_anew_and_nothing_else(write_study: WriteStudy, tmp_path: Path) -> None:
    rows = {"a": {**ROUTED, "set": {"k": 1}}, "b": {**ROUTED, "set": {"k": 2}}}
    assert sweep(with_rows(write_study, rows)) == 0
    rows["b"] = {**ROUTED, "set": {"k": 5}}
    assert sweep(with_rows(write_study, rows)) == 0
    calls = {path.parent.relative_to(tmp_path / "out" / "seed-0") for path in tmp_path.rglob("calls.txt")}
    assert {str(path) for path in calls} == {
        "first",
        "second",
        "third",
        *(f"second@k={k}/second" for k in (1, 2, 5)),
    }
    assert all(path.read_text() in ("fit\n", "fit\ntest\n") for path in tmp_path.rglob("calls.txt"))


def test_a_typo_in_an_overlay_stops_the_sweep_before_it_starts_and_names_file_and_line(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    (tmp_path / "typo.yaml").write_text("# a remark\nalhpa: 3\n")
    (tmp_path / "other.yaml").write_text("modle: 3\n")
    (tmp_path / "toy.yaml").write_text("nested: 1\n")
    rows = {name: {**ROUTED, "overlays": [f"{name}.yaml"]} for name in ("typo", "other", "toy")}
    rows["a"] = {"run": "second", "policy": "fixd 4"}
    with pytest.raises(UserError) as raised:
        sweep(with_rows(write_study, rows))
    first, *told = str(raised.value).splitlines()
    assert first.endswith("3 mistake(s):")
    assert len(told) == 3
    assert f"{tmp_path}/typo.yaml:2: Option 'alhpa' is not accepted" in told[0]
    assert f"{tmp_path}/other.yaml:1: Option 'modle' is not accepted" in told[1]
    assert "rows.a.policy: there is no policy 'fixd 4'" in told[2]
    assert list((tmp_path / "out").rglob("calls.txt")) == []


def test_policies_and_columns_that_no_run_will_have_are_told_with_their_line(write_study: WriteStudy) -> None:
    study = with_rows(write_study, {"a": {"run": "second", "policy": "fixd 4"}}, columns=["accuracy", "visual_tokens"])
    lines = study.read_text().splitlines()
    with pytest.raises(UserError) as raised:
        sweep(study)
    said = str(raised.value)
    assert "rows.a.policy: there is no policy 'fixd 4'; there are router, fixed 4, fixed 64" in said
    assert f"({study}:{1 + lines.index('    policy: fixd 4')})" in said
    assert "columns: there is no metric 'visual_tokens' in second" in said


def test_mistakes_in_a_row_are_told(write_study: WriteStudy) -> None:
    rows = {
        "a": {**ROUTED, "set": {"k": "{k}"}},  # its name does not tell one from the other
        "b": {**ROUTED, "set": {"k": 1}, "stages": ["third"]},
        "c": {**ROUTED, "stages": ["second"]},
        "d": {**ROUTED, "overlays": ["nowhere.yaml"]},
        "f {k}": {**ROUTED, "set": {"k": "{k}"}, "reference": "g {k}"},
        "e {q}": {**ROUTED, "set": {"root": "${run_root}/{j2}"}},
    }
    with pytest.raises(UserError) as raised:
        load_study(with_rows(write_study, rows, axes={"k": [1, 2], "j": 3}))
    said = str(raised.value)
    for expected in (
        "axes.j: must be a list of values, but is 3",
        "rows.a: there are two rows 'a'",
        "rows.b.stages: 'third' is not on the way to second",
        "rows.c.stages: is there without `overlays` or `set`",
        "rows.d: there is no config file",
        "rows.f {k}.reference: there is no row 'g 1'",
        "rows.e {q}: there is no axis {q}; there are {k}",
        "rows.e {q}: there is no axis {j2}; there are {k}",
    ):
        assert expected in said, expected
    assert "{run_root}" not in said


def test_a_dry_run_tells_what_is_shared_done_and_to_do_and_starts_nothing(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = with_rows(write_study, {"k {k}": {**ROUTED, "set": {"k": "{k}"}}}, axes={"k": [0, 8]})
    assert sweep(study, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "first (seed 0)" in printed
    assert "shared by 3 rows" in printed
    # three rows of two runs each would be 6 runs; first is shared, and third is in no row
    assert "5 runs for 3 rows x 1 seed(s) (6 if nothing were shared), 0 done, 5 to do" in printed
    assert list(tmp_path.rglob("calls.txt")) == []
    assert "FLOPs" not in printed
    (path,) = tmp_path.rglob("checked.json")
    known = {
        source: entry | {"flops": {"fit": 3600e12, "test": 0}} for source, entry in json.loads(path.read_text()).items()
    }
    path.write_text(json.dumps(known))  # an hour of 1 TFLOP/s
    assert sweep(study, "--dry-run", "--gpu", "3090", "--utilisation", str(1 / 71)) == 0
    printed = capsys.readouterr().out
    assert printed.count("about 1.0 hours by its FLOPs") == 5
    assert "by FLOPs, on 3090 at 1%: 5.0 hours for 5 runs, one after the other" in printed
    assert sweep(study) == 0
    more = with_rows(write_study, {"k {k}": {**ROUTED, "set": {"k": "{k}"}}}, axes={"k": [0, 8, 9]})
    capsys.readouterr()
    assert sweep(more, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "5 done, 1 to do; about 0:0" in printed
    assert [line for line in printed.splitlines() if line.startswith("second@k=9/second (seed 0)  would run")]


def test_other_data_makes_another_run(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study()
    assert sweep(study) == 0
    before = {run.name: run.identity for run in plan(load_study(study))}
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")
    path = tmp_path / "out" / "checked.json"
    checked = json.loads(path.read_text())
    path.write_text(
        json.dumps({source: entry | {"manifests": {str(manifest): "another"}} for source, entry in checked.items()})
    )
    after = {run.name: run.identity for run in plan(load_study(study))}
    assert not set(before.values()) & set(after.values())


def test_the_code_counts_where_asked(write_study: WriteStudy) -> None:
    one, other = (load_study(write_study(code=code)) for code in (False, True))
    assert not {run.identity for run in plan(one)} & {run.identity for run in plan(other)}
    assert yaml.safe_load(other.path.read_text())["code"] is True
