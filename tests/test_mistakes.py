"""Every mistake in a config is one clear line, before anything is trained: the key, the value, what is expected."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from callbacks import ImageGallery, LastCheckpoint, RunProgress
from datamodules.encoding.tiling import Normalisation, Tiling
from datamodules.jersey import Jersey, JerseyPatches, JerseySymbols
from datamodules.llava_shards import LLaVAShards
from lit_avg.cli import main
from lit_avg.routing.instruction_filter import InstructionFilter
from lit_avg.routing.objectives import RankingObjective
from lit_avg.routing.policies import CoarsestWithinPolicy, FixedPolicy, OraclePolicy
from lit_avg.routing.router import GranularityRouter
from lit_avg.semantics import Semantics
from lit_avg.stages import RGLF, GumbelRouterTuning, InstructionTuning, MultiGranularityTuning, Pretrain
from lit_avg.stages.toy_pretraining import ToyLLMPretraining, ToyVisionPretraining
from lit_avg.training.optim import Optimization
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities
from tests.tiny import tiny_model
from tests.tiny_run import TinyData, write_stage

MODEL = "model.init_args."
BACKBONE = f"{MODEL}model.init_args.backbone.init_args"
LLM = f"{BACKBONE}.llm"
ROUTER = f"{MODEL}model.init_args.router.init_args"


class ConfusedData(TinyData):
    """Has a bug in its constructor."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.half = None / 2  # pyright: ignore[reportOptionalOperand]


