import math
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lit_avg.studies.runs.plan import plan
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.errors import UserError
from lit_avg.utils.yaml_reader import read_yaml

WriteStudy = Callable[..., Path]

ROUTER = {"run": "second", "policy": "router"}


def test_runs_come_after_those_they_need_whatever_the_order_in_the_file(write_study: WriteStudy) -> None:
    names = [run.name for run in plan(load_study(write_study(seeds=[3, 5])))]
    assert names == ["first", "second", "third"] * 2


def test_a_run_is_fitted_in_a_folder_of_its_own_and_tested_only_if_asked(write_study: WriteStudy) -> None:
    study = load_study(write_study(seeds=[3]))
    first, second, _ = plan(study)
    assert first.directory == study.out / "seed-3" / "first"
    assert second.parents == (first.directory,)
    shared = ("--config", str(study.path.parent / "first.yaml"), "--run_root", str(study.out / "seed-3"))
    shared += ("--trainer.default_root_dir", str(first.directory), "--seed_everything", "3")
    assert first.commands == (("fit", *shared, "--resume", "auto"),)
    assert [command[0] for command in second.commands] == ["fit", "test"]


def test_every_mistake_in_a_study_is_told_at_once(write_study: WriteStudy) -> None:
    path = write_study(
        runs={
            "first": {"configs": ["nowhere.yaml"], "confgs": []},
            "second": {"configs": "second.yaml", "after": ["zeroth"], "test": 1},
        },
        rows={"router": {"run": "first", "policy": "router"}, "oracle": {"run": "fourth"}},
        columns=[],
        reference="best",
        seeds=[0, "one"],
        colour="red",
    )
    with pytest.raises(UserError) as raised:
        load_study(path)
    first, *mistakes = str(raised.value).splitlines()
    assert str(path) in first
    expected = [
        "runs.first: there is no config file",
        "runs.first.confgs: is not a key",
        "runs.second.configs: must be a list of config files",
        "runs.second.after: there is no run 'zeroth'",
        "runs.second.test: must be true or false",
        "rows.router.run: first is never tested",
        "rows.oracle.run: there is no run 'fourth'",
        "rows.oracle.policy: is missing",
        "columns: must be a list",
        "reference: there is no row 'best'",
        "seeds: must be a list of whole numbers",
        "colour: is not a key",
    ]
    for beginning in expected:
        assert [mistake for mistake in mistakes if mistake.strip().startswith(beginning)], beginning
    assert len(mistakes) == len(expected)


def test_runs_that_wait_for_each_other_are_refused(write_study: WriteStudy) -> None:
    circle = {name: {"configs": ["first.yaml"], "after": [other]} for name, other in (("a", "b"), ("b", "a"))}
    with pytest.raises(UserError, match=r"each waits for the other: (a -> b -> a|b -> a -> b)"):
        load_study(write_study(runs=circle))


def test_a_study_may_add_runs_and_rows_to_another(write_study: WriteStudy, tmp_path: Path) -> None:
    base = load_study(write_study())
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "gumbel.yaml").write_text("model: gumbel\n")
    path = tmp_path / "more" / "seeds.yaml"
    more = {
        "extends": "../study.yaml",
        "seeds": [0, 1],
        "runs": {"gumbel": {"configs": ["gumbel.yaml"], "after": ["first"], "test": True}},
        "rows": {"gumbel": {"run": "gumbel", "policy": "router"}},
    }
    path.write_text(yaml.safe_dump(more))
    study = load_study(path)
    assert list(study.runs) == ["first", "second", "third", "gumbel"]
    assert [row.name for row in study.rows] == ["router", "fixed 64", "gumbel"]
    assert study.runs["first"].configs == base.runs["first"].configs
    assert (study.seeds, study.columns) == ((0, 1), base.columns)


