"""A stand-in for `lit-avg` that keeps its promises to a sweep in milliseconds: it writes `result.json`, no more.

What it does besides is steered by the config's content: `fail: true`, `wait_for: FILE`.
"""

import json
import sys
import time
from pathlib import Path

import torch
import yaml


def toy_command(argv: list[str]) -> int:
    verb, options = argv[0], argv[1:]
    config: dict[str, object] = {}
    for key, value in zip(options[::2], options[1::2], strict=True):
        if key == "--config":
            config |= yaml.safe_load(Path(value).read_text())
    values = dict(zip(options[::2], options[1::2], strict=True))
    directory, seed = Path(values["--trainer.default_root_dir"]), int(values["--seed_everything"])
    print(f"{verb} {directory.name} with seed {seed} and {torch.get_num_threads()} thread(s)")
    with (directory / "calls.txt").open("a") as calls:
        calls.write(f"{verb}\n")
    while "wait_for" in config and not Path(str(config["wait_for"])).exists():
        time.sleep(0.02)
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
    result = {"metrics": metrics if verb == "test" else {}, "commit": "0123456789abcdef", "dirty": True, "data": "da7a"}
    (directory / "result.json").write_text(json.dumps(result))
    return 0