@pytest.fixture(scope="module")
def stage4(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_stage(tmp_path_factory.mktemp("mistakes"), "RGLF")


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The line that a fit says before anything is trained."""
    capsys.readouterr()
    assert main(["fit", *argv]) == 2
    said = capsys.readouterr()
    assert "fit 1/" not in said.out
    assert len(said.err.splitlines()) <= 2
    assert said.err.startswith("lit-avg: ")
    return said.err


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("seed_everything", "-3", "seed_everything must be a whole number from 0 to 4294967295, but is -3"),
        ("seed_everything", "5000000000", "from 0 to 4294967295, but is 5000000000"),
        ("seed_everything", "abc", "seed_everything: expected a whole number from 0 to 4294967295, but got abc"),
        ("seed_everything", "true", "from 0 to 4294967295, but is True"),
        ("run_root", "", "run_root is empty"),
        ("trainer", "fast", "trainer: expected a section of options, but got fast"),
        ("trainer", "[1]", "trainer: expected a section of options, but got [1]"),
        ("trainer.val_check_interval", "0", "trainer.val_check_interval must be a number above 0, but is 0"),
        (
            "trainer.accelerator",
            "tpux",
            "trainer.accelerator must be one of auto, gpu, cpu, cuda, mps, tpu, but is tpux",
        ),
        ("trainer.strategy", "dddp", "but is dddp"),
        ("trainer.devices", "0", "trainer.devices must be auto, -1 for all, how many there are, or their numbers"),
        ("trainer.devices", "many", "but is many"),
        ("trainer.devices", "10000", "trainer.devices is 10000, but on the CPU each is a process"),
        ("trainer.max_time", "00:00:00:00", "trainer.max_time is 00:00:00:00, so nothing would be trained"),
        ("trainer.max_time", "{hours: 0}", "so nothing would be trained"),
        ("trainer.max_steps", "0", "trainer.max_steps must be a number at least 1, but is 0"),
        (
            "trainer.val_check_interval",
            "100",
            "is 100 batches, but the run ends after 3, so it would never be validated",
        ),
        ("trainer.max_steps", "-1", "trainer.max_steps is -1, so that trainer.val_check_interval must say"),
        ("trainer.max_epochs", "0", "trainer.max_epochs must be a number at least 1, but is 0"),
        ("trainer.limit_train_batches", "0", "trainer.limit_train_batches must be a number above 0, but is 0"),
        ("trainer.accumulate_grad_batches", "0", "trainer.accumulate_grad_batches must be a number at least 1"),
        ("trainer.gradient_clip_val", ".nan", "trainer.gradient_clip_val must be a number at least 0, but is nan"),
        ("trainer.log_every_n_steps", "0", "trainer.log_every_n_steps must be a number at least 1, but is 0"),
        ("trainer.num_nodes", "0", "trainer.num_nodes must be a number at least 1, but is 0"),
        ("trainer.precision", "9", "trainer.precision: expected 64 | 32 | 16 or"),
        ("trainer.max_time", "soon", "trainer: `Timer(duration='soon')` is not a valid duration"),
        ("trainer.gradient_clip_algorithm", "x", "trainer: `gradient_clip_algorithm` x is invalid"),
        ("trainer.default_root_dir", "", "trainer.default_root_dir is empty"),
        ("trainer.logger", "lightning.pytorch.loggers.NoLogger", "trainer.logger: Problem with given class_path"),
        ("trainer.callbacks", "lightning.pytorch.callbacks.Timer", "Timer alone, in place of all those of base.yaml"),
        ("model", "lit_avg.stages.Nope", "model: Problem with given class_path 'lit_avg.stages.Nope'"),
        ("model", "torch.nn.Linear", "model: expected a class by its class_path, but got torch.nn.Linear"),
        (f"{MODEL}init_from", "null", "init_from is null, but RGLF begins from a run of MultiGranularityTuning"),
        (f"{MODEL}init_from", "", "init_from is empty"),
        (f"{MODEL}alpha", ".nan", "alpha must be a number at least 0, but is nan"),
        (f"{MODEL}alpha", "-1", "alpha must be a number at least 0, but is -1.0"),
        (f"{MODEL}frozen", "[router]", "frozen: RGLF trains router alone; leave some of it"),
        (f"{MODEL}margins", "1", "model.margins: expected a list, but got 1"),
        (f"{MODEL}optimization", "0.1", "model.optimization: expected a section of options, but got 0.1"),
        (f"{MODEL}optimization.betas", "[1.5, 0.9]", "betas[0] must be a number at least 0 and below 1, but is 1.5"),
        (f"{MODEL}optimization.weight_decay", "-1", "weight_decay must be a number at least 0, but is -1.0"),
        (f"{MODEL}optimization.lr", "-1", "optimization.lr must be a number above 0, but is -1.0"),
        (
            f"{MODEL}optimization.warmup_ratio",
            "2",
            "warmup_ratio must be a number at least 0 and at most 1, but is 2.0",
        ),
        *(
            (f"{BACKBONE}.vision_feature_layer", layer, f"feature_layer is {layer}, but this encoder has 2 layers")
            for layer in ("3", "-4", "99")
        ),
        (f"{ROUTER}.heads", "5", "router: heads must divide the LLM's width of 24, but is 5"),
        (f"{LLM}.model_type", "lama", "lama"),
        (
            f"{MODEL}model.init_args.pooling",
            "mean",
            "pooling: expected average | max | strided | learned | adaptive_average, but got mean",
        ),
        (f"{MODEL}model.init_args.granularities.tokens", "[0]", "tokens[0] must be a number at least 1, but is 0"),
        (f"{MODEL}model.init_args.semantics.margin", ".nan", "margin must be a number at least 0, but is nan"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(
    key: str, value: str, told: str, stage4: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, "--config", stage4, f"--{key}", value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "must hold `key: value` lines, but holds nothing"),
        (b"# nothing but a comment\n", "but holds nothing"),
        (b"- 1\n", "must hold `key: value` lines, but holds list"),
        (bytes(range(256)), "is no valid YAML"),
        (
            b"trainer: {max_steps: 2}\ntrainer: {max_steps: 3}\n",
            "2: no valid YAML: 'trainer' is there already, in line 1",
        ),
        (b"trainer: fast\n", "trainer: expected a section of options, but got fast"),
        (b"trainer: [1]\n", "trainer must be a section of options, as in trainer: {max_steps: 100}, but is [1]"),
        (b"trainer:\n", "a config must hold `key: value` lines, but one holds trainer:"),
        (b"seed_everything: abc\n", "expected a whole number from 0 to 4294967295, but got abc"),
        (b"run_root: x\nmodel:\n", "the config does not say what model is"),
        (b"model: 3\n", "model: expected a class by its class_path, but got 3"),
    ],
)
def test_a_mistake_in_an_overlay_is_one_line_with_the_files_name(
    content: bytes, told: str, stage4: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_bytes(content)
    line = refused(capsys, "--config", stage4, "--config", str(overlay))
    assert told in line
    assert str(overlay) in line


def test_a_part_of_a_model_that_has_another_place_now_is_named_without_its_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = write_stage(tmp_path, "RGLF")
    model = tmp_path / "model.yaml"
    text = model.read_text(encoding="utf-8")
    model.write_text(text.replace("lit_avg.llava_next.backbone.Backbone", "lit_avg.backbone.Backbone"), "utf-8")
    told = refused(capsys, "--config", stage)
    assert "there is no class lit_avg.backbone.Backbone" in told
    assert "hidden_size" not in told


def test_a_bug_in_a_constructor_is_no_mistake_of_the_users(stage4: str) -> None:
    with pytest.raises(ValueError, match="unsupported operand"):
        main(["fit", "--config", stage4, "--data", "tests.test_mistakes.ConfusedData"])


def test_a_list_of_callbacks_that_leaves_some_out_is_told(stage4: str, capsys: pytest.CaptureFixture[str]) -> None:
    keeping = ["--trainer.callbacks", "[{class_path: callbacks.LastCheckpoint}]", "--trainer.fast_dev_run", "true"]
    assert main(["fit", "--config", stage4, *keeping]) == 0
    assert "trainer.callbacks leaves out RunProgress, " in capsys.readouterr().err


def stage(make: Callable[..., Any], **arguments: object) -> Callable[[], Any]:
    return lambda: make(tiny_model, Optimization(1e-3), **arguments)


def shards(**arguments: Any) -> Callable[[], Any]:
    needed = {"train": "nowhere", "tokenizer": "jersey", "batch_size": 4, "tile_size": 56, "grid_pinpoints": None}
    return lambda: LLaVAShards(**{**needed, **arguments})


NAN, INFINITE = math.nan, math.inf


@pytest.mark.parametrize(
    ("make", "told"),
    [
        *((lambda lr=lr: Optimization(lr), "optimization.lr") for lr in (0.0, -1.0, NAN, INFINITE)),
        (lambda: Optimization(1e-3, vision_lr=-1.0), "optimization.vision_lr must be a number above 0, but is -1.0"),
        (
            lambda: Optimization(1e-3, betas=(0.9, 1.0)),
            r"betas\[1\] must be a number at least 0 and below 1, but is 1.0",
        ),
        (lambda: Optimization(1e-3, weight_decay=INFINITE), "weight_decay must be a number at least 0, but is inf"),
        (lambda: Optimization(1e-3, final_lr_ratio=2.0), "final_lr_ratio must be .* at most 1, but is 2.0"),
        (stage(Pretrain, init_from="runs/a"), "no stage comes before Pretrain, but it is runs/a"),
        (stage(InstructionTuning, frozen=["router"]), "does not train router anyway"),
        (stage(MultiGranularityTuning, tokens_at_once=0), "tokens_at_once must be a number at least 1, but is 0"),
        (stage(MultiGranularityTuning, levels_per_step=-1), "levels_per_step must be a number at least 1, but is -1"),
        (stage(RGLF, alpha=0.0, ranking_weight=0.0), "alpha and ranking_weight are both 0"),
        (stage(RGLF, alpha=0.5, objective=RankingObjective(0.2)), "alpha 0.5 and ranking_weight 1 weigh the default"),
        (stage(RGLF, ranking_weight=-0.5), "ranking_weight must be a number at least 0, but is -0.5"),
        (stage(RGLF, margins=[0.1, -0.1]), r"margins\[1\] must be a number at least 0, but is -0.1"),
        (stage(RGLF, margins=[0.1, 0.1]), "has one twice"),
        *((stage(GumbelRouterTuning, temperature=value), "temperature") for value in (0.0, -1.0, NAN, INFINITE)),
        (lambda: GranularityRouter(Granularities((2, 4)), 24, heads=0), "heads must divide the LLM's width of 24"),
        (lambda: GranularityRouter(Granularities((2, 4)), 24, dropout=1.0), "dropout must be a number .* but is 1.0"),
        (lambda: GranularityRouter(Granularities((2, 4)), 24, instruction_tokens=-1), "instruction_tokens must be"),
        (lambda: InstructionFilter(-1), "k = -1"),
        (lambda: Granularities((0,)), r"granularities.tokens\[0\] must be a number at least 1, but is 0"),
        (lambda: Granularities(()), "need at least one level"),
        (lambda: Semantics(margin=-1.0), "semantics: margin must be a number at least 0, but is -1.0"),
        (lambda: FixedPolicy(2).check(Granularities((4, 8, 16))), "no granularity of 2 tokens"),
        *(
            (lambda margin=margin: CoarsestWithinPolicy(margin), "it must be a number")
            for margin in (-0.1, NAN, INFINITE)
        ),
        (lambda: OraclePolicy(-1.0), "it must be a number of nats from 0 on"),
        (shards(batch_size=0), "batch_size must be a number at least 1, but is 0"),
        (shards(eval_batch_size=0), "eval_batch_size must be a number at least 1, but is 0"),
        (shards(max_length=0), "max_length must be a number at least 1, but is 0"),
        (shards(workers=-1), "workers must be a number at least 0, but is -1"),
        (shards(seed=-1), "data: seed must be a whole number from 0 to 4294967295, but is -1"),
        (shards(max_bad_share=1.5), "max_bad_share must be a number at least 0 and at most 1, but is 1.5"),
        (shards(max_bad_share=NAN), "max_bad_share must be .* but is nan"),
        *((shards(cache_gb=value), "cache_gb must be a number above 0") for value in (0.0, -1.0, NAN, INFINITE)),
        (shards(val_share=NAN), "val_share is a share from 0 to below 1, but is nan"),
        (shards(tile_size=0), "tile_size must be a number at least 1, but is 0"),
        (shards(grid_pinpoints=[]), r"grid_pinpoints: \[\] is no plane"),
        (shards(grid_pinpoints=[[56]]), r"grid_pinpoints: \[56\] is no pair"),
        (lambda: Tiling(56, [[50, 56]]), "is not made of whole tiles of 56 pixels"),
        (lambda: Tiling(56, [[56, 56, 56]]), "is no pair"),
        (shards(image_mean=[0.5]), r"image_mean needs a number for each of red, green and blue, but is \[0.5\]"),
        (shards(image_std=[0.0, 0.0, 0.0]), r"image_std\[0\] must be a number above 0, but is 0.0"),
        (lambda: Normalisation([0.5, NAN, 0.5]), r"image_mean\[1\] must be a number, but is nan"),
        (lambda: Jersey(images_train=0), "images_train must be a number at least 1, but is 0"),
        (lambda: Jersey(image_seed=-1), "image_seed must be a whole number from 0"),
        (lambda: Jersey(learnt_kinds=[]), "learnt_kinds: .* leaves no question to learn from"),
        (lambda: JerseyPatches(batch_size=0), "batch_size must be a number at least 1, but is 0"),
        (lambda: JerseySymbols(scenes_val=0), "scenes_val must be a number at least 1, but is 0"),
        (
            lambda: ToyVisionPretraining(Optimization(1e-3), num_attention_heads=3),
            "must divide hidden_size 64, but is 3",
        ),
        (lambda: ToyVisionPretraining(Optimization(1e-3), patch_size=7), "whole patches of 7 pixels, but is 64"),
        (lambda: ToyLLMPretraining(Optimization(1e-3), noise=NAN), "noise must be a number at least 0, but is nan"),
        (lambda: ToyLLMPretraining(Optimization(1e-3), vocab_size=0), "vocab_size must be a number at least 1"),
        (lambda: LastCheckpoint(every_steps=0), "every_steps must be a number at least 1, but is 0"),
        (lambda: ImageGallery(images=0), "images must be a number at least 1, but is 0"),
        (lambda: RunProgress(lines=0), "lines must be a number at least 1, but is 0"),
        (lambda: RunProgress(every_seconds=NAN), "every_seconds must be a number at least 0, but is nan"),
    ],
)
def test_a_constructor_refuses_what_cannot_be_meant(make: Callable[[], object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        make()
