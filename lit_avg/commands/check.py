"""`lit-avg check LIST --out FILE`: what configs come to, and whether they can be built, before anything is run.

LIST is a JSON list of fit's options, a list of strings for each config. Each is parsed, and its stage built on torch's
meta device, without memory or weights. FILE gets a list of answers in the same order: `{"error": …}`, or the fields of
`lit_avg.studies.spec.fingerprint.Checked`. `lit-avg sweep` asks this before it starts anything.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_avg.commands.fit import quiet_lightning
from lit_avg.commands.offline import BuildingCLI, outline_model
from lit_avg.data import ShardsData
from lit_avg.planning.run_flops import run_flops
from lit_avg.stages.base import Stage
from lit_avg.stages.rglf import RGLF
from lit_avg.studies.spec.fingerprint import code_hash, states_of
from lit_avg.utils.command_line import VerbParser
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of, hash_of_json

PLACE = ["--run_root", "RUNS", "--trainer.default_root_dir", "RUNS/RUN"]
SEED = "--seed_everything"
"""Where a run lies and its study's seed are no part of its config: all are asked for with the same."""


OF_READING = ("seed", "workers", "group_by_length", "max_bad_share", "shard_cache", "cache_gb")
"""Arguments of data modules that decide how samples are read, or in what order, and not what is in them."""

NO_EVALUATION: dict[str, Any] = {"policies": [], "know_the_answer": [], "metrics": {}}
"""What the test of a stage without an `AvgLlava` compares and measures."""


def main(argv: list[str]) -> int:
    """Run the verb.

    Args:
        argv: its arguments.

    Returns:
        The exit status, 0: what is wrong with a config is part of the answers.
    """
    parser = VerbParser(prog="lit-avg check", description=__doc__)
    parser.add_argument("list", type=Path, help="JSON list of lists of fit's options")
    parser.add_argument("--out", type=Path, required=True, help="where the answers go")
    options = parser.parse_args(argv)
    quiet_lightning()
    asked: list[list[str]] = json.loads(options.list.read_text(encoding="utf-8"))
    options.out.write_text(json.dumps([_answer(arguments) for arguments in asked], indent=1), encoding="utf-8")
    return 0


def _answer(arguments: list[str]) -> dict[str, Any]:
    try:
        return check(arguments)
    except (UserError, OSError) as mistake:
        return {"error": str(mistake)}


def check(arguments: list[str]) -> dict[str, Any]:
    """What one config comes to.

    Args:
        arguments: fit's options.

    Raises:
        UserError: it cannot be parsed or built.
    """
    seed = [] if SEED in arguments else [SEED, "0"]  # a row may well have a seed of its own
    cli = BuildingCLI(["fit", *arguments, *PLACE, *seed])
    cli.check_beginning()
    trainer = cli.config["fit"].trainer
    processes = [trainer.devices, trainer.num_nodes]
    data = cli.datamodule if isinstance(cli.datamodule, ShardsData) else None
    manifests = {place: sha256[:16] for place, sha256 in data.identities().items()} if data else {}
    return {
        "config": hash_of(cli.config_text(), 16),
        "manifests": manifests,
        "states": states_of(manifests),
        **(_evaluation(cli.model) if isinstance(cli.model, Stage) else NO_EVALUATION),
        "kinds": data.question_kinds if data else None,
        "processes": [int(count) for count in processes] if str(processes[0]).isdigit() else None,
        "feedback": _feedback(cli) if isinstance(cli.model, RGLF) else None,
        "levels": list(cli.model.granularities.tokens) if isinstance(cli.model, RGLF) else [],
        "program": code_hash(),
        "flops": run_flops(cli.model, data, trainer.as_dict(), cli.config["fit"].data.as_dict().get("init_args") or {})
        if isinstance(cli.model, Stage)
        else {},
    }


def _feedback(cli: BuildingCLI) -> str:
    """Hash of what feedback depends on; the same when only the router, its loss or its training differ."""
    config, model = cli.config["fit"], cli.stage.model
    data = config.data.as_dict()
    settings = {name: value for name, value in data["init_args"].items() if name not in OF_READING}
    depends = [
        [config.model.init_args[name] for name in ("init_from", "per_sample")],
        [model.backbone.settings, model.scaler.pooling, model.semantics.unpad],
        [data["class_path"], settings, config.trainer.precision],
    ]
    return hash_of_json(depends, 16)


def _evaluation(stage: Stage) -> dict[str, Any]:
    """Build the stage; what its test compares and measures."""
    outline_model(stage)
    stage.freeze_the_rest()
    return {
        "policies": list(stage.policies),
        "know_the_answer": [name for name, policy in stage.policies.items() if policy.knows_the_answer],
        "metrics": {metric.meaning.name: asdict(metric.meaning) for metric in stage.metrics},
    }
