"""Every YAML under experiments/ is run by the very command that stands at its head, for two steps on few images."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from PIL import Image

from lit_avg import cli
from lit_avg.commands.check import check
from lit_avg.commands.offline import BuildingCLI
from lit_avg.studies.runs.plan import plan, value_arguments
from lit_avg.studies.spec.overrides import Run
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.atomic_io import link

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
STAGES = sorted(path for path in EXPERIMENTS.glob("*/stage*.yaml"))
ABLATIONS = sorted(EXPERIMENTS.glob("ablations/*/*.yaml"))
STUDIES = sorted(EXPERIMENTS.glob("studies/**/*.yaml"))
STRATEGIES = sorted(EXPERIMENTS.glob("strategies/*.yaml"))
"""Trained by in `tests/test_strategies.py`."""
ADAPTED = EXPERIMENTS / "vicuna-7b" / "lora.yaml"
ENCODERS = [EXPERIMENTS / "qwen2.5-0.5b" / "siglip2.yaml"]
"""Overlays with another vision encoder, whose weights would have to be fetched."""
STARTS = sorted(EXPERIMENTS.glob("*/from-*.yaml"))
"""Overlays that are of the hub, and run in `tests/test_pretrained_starts.py`."""
OVERLAYS = {*STRATEGIES, ADAPTED, *ENCODERS, *STARTS}
NAMED_BY_OTHERS = sorted({*EXPERIMENTS.rglob("*.yaml")} - {*STAGES, *ABLATIONS, *STUDIES, *OVERLAYS})

BRIEFLY = {"trainer.max_steps": 2, "trainer.limit_val_batches": 2, "trainer.val_check_interval": 2}
FEW = {
    "jersey/stage0-encoder": {"images_train": 8, "images_val": 4, "batch_size": 4},
    "jersey/stage0-llm": {"scenes_train": 8, "scenes_val": 4, "batch_size": 4},
    "real-smoke": {"batch_size": 4},
    "vicuna-7b": {"batch_size": 2},
    "qwen2.5-0.5b": {"batch_size": 2},
    "jersey": {"images_train": 8, "images_val": 4, "images_test": 4, "batch_size": 4},
}
"""Settings of a folder's datamodule, or of one stage's own, that make it small."""

ON_ONE_CPU = {
    "trainer.devices": 1,
    "trainer.strategy": "auto",
    "trainer.precision": "32-true",
    "model.init_args.model": "experiments/real-smoke/model.yaml",
    "data.init_args.tokenizer": "jersey",
    "data.init_args.tile_size": 56,
    "data.init_args.grid_pinpoints": "[[56, 112], [112, 56], [112, 112]]",
    "data.init_args.val_share": 0.3,
    "data.init_args.workers": 0,
}
"""What a recipe for GPUs and downloaded weights is run with here; all the rest of it stays."""

OF_GPUS = {"vicuna-7b": ON_ONE_CPU, "qwen2.5-0.5b": ON_ONE_CPU | {"trainer.accumulate_grad_batches": 2}}
"""The same, by the recipe's folder."""

Fit = Callable[[Path], Path]
Check = Callable[[Run], dict[str, Any]]


def relative(path: object) -> str | None:
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else None


def documented_command(path: Path, verb: str) -> list[str]:
    """The arguments behind `lit-avg` in the comment at the file's head."""
    found = re.search(rf"^# lit-avg ({verb} .*?)(?:  +\(.*)?$", path.read_text(), re.MULTILINE)
    assert found, f"{path} does not say by which command it is run"
    return shlex.split(found[1])


def of_data(settings: Mapping[str, int]) -> dict[str, object]:
    return {f"data.init_args.{name}": value for name, value in settings.items()}


def options(settings: Mapping[str, object]) -> list[str]:
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