def test_a_key_that_is_there_twice_is_told_with_both_lines(write_study: WriteStudy, tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("model: first\nlr: &rate 1\nwarmup: *rate\nmodel: second\n")
    with pytest.raises(UserError, match=r"first\.yaml:4: no valid YAML: 'model' is there already, in line 1"):
        load_study(write_study())


def test_of_a_study_that_extends_a_missing_one_that_alone_is_told(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("out: here\nextends: base.yaml\n")
    with pytest.raises(UserError) as raised:
        load_study(tmp_path / "study.yaml")
    assert str(raised.value) == f"{tmp_path}/study.yaml:2: extends: there is no study {tmp_path}/base.yaml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"model: \xe9\n", "first.yaml is no valid YAML: 'utf-8' codec"),
        (b"model: first.yaml\n", "first.yaml names itself, or a file that leads back to it"),
    ],
)
def test_a_config_that_cannot_be_read_is_told(text: bytes, said: str, write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study()
    (tmp_path / "first.yaml").write_bytes(text)
    with pytest.raises(UserError, match=said):
        load_study(study)


def test_dates_and_keys_like_on_are_texts_and_merged_keys_are_no_twins(write_study: WriteStudy, tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("on: 3\nday: 2024-01-02\nother: 2024-13-45\n")
    merged = "a: &a {x: 1}\ntop: {deep: {b: &b {<<: *a, x: 2}}}\nc: {<<: *b}\n"
    (tmp_path / "second.yaml").write_text(merged)
    load_study(write_study())
    assert read_yaml(tmp_path / "first.yaml") == {"on": 3, "day": "2024-01-02", "other": "2024-13-45"}
    assert read_yaml(tmp_path / "second.yaml")["c"] == {"x": 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runs": {}, "rows": {}}, "runs: must not be empty"),
        ({"runs": {"../x": {"configs": ["first.yaml"]}}}, r"runs.../x: cannot be the name of a folder"),
        ({"seeds": [-1]}, r"seeds: must be from 0 to 4294967295, but one is -1"),
        ({"axes": {"k": [1, 2]}}, r"axes.k: no row says {k}"),
        ({"threads": 0}, "threads: must be at least 1, but is 0"),
        ({"columns": ["tokens_per_tile/number"]}, "there is no metric 'tokens_per_tile/number'"),
        ({"axes": {"k": [1, 1.0]}}, "axes.k: each value may be there once"),
        ({"out": ""}, r"out: is empty; give a folder"),
        ({"out": " ", "runs_in": ""}, r"runs_in: is empty; give a folder"),
        ({"out": "/"}, r"out: is /, which holds the folder .* that the command is called from"),
        ({"out": ".."}, r"out: is .*, which holds the folder .* that the command is called from"),
        ({"out": "../../x"}, r"out: leads to .*/x, far from .*; write the whole path if that is meant"),
        ({"runs_in": "../../../../../../../../x"}, r"runs_in: leads to /x, far from"),
        ({"out": __file__}, r"out: is .*\.py, which is a file and no folder"),
        ({"columns": None}, r"columns: is missing; give a list of names of metrics"),
        ({"seeds": None}, r"seeds: is missing; give a list of whole numbers"),
        ({"columns": ["accuracy/"]}, r"columns: 'accuracy/' names no kind of questions"),
        ({"columns": ["selected"]}, r"columns: 'selected' is the share of a level, by its tokens: `selected/144`"),
        ({"runs": {"": {"configs": ["first.yaml"]}}}, r"runs.: cannot be the name of a folder"),
        (
            {"rows": {"a {b}": ROUTER}},
            r"rows.a {b}: there is no axis {b}; give its values, as in `axes: {b: \[1, 2\]}`",
        ),
        ({"rows": {"a": ROUTER | {"set": {"x": "{b}"}}}}, r"rows.a: there is no axis {b}"),
        (
            {"rows": {"a": ROUTER | {"set": {"x": {"b": None}}}}},
            r"rows.a.set.x: {b} without quotes is no text; write '{b}'",
        ),
        (
            {"rows": {"a": ROUTER | {"paper": {"tokens_per_tile": math.inf}}}},
            r"rows.a.paper.*: must be a number, but is inf",
        ),
        (
            {"axes": {"b": [1]}, "runs": {"first": {"configs": ["first.yaml"], "set": {"x": "{b}"}}}},
            r"runs.first: {b} is filled in in rows alone",
        ),
        *(
            ({"slurm": {"time": time}}, "slurm.time: must be")
            for time in ("1:30", "4", "1-24", "1:60:00", "x", 0, -5, 1.5)
        ),
        *(
            ({"slurm": {key: -1}}, f"slurm.{key}: must be at least")
            for key in ("nodes", "tasks", "gpus", "cpus", "memory")
        ),
        ({"slurm": {"signal": 0}}, "slurm.signal: must be at least 1, but is 0"),
    ],
)
def test_what_a_study_cannot_be_is_told(changes: dict[str, object], said: str, write_study: WriteStudy) -> None:
    with pytest.raises(UserError, match=said):
        load_study(write_study(**changes))


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        *(("4:00:00", 240), ("72:00:00", 4320), ("0:30:01", 31), ("'4:00:00'", 240), ("90", 90), ("0x10", 16)),
        *(("1-00:00:00", 1440), ("1-0", 1440), ("2-12:30", 3630), ("1-23", 2820)),
    ],
)
def test_the_time_of_a_job_is_what_was_written_with_quotes_or_without(
    time: str, minutes: int, write_study: WriteStudy
) -> None:
    path = write_study()
    path.write_text(path.read_text() + f"slurm: {{time: {time}}}\n")
    assert load_study(path).slurm.time == minutes


def test_rows_and_runs_are_called_what_their_keys_say(write_study: WriteStudy) -> None:
    path = write_study(rows={}, runs={}, reference=None)
    names = ["no", "1", "1.0", "~", "null", "010", "1e5", "2024-01-02", "4:00"]
    runs = "".join(f"  {name}: {{configs: [first.yaml], test: true}}\n" for name in names)
    rows = "".join(f"  {name}: {{run: '{name}', policy: router}}\n" for name in names)
    text = path.read_text().replace("runs: {}\n", f"runs:\n{runs}").replace("rows: {}\n", f"rows:\n{rows}")
    path.write_text(text)
    study = load_study(path)
    assert [row.name for row in study.rows] == names


