"""How long `lit-avg table` and `lit-avg status` take on a study of 510 runs with made-up results.

    python -m benchmarks.studies                      # seconds of whole commands, from the shell's view
    python -m benchmarks.studies --keep FOLDER        # leaves the study in FOLDER, to profile on

Nothing is trained: the runs' folders are as runs leave them, each with its configuration, 384 metrics and what came of
every test question. The commands run in turn, the interpreter's own start among them, whose seconds are told as well.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import yaml

from lit_avg.result_names import RESULT
from lit_avg.studies.runs.plan import PlannedRun, plan
from lit_avg.studies.runs.run_record import read_record, whole_proof, write_record
from lit_avg.studies.spec.config_files import config_content
from lit_avg.studies.spec.fingerprint import Checked, source_of, write_checked
from lit_avg.studies.spec.study import Study, load_study
from lit_avg.utils.atomic_io import write_whole
from tests.lit_avg.studies.stored import finish

ROOT = Path(__file__).parents[1]
JERSEY = ROOT / "experiments" / "jersey"
METRICS = 384
"""Of a run of the quick start."""

STUDY = {
    "seeds": [0, 1, 2, 3, 4],
    "axes": {"k": [0, 1, 2, 4, 8, 16, 32, 64], "alpha": [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10]},
    "rows": {
        "fixed 64": {"run": "stage4", "policy": "fixed 64"},
        "k {k}, α {alpha}": {
            "run": "stage4",
            "policy": "router",
            "set": {"model.init_args.model.init_args.k": "{k}", "model.init_args.alpha": "{alpha}"},
        },
    },
    "columns": ["accuracy", "accuracy/number", "accuracy/place", "tokens_per_tile", "token_share"],
    "reference": "fixed 64",
}


def made_up(folder: Path, questions: int) -> Study:
    """The chain of stages on Jersey with 96 routers and five seeds, all of it finished."""
    stages = ["stage0-encoder", "stage0-llm", "stage1", "stage2", "stage3", "stage4"]
    after = {"stage1": stages[:2], "stage2": ["stage1"], "stage3": ["stage2"], "stage4": ["stage3"]}
    runs: dict[str, dict[str, object]] = {name: {"configs": [str(JERSEY / f"{name}.yaml")]} for name in stages}
    for name, before in after.items():
        runs[name]["after"] = before
    runs["stage4"]["test"] = True
    path = folder / "study.yaml"
    content = {"out": str(folder / "out"), "runs": runs} | STUDY
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    study = load_study(path)
    sources = {run.name: source_of(run) for run in study.runs.values()}
    unknown = {"manifests": {}, "policies": [], "metrics": {}, "kinds": None, "processes": None}
    unknown |= {"feedback": None, "levels": []}
    write_checked(study.out, {source: Checked(config=source, **unknown) for source in sources.values()})
    study = load_study(path)
    for number, run in enumerate(plan(study)):
        finish(run, questions, salt=number)
        fill_up(run)
    return study


def fill_up(run: PlannedRun) -> None:
    """Make a result as long as those of real runs."""
    path = run.directory / RESULT
    result = json.loads(path.read_text(encoding="utf-8"))
    for number in range(METRICS - len(result["metrics"])):
        result["metrics"][f"some policy/selected/some kind/{number}"] = number / METRICS
    result["config"] |= {
        "said": [config_content(config) for config in (ROOT / "experiments" / "base.yaml", *run.run.configs)]
    }
    write_whole(path, json.dumps(result, indent=2) + "\n")
    if (record := read_record(run.directory)) is not None:
        write_record(run.directory, replace(record, proof=whole_proof(run)))


def seconds(arguments: list[str]) -> float:
    """Of a whole process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-P", *arguments], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - begin


def measure(study: Study, rounds: int) -> None:
    """Print the median and the range of each command's seconds."""
    verbs = {verb: ["-m", "lit_avg.cli", verb, str(study.path)] for verb in ("table", "status")}
    print(f"table, its intervals computed from all questions: {seconds(verbs['table']):.2f} s")
    commands = {"python itself": ["-c", ""]} | verbs
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, arguments in commands.items():
            taken[name].append(seconds(arguments))
    for name, values in taken.items():
        print(
            f"{name:<14} {statistics.median(values):.2f} s  ({min(values):.2f} to {max(values):.2f}, {rounds} rounds)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1000, help="test questions of a run (default: 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each command is called (default: 5)")
    parser.add_argument("--keep", type=Path, help="an empty folder for the study (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        study = made_up(folder, options.questions)
        print(f"{len(plan(study))} runs, {len(study.rows)} rows, {options.questions} questions")
        measure(study, options.rounds)


if __name__ == "__main__":
    main()
