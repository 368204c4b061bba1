"""A store of feedback is a run of the study's graph, and the routers that may share one do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lit_avg.commands import sweep as sweep_command
from lit_avg.studies.runs.plan import plan
from lit_avg.studies.runs.run_record import states
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.errors import UserError
from tests.lit_avg.studies.toy_command import toy_command

WriteStudy = Callable[..., Path]

ROUTED = {"run": "stage4", "policy": "router"}
BOTH = ["stage3", "stage4"]


@pytest.fixture
def write_routers(write_study: WriteStudy, tmp_path: Path) -> WriteStudy:
    """Writes a study of a stage 3, a store of its feedback and a stage 4 that trains from it, and more rows."""

    def write(rows: dict[str, object] | None = None, **more: object) -> Path:
        (tmp_path / "third.yaml").write_text("model: router\n")
        store = {"configs": ["third.yaml"], "after": ["stage3"], "feedback": True} | more
        runs = {
            "stage3": {"configs": ["first.yaml"]},
            "feedback": store,
            "stage4": {"configs": ["third.yaml"], "after": ["stage3", "feedback"], "test": True},
        }
        return write_study(runs=runs, rows={"router": ROUTED, **(rows or {})}, reference="router")

    return write


def sweep(study: Path, *options: str) -> int:
    return sweep_command.main([str(study), *options], toy_command)


def stores(study: Path) -> list[str]:
    return [run.name for run in plan(load_study(study)) if run.run.feedback]


def calls(study: Path, run: str) -> list[str]:
    return (load_study(study).out / "seed-0" / run / "calls.txt").read_text().split()


def test_a_store_is_made_once_and_every_router_is_told_where(write_routers: WriteStudy) -> None:
    study = write_routers({"k 8": {**ROUTED, "set": {"k": 8}}})
    assert sweep(study) == 0
    folder = load_study(study).out / "seed-0"
    assert [(run.name, run.links) for run in plan(load_study(study))] == [
        ("stage3", ()),
        ("feedback", ()),
        ("stage4", ()),
        ("stage4@k=8/stage4", tuple((folder / "stage4@k=8" / name, folder / name) for name in ("stage3", "feedback"))),
    ]
    assert calls(study, "feedback") == ["feedback"]
    assert calls(study, "stage4@k=8/stage4") == ["fit", "test"]
    last = plan(load_study(study))[-1]
    options = last.commands[0]
    assert options[options.index("--model.init_args.feedback") + 1] == str(folder / "stage4@k=8" / "feedback")
    assert (folder / "stage4@k=8" / "feedback" / "manifest.json").is_file()


def test_a_subset_of_the_levels_shares_the_store_and_more_levels_do_not(write_routers: WriteStudy) -> None:
    rows = {str(levels): {**ROUTED, "set": {"levels": levels}} for levels in ([64], [4, 16, 64])}
    study = write_routers(rows)
    assert sweep(study) == 0
    (more,) = [name for name in stores(study) if name != "feedback"]
    assert "4-16-64" in more


def test_what_changes_the_model_or_what_it_reads_makes_a_store_of_its_own(write_routers: WriteStudy) -> None:
    rows = {
        "other stage 3": {**ROUTED, "set": {"k": 1}, "stages": ["stage3"]},
        "other stages": {**ROUTED, "set": {"k": 2}, "stages": BOTH},
        "other images": {**ROUTED, "set": {"nested": "narrow"}},
    }
    study = write_routers(rows)
    assert sweep(study) == 0
    assert stores(study) == [
        "feedback",
        "stage3@k=1/feedback",
        "stage3+stage4@k=2/feedback",
        "stage4@nested=narrow/feedback",
    ]


def test_a_store_goes_on_fails_and_is_tried_again_like_any_run(write_routers: WriteStudy, tmp_path: Path) -> None:
    study = write_routers()
    (tmp_path / "third.yaml").write_text("model: router\nfail: true\n")
    assert sweep(study) == 1
    assert list(states(plan(load_study(study))).values()) == ["done", "failed", "to do"]
    record = load_study(study).out / "seed-0" / "feedback" / "identity.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"failed": None}))  # as a kill would have left it
    assert states(plan(load_study(study)))[plan(load_study(study))[1]] == "interrupted"
    assert sweep(study) == 1
    assert calls(study, "feedback") == ["feedback", "feedback"]  # on in the same folder
    assert sweep(study, "--retry") == 1
    assert calls(study, "feedback") == ["feedback"] * 3
    assert calls(study, "stage3") == ["fit"]
    assert not (load_study(study).out / "seed-0" / "stage4").exists()


def test_the_dry_run_shows_who_shares_the_store(write_routers: WriteStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_routers({"k 8": {**ROUTED, "set": {"k": 8}}, "fixed 4": {"run": "stage4", "policy": "fixed 4"}})
    assert sweep(study, "--dry-run") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "feedback (seed 0) would run · shared by 3 rows · after stage3" in lines
    assert "stage4@k=8/stage4 (seed 0) would run · after stage3, feedback" in lines


def test_a_run_that_cannot_be_a_store_is_refused_with_its_line(write_routers: WriteStudy) -> None:
    with pytest.raises(UserError, match=r"runs.feedback.feedback: stores the feedback of a stage 3 .*\(.*:\d+\)"):
        load_study(write_routers(test=True))
    with pytest.raises(UserError, match=r"feedback is no stage that learns from feedback.*\(.*:\d+\)"):
        sweep(write_routers(configs=["first.yaml"]))


def test_studies_that_extend_the_same_one_share_their_runs_in_a_folder(
    write_routers: WriteStudy, tmp_path: Path
) -> None:
    base = write_routers()
    studies = list[Path]()
    for name, k in (("one", 8), ("other", 16)):
        more = {f"k {k}": {**ROUTED, "set": {"k": k}}}
        folders = {"out": str(tmp_path / name), "runs_in": str(tmp_path / "runs")}
        studies.append(tmp_path / f"{name}.yaml")
        studies[-1].write_text(yaml.safe_dump({"extends": base.name, "rows": more, **folders}))
        assert sweep(studies[-1]) == 0
    assert [len(plan(load_study(study))) for study in studies] == [4, 4]
    made = sorted(path.parent.relative_to(tmp_path / "runs") for path in tmp_path.rglob("calls.txt"))
    branches = ("stage4", "stage4@k=16/stage4", "stage4@k=8/stage4")
    assert [str(path) for path in made] == [f"seed-0/{name}" for name in ("feedback", "stage3", *branches)]
    assert (tmp_path / "runs" / "seed-0" / "feedback" / "calls.txt").read_text() == "feedback\n"
    assert [(tmp_path / name / "table.md").is_file() for name in ("one", "other", "runs")] == [True, True, False]