def test_a_study_that_extends_itself_or_more_than_one_is_told(write_study: WriteStudy, tmp_path: Path) -> None:
    path = write_study(extends="study.yaml")
    with pytest.raises(UserError, match=r"study\.yaml:\d+: extends: this is the study itself; name the one it adds to"):
        load_study(path)
    (tmp_path / "second.yaml").write_text("extends: study.yaml\n")
    (tmp_path / "other.yaml").write_text("extends: second.yaml\n")
    with pytest.raises(
        UserError, match=r"extends: .*second\.yaml has an `extends` of its own, study\.yaml, and only one"
    ):
        load_study(tmp_path / "other.yaml")


@pytest.mark.parametrize("after", [["nowhere"], ["third"]])
def test_rows_that_change_a_run_without_a_way_to_it_leave_the_mistake_to_be_told(
    after: list[str], write_study: WriteStudy
) -> None:
    runs = {
        "second": {"configs": ["second.yaml"], "after": after, "test": True},
        "third": {"configs": ["third.yaml"], "after": ["second"]},
    }
    rows = {"a": {"run": "second", "policy": "router", "set": {"k": 1}, "stages": ["second"]}}
    with pytest.raises(UserError, match=r"there is no run 'nowhere'|each waits for the other"):
        load_study(write_study(runs=runs, rows=rows, reference="a"))


def identities(path: Path) -> dict[str, str]:
    return {run.name: run.identity for run in plan(load_study(path))}


def test_a_change_of_config_changes_the_identity_of_the_run_and_of_those_after_it(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    before = identities(write_study())
    (tmp_path / "second.yaml").write_text("model: another\n")
    after_second = identities(write_study(reference="router"))
    assert {name for name in before if before[name] != after_second[name]} == {"second"}
    (tmp_path / "first.yaml").write_text("model: another\n")
    after_first = identities(write_study())
    assert {name for name in before if after_second[name] != after_first[name]} == {"first", "second", "third"}


def test_comments_do_not_count_for_identity_but_files_named_in_a_config_do(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    (tmp_path / "nested.yaml").write_text("width: 64\n")
    (tmp_path / "third.yaml").write_text("model: nested.yaml\n")
    before = identities(write_study())
    (tmp_path / "first.yaml").write_text("# a remark\nmodel:   first\n")
    assert identities(write_study()) == before
    (tmp_path / "nested.yaml").write_text("width: 32\n")
    assert {name for name, identity in identities(write_study()).items() if identity != before[name]} == {"third"}


def test_seed_and_threads_decide_results_too(write_study: WriteStudy) -> None:
    one = identities(write_study())
    assert not set(one.values()) & set(identities(write_study(seeds=[1])).values())
    assert not set(one.values()) & set(identities(write_study(threads=2)).values())


def test_the_papers_numbers_belong_to_a_row_and_are_in_the_columns_own_unit(write_study: WriteStudy) -> None:
    paper = {"accuracy": 0.711, "tokens_per_tile": 144}
    study = load_study(
        write_study(
            rows={
                "router": {"run": "second", "policy": "router", "paper": paper},
                "b": {"run": "second", "policy": "b"},
            },
            reference="b",
        )
    )
    assert [row.paper for row in study.rows] == [paper, {}]


def test_columns_and_numbers_of_the_paper_that_mean_nothing_are_told_with_their_lines(write_study: WriteStudy) -> None:
    path = write_study(
        axes={"k": [1, 2]},
        rows={
            "a": {"run": "second", "policy": "a", "paper": {"accurcy": 0.7, "accuracy": 71.1, "token_share": "much"}},
            "k {k}": {"run": "second", "policy": "a", "set": {"k": "{k}"}, "paper": {"accuracy": 0.5}},
        },
        columns=["accuracy", "token_share", "speed", "accuracy"],
        reference="a",
    )
    with pytest.raises(UserError) as raised:
        load_study(path)
    mistakes = str(raised.value).splitlines()[1:]
    line = {text.split(":")[0].strip(): number for number, text in enumerate(path.read_text().splitlines(), 1)}
    for place, said in {
        "accurcy": "rows.a.paper.accurcy: is not a column of this table; there are accuracy, token_share",
        "token_share": "rows.a.paper.token_share: must be a number, but is 'much'",
        "columns": "columns: there is no metric 'speed'; there are accuracy, tokens_per_tile",
    }.items():
        assert [m for m in mistakes if m.strip().startswith(said) and m.endswith(f"{path}:{line[place]})")], said
    assert [m for m in mistakes if "must be a share between 0 and 1, but is 71.1; write 0.711 for 71.1 %" in m]
    assert [m for m in mistakes if "columns: each may be there once" in m]
    # once for each value of the axis
    assert len([m for m in mistakes if "cannot be the same for each value of an axis" in m]) == 2
    assert len(mistakes) == 7
