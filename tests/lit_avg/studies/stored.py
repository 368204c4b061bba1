"""Studies whose runs nobody has trained: folders as runs leave them, written by the project's own writers."""

import json
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from callbacks.results_writer import outcomes_csv
from lit_avg.evaluation.metrics import policy_metrics
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.result_names import RESULT
from lit_avg.routing.policies import all_policies
from lit_avg.studies.runs.plan import PlannedRun, plan
from lit_avg.studies.runs.run_record import LOG, Record, whole_proof, write_record
from lit_avg.studies.spec.study import Study, load_study
from lit_avg.utils.atomic_io import write_whole
from lit_avg.visual_tokens.granularity import Granularities

LEVELS = Granularities((4, 16, 64), step=4)
KINDS = ("number", "place")
CONFIG = {"seed_everything": 0, "model": {"class_path": "lit_avg.stages.RGLF", "init_args": {"alpha": 0.1}}}
MADE: dict[str, object] = {
    "stage": "RGLF",
    "steps": 150,
    "commit": "0123456789abcdef",
    "dirty": False,
    "data": "da7ada7ada7ada7a",
    "checkpoint": {"own": "c0ffee" + 58 * "0", "parent": None},
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "machine": {"host": "lamp", "threads": 1},
    "seconds": {"fit": 100.0, "test": 20.0},
}
"""What every result says of how it was made."""


def write_study(folder: Path, **changes: object) -> Path:
    """A study of a router, a ranked and a plain one, beside fixed granularities."""
    for name in ("stage3", "stage4", "plain"):
        (folder / f"{name}.yaml").write_text(f"model: {name}\n")
    content: dict[str, object] = {
        "out": str(folder / "out"),
        "seeds": [0, 1, 2],
        "runs": {
            "stage3": {"configs": ["stage3.yaml"]},
            "stage4": {"configs": ["stage4.yaml"], "after": ["stage3"], "test": True},
            "plain": {"configs": ["plain.yaml"], "after": ["stage3"], "test": True},
        },
        "rows": {
            "router": {"run": "stage4", "policy": "router", "paper": {"accuracy": 0.711, "tokens_per_tile": 33}},
            "fixed 64": {"run": "stage4", "policy": "fixed 64", "paper": {"accuracy": 0.7}},
            "fixed 4": {"run": "stage4", "policy": "fixed 4"},
            "oracle": {"run": "stage4", "policy": "oracle"},
            "plain router": {"run": "plain", "policy": "router"},
        },
        "columns": ["accuracy", "accuracy/number", "tokens_per_tile", "token_share"],
        "reference": "fixed 64",
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False, allow_unicode=True))
    return path


def outcomes(seed: int, questions: int) -> Outcomes:
    """Made-up outcomes: finer granularities are right more often, and a question is as hard with every seed."""
    hard = torch.rand(questions, 1, generator=torch.Generator().manual_seed(1))
    draws = torch.rand(questions, len(LEVELS), generator=torch.Generator().manual_seed(seed))
    feedback = torch.log(torch.tensor([0.4, 0.6, 0.7])) - hard - draws / 4
    return Outcomes(
        keys=[f"{question:05}/0" for question in range(questions)],
        kinds=[KINDS[question % 2] for question in range(questions)],
        granularities=LEVELS,
        correct=hard + draws / 4 < torch.tensor([0.5, 0.7, 0.8]),
        feedback=feedback,
        scores=torch.log_softmax(4 * feedback - draws, dim=1),
        visual_tokens=torch.tensor([[12, 48, 192]]).repeat(questions, 1),
        text_tokens=torch.full((questions,), 9),
        tiles=torch.full((questions,), 3),
    )


def finish(run: PlannedRun, questions: int = 40, salt: int = 0, asked: str | None = "the usual") -> None:
    """Leave a run as one that has been trained and, if the study asks for it, tested; or as a store of feedback.

    Args:
        run: of the study.
        questions: how many there are in the test.
        salt: makes other answers.
        asked: stands for the hash of the questions; None for a result from before there was one.
    """
    done = Record(run.identity, tuple(command[0] for command in run.commands), seconds=120.0)
    if run.run.feedback:
        splits = {"train": {"data": "da7a", "samples": 7, "per_part": 2}}
        manifest = {"format": 1, "identity": {"weights of the llm": "11ff"}, "splits": splits, "sha256": "5afe"}
        write_whole(run.proof, json.dumps(manifest))
        write_record(run.directory, replace(done, proof=whole_proof(run)))
        return
    metrics: dict[str, float] = {"val/loss": 1.5 + run.seed}
    if run.run.test:
        found = outcomes(100 * run.seed + salt, questions)
        chosen = {policy.name: found.chosen_by(policy) for policy in all_policies(LEVELS, delta=0.1, seed=run.seed)}
        for policy, levels in chosen.items():
            measured = policy_metrics(found, levels)
            metrics |= {f"{policy}/{name}": value for name, value in measured.items()}
        write_whole(run.directory / "outcomes.csv", outcomes_csv(found, chosen))
    result = MADE | {
        "run": run.directory.name,
        "seed": run.seed,
        "config": CONFIG | {"seed_everything": run.seed},
        "metrics": metrics,
        "questions": asked,
    }
    write_whole(run.directory / RESULT, json.dumps(result))
    write_record(run.directory, replace(done, proof=whole_proof(run)))


def fail(run: PlannedRun) -> None:
    """Leave a run as one that has failed of itself."""
    write_record(run.directory, Record(run.identity, failed=1))
    write_whole(run.directory / LOG, "out of memory\n")


def stored_study(folder: Path, **changes: object) -> Study:
    """A study all of whose runs are finished."""
    study = load_study(write_study(folder, **changes))
    for run in plan(study):
        finish(run, salt=7 if run.name == "plain" else 0)
    return study