def short(command: list[str], run_root: Path) -> list[str]:
    """The command with few steps on few images, in a folder of its own."""
    stage = str(Path(command[command.index("--config") + 1]).relative_to("experiments").with_suffix(""))
    settings = BRIEFLY | of_data(FEW.get(stage, FEW.get(stage.split("/")[0], {}))) | {"run_root": run_root}
    if (folder := stage.split("/")[0]) in OF_GPUS:
        settings |= OF_GPUS[folder]
        if stage.endswith("stage1"):
            settings["model.init_args.pretrained_parts"] = "null"
        elif folder == "qwen2.5-0.5b":
            settings["data.init_args.template"] = "vicuna"  # the tokenizer that is there knows no ChatML
    return [*command, *options(settings)]


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """Trains a stage, and before it those of its folder that come before; once each. Returns where."""
    root, done = tmp_path_factory.mktemp("runs"), set[Path]()

    def fit_once(path: Path) -> Path:
        run_root = root / path.parent.name
        for stage in STAGES[: STAGES.index(path) + 1]:
            if stage.parent == path.parent and stage not in done:
                assert cli.main(short(documented_command(stage, "fit"), run_root)) == 0, stage
                done.add(stage)
        return run_root

    return fit_once


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards packed from a dozen made-up conversations on images of several shapes."""
    folder = tmp_path_factory.mktemp("conversations")
    records: list[dict[str, object]] = []
    for number in range(12):
        Image.new("RGB", (40 + 20 * number, 120), (20 * number, 0, 99)).save(folder / f"{number}.png")
        turns = [("human", "<image>\nHow wide is it?"), ("gpt", f"{40 + 20 * number} pixels."), ("human", "And high?")]
        rounds = [{"from": who, "value": text} for who, text in [*turns, ("gpt", "120.")]]
        records.append({"id": str(number), "image": f"{number}.png", "conversations": rounds})
    (folder / "records.json").write_text(json.dumps(records))
    options = ["--annotations", str(folder / "records.json"), "--images", str(folder), "--out", str(folder / "shards")]
    assert cli.main(["shard", *options]) == 0
    return folder / "shards"


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, conversations: Path) -> None:
    """The documented commands are for someone who stands in the clone and has the data that they name."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LIT_AVG_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("LIT_AVG_REAL_SMOKE", str(conversations))
    data = tmp_path_factory.mktemp("data")
    for name in ("cc595k", "open-llava-next-1m", "llava-instruct-150k"):
        (data / name).symlink_to(conversations)
    monkeypatch.setenv("LIT_AVG_DATA", str(data))


@pytest.mark.parametrize("path", STAGES, ids=relative)
def test_a_stage_trains_by_the_command_at_its_head(path: Path, fit: Fit) -> None:
    run = fit(path) / path.stem
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / "result.json").is_file()


@pytest.mark.parametrize("path", ABLATIONS, ids=relative)
def test_an_ablation_trains_by_the_command_at_its_head_in_a_folder_of_its_own(path: Path, fit: Fit) -> None:
    command = documented_command(path, "fit")
    assert command[-1] == relative(path)
    run_root = fit(ROOT / command[2])
    before = set(run_root.iterdir())
    assert cli.main(short(command, run_root)) == 0
    (run,) = (path for path in set(run_root.iterdir()) - before if path.is_dir())
    assert (run / "checkpoints" / "last.ckpt").is_file()


