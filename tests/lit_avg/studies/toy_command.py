"""A stand-in for `lit-avg` that keeps its promises to a sweep in milliseconds: it writes `result.json`, no more.

A store of feedback is a `manifest.json`. What it does besides is steered by the config's content: `fail: true`,
`wait_for: FILE`, `fill: BYTES`. In a job of SLURM it writes down how many cores srun was asked for. Asked to `check`,
it says what the configs come to, and refuses other keys than `KEYS`.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import yaml

from lit_avg.result_names import METRICS as METRICS_OF_ALL
from lit_avg.studies.spec.fingerprint import states_of
from lit_avg.utils.hashing import file_sha256

KEYS = ("model", "fail", "wait_for", "accuracy", "k", "nested", "fill", "levels", "data")
POLICIES = ("router", "fixed 4", "fixed 64")
METRICS = {name: asdict(METRICS_OF_ALL[name]) for name in ("accuracy", "tokens_per_tile", "token_share")}


def merged(options: list[str]) -> dict[str, object]:
    """What the configs come to, the later overlaying the earlier."""
    config: dict[str, object] = {}
    for key, value in zip(options[::2], options[1::2], strict=True):
        if key == "--config":
            config |= yaml.safe_load(Path(value).read_text())
        elif key.removeprefix("--") in KEYS:
            config[key.removeprefix("--")] = yaml.safe_load(value)
    return config


def toy_check(asked: Path, out: Path) -> int:
    answers: list[dict[str, object]] = []
    for options in json.loads(asked.read_text()):
        config = merged(options)
        unknown = [key for key in config if key not in KEYS]
        places = [Path(str(config["data"]))] if "data" in config else []
        manifests = {str(place): file_sha256(place)[:16] for place in places}
        answer = {"config": json.dumps(config, sort_keys=True), "manifests": manifests, "policies": POLICIES}
        answer["states"] = states_of(manifests)
        answer |= {"metrics": METRICS, "kinds": None, "processes": [1, 1], "levels": config.get("levels", [4, 64])}
        answer["feedback"] = str(config.get("nested")) if config.get("model") == "router" else None
        answers.append({"error": f"Option '{unknown[0]}' is not accepted"} if unknown else answer)
    out.write_text(json.dumps(answers))
    return 0


def toy_command(argv: list[str]) -> int:
    verb, options = argv[0], argv[1:]
    if verb == "check":
        return toy_check(Path(options[0]), Path(options[2]))
    config = merged(options)
    values = dict(zip(options[::2], options[1::2], strict=True))
    directory, seed = Path(values["--trainer.default_root_dir"]), int(values["--seed_everything"])
    # a job of a cluster has not loaded torch, nor does a toy need it
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else os.environ["OMP_NUM_THREADS"]
    print(f"{verb} {directory.name} with seed {seed} and {threads} thread(s)")
    with (directory / "calls.txt").open("a") as calls:
        calls.write(f"{verb}\n")
    if "SLURM_JOB_ID" in os.environ:
        (directory / "cpus.txt").write_text(os.environ.get("SLURM_CPUS_PER_TASK", "not asked for"))
    while "wait_for" in config and not Path(str(config["wait_for"])).exists():
        time.sleep(0.02)
    if "fill" in config and not (directory / "filling").exists():
        (directory / "filling").write_bytes(bytes(int(str(config["fill"]))))
    if config.get("fail"):
        print("the lights went out", file=sys.stderr)
        return 3
    accuracy = float(str(config.get("accuracy", 0.5))) + seed / 100
    metrics = {
        f"{policy}/{name}": value
        for policy, share in {"router": 0.5, "fixed 4": 0.1, "fixed 64": 1.0}.items()
        for name, value in {"accuracy": accuracy * share, "token_share": share, "tokens_per_tile": 64 * share}.items()
    }
    metrics |= {f"router/selected/{kind}/{n}": 0.5 for kind in ("number", "colour") for n in (4, 64)}
    if verb == "feedback":
        (directory / "manifest.json").write_text("{}")
        return 0
    result = {"metrics": metrics if verb == "test" else {}, "commit": "0123456789abcdef", "dirty": True, "data": "da7a"}
    (directory / "result.json").write_text(json.dumps(result))
    return 0