def test_an_adapter_trains_by_the_command_at_its_head(fit: Fit) -> None:
    command = documented_command(ADAPTED, "fit")
    assert command[-1] == relative(ADAPTED)
    run_root = fit(EXPERIMENTS / "vicuna-7b" / "stage1.yaml")
    lora = yaml.safe_load(ADAPTED.read_text())["model"]["init_args"]["model"]["init_args"]["backbone"]["init_args"][
        "lora"
    ]
    small = [
        f"--model.init_args.model.init_args.backbone.init_args.lora={json.dumps(lora)}"
    ]  # lost with the large model
    apart = options({"trainer.default_root_dir": run_root / "lora", "trainer.accumulate_grad_batches": 1})
    assert cli.main([*short(command, run_root), *small, *apart]) == 0
    checkpoint = torch.load(run_root / "lora" / "checkpoints" / "last.ckpt", weights_only=True)
    assert any(".lora_A." in name for name in checkpoint["state_dict"])
    rates = {group["name"]: group["initial_lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]}
    assert rates == {"vision_encoder": 2e-6, "connector": 2e-5, "llm_adapter": 2e-4}


@pytest.fixture(scope="module")
def checked() -> Check:
    """What `lit-avg check` says of a run, or of one that differs in the values of the same entries alone."""
    answers = dict[object, dict[str, Any]]()

    def check_once(run: Run) -> dict[str, Any]:
        alike = run.configs, tuple(name for name, _ in run.values)
        if alike not in answers:
            configs = [part for config in run.configs for part in ("--config", str(config))]
            answers[alike] = check([*configs, *value_arguments(run)])
        return answers[alike]

    return check_once


@pytest.mark.parametrize("path", STUDIES, ids=relative)
def test_a_study_is_whole_and_its_runs_can_be_built(path: Path, checked: Check) -> None:
    assert documented_command(path, "sweep")[1] == relative(path)
    study = load_study(path)
    assert len(plan(study)) == len(study.seeds) * len(study.runs)
    known = {run.name: checked(run) for run in study.runs.values()}
    for row in study.rows:
        assert row.policy in known[row.run]["policies"], row.name
        assert all(column.partition("/")[0] in known[row.run]["metrics"] for column in study.columns)
    assert all(known[run.name]["feedback"] for run in study.runs.values() if run.feedback)


@pytest.mark.slow
def test_the_runs_of_a_study_train_from_the_store_that_they_share(fit: Fit, tmp_path: Path) -> None:
    """Pooling is the study whose rows reach deepest: another stage 3, stores of its own, weights to hand on."""
    before = fit(EXPERIMENTS / "jersey" / "stage2.yaml")
    study = replace(load_study(EXPERIMENTS / "studies" / "pooling.yaml"), runs_in=tmp_path, seeds=(0,))
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "stage2").symlink_to(before / "stage2")
    for run in plan(study):
        if run.name.startswith("stage0") or run.name in ("stage1", "stage2"):
            continue
        for place, target in run.links:
            link(place, target)
        for command in run.commands:
            assert cli.main([*command, *options(BRIEFLY | of_data(FEW["jersey"]))]) == 0, command
    tested = [run for run in plan(study) if run.run.test]
    results = [json.loads((run.directory / "result.json").read_text())["metrics"] for run in tested]
    assert len(results) == 4
    assert all("router/accuracy" in metrics for metrics in results)


@pytest.mark.parametrize("path", ENCODERS, ids=relative)
def test_another_vision_encoder_fits_data_and_granularities(path: Path) -> None:
    cli = BuildingCLI(documented_command(path, "fit"))
    with torch.device("meta"):
        model = cli.stage.make_model()
    encoder = cast(Any, model.backbone.hf.config).vision_config
    assert (encoder.image_size // encoder.patch_size) ** 2 == model.granularities.finest
    assert cli.datamodule.tile_size == encoder.image_size


@pytest.mark.parametrize("path", NAMED_BY_OTHERS, ids=relative)
def test_every_other_yaml_is_part_of_one_that_is_run(path: Path) -> None:
    siblings = [yaml.safe_load(stage.read_text()) for stage in STAGES if stage.parent == path.parent]
    assert path == EXPERIMENTS / "base.yaml" or any(path.name in str(content) for content in siblings)


@pytest.mark.parametrize("path", STRATEGIES, ids=relative)
def test_a_strategy_can_be_laid_over_the_stage_at_its_head(path: Path) -> None:
    command = documented_command(path, "fit")
    assert command[-1] == relative(path)
    known = check([part for config in (command[2], command[-1]) for part in ("--config", config)])
    assert known["policies"]


@pytest.mark.parametrize("path", STAGES, ids=relative)
def test_a_recipe_that_names_a_strategy_names_one_of_those(path: Path) -> None:
    strategies = [yaml.safe_load(strategy.read_text())["trainer"]["strategy"] for strategy in STRATEGIES]
    named = yaml.safe_load(path.read_text())["trainer"].get("strategy")
    assert named is None or named in strategies
