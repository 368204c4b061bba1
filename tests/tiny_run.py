"""Runs of a few steps on made-up batches, described in YAML as a real run is."""

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import lightning as L
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_avg.batch import Batch
from lit_avg.data import ShardsData
from lit_avg.stages import RGLF
from lit_avg.utils.errors import UserError
from tests.tiny import TILE, VOCABULARY, make_batch

PICTURES = [((1, 2), (32, 64)), ((2, 1), (60, 20))]

MODEL = {
    "class_path": "lit_avg.model.AvgLlava",
    "init_args": {
        "backbone": {
            "class_path": "lit_avg.llava_next.backbone.Backbone",
            "init_args": {
                "vision_encoder": {
                    "model_type": "clip_vision_model",
                    "hidden_size": 16,
                    "intermediate_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "image_size": TILE,
                    "patch_size": 8,
                },
                "llm": {
                    "model_type": "llama",
                    "hidden_size": 24,
                    "intermediate_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 2,
                    "vocab_size": VOCABULARY,
                },
            },
        },
        "granularities": {"tokens": [1, 2, 4, 8, 16]},
        "k": 4,
        "router": {
            "class_path": "lit_avg.routing.router.GranularityRouter",
            "init_args": {"instruction_tokens": 4, "heads": 2, "dropout": 0.0},
        },
    },
}


class ResumableBatches:
    """Some batches in order, and where they stand; an epoch that is over begins anew."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches, self.given = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        self.given %= len(self)
        while self.given < len(self):
            self.given += 1
            yield self.batches[self.given - 1]

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given = state["given"]


class TinyData(ShardsData):
    """Four times the same four questions on two images; validation has a question without an image, too."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    @property
    def manifest_hash(self) -> str:
        return "0123456789abcdef"

    def denormalise(self, pixel_values: Tensor) -> Tensor:
        return pixel_values * 0.5 + 0.5

    def decode(self, ids: Tensor) -> str:
        return " ".join(f"w{token}" for token in ids.tolist())

    def train_dataloader(self) -> Iterable[Batch]:
        questions = [([(4, 2), (3, 1), (6, 3)], 0), ([(5, 2)], 1)]
        return ResumableBatches([make_batch(questions, PICTURES, self.seed)] * 4)

    def val_dataloader(self) -> DataLoader[Batch]:
        questions = [([(4, 2), (3, 1), (6, 3)], 0), ([(5, 2)], 1), ([(3, 2)], -1)]
        batch = make_batch(questions, PICTURES, self.seed + 100)
        batch.kinds = ["colour", "number", "number", "colour", "chat"]
        if self.trainer is not None and self.trainer.global_rank > 0:  # Lightning shows every rank the one batch
            batch.repeated = [True] * len(batch.keys)
        return DataLoader([batch], batch_size=None)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self.val_dataloader()


class MeanOfNothing(RGLF):
    """Measures what is no number."""

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val/mean_of_nothing", torch.zeros(0).mean())


class BuggyData(TinyData):
    """Fails as a bug does."""

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader([None + 1])  # pyright: ignore[reportOperatorIssue]


class BadSample(Dataset[Batch]):
    """A data set that cannot decode its only sample."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Batch:
        raise UserError("sample 000000007 cannot be decoded; leave it out")


class DataWithABadSample(TinyData):
    """Fails in a data loader's worker."""

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(BadSample(), batch_size=None, num_workers=1)


class Interrupted(L.Callback):
    """Somebody presses Ctrl-C after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def write_yaml(path: Path, content: dict[str, object]) -> str:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def write_stage(folder: Path, stage: str, **arguments: object) -> str:
    """A config of three steps of a stage, with the model in a file of its own; gives the file's name."""
    write_yaml(folder / "model.yaml", MODEL)
    start = {} if stage == "Pretrain" else {"init_from": "random"}
    model = {"model": "model.yaml", "optimization": {"lr": 0.01}, **start, **arguments}
    content = {
        "run_root": str(folder / "runs"),
        "trainer": {"default_root_dir": f"${{run_root}}/{stage}", "max_steps": 3, "accelerator": "cpu"},
        "model": {"class_path": f"lit_avg.stages.{stage}", "init_args": model},
        "data": {"class_path": "tests.tiny_run.TinyData"},
    }
    return write_yaml(folder / f"{stage}.yaml", content)


class ToldToMakeRoom(L.Callback):
    """The cluster wants its node back in the midst of a step, once; only the first process is told.

    Every process writes down the steps it does, into `steps-<rank>.txt` beside the run.
    """

    def __init__(self, step: int, told: str) -> None:
        self.step = step
        self.told = Path(told)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        with (Path(trainer.default_root_dir) / f"steps-{trainer.global_rank}.txt").open("a") as steps:
            steps.write(f"{trainer.global_step}\n")
        if trainer.global_step == self.step and trainer.is_global_zero and not self.told.exists():
            self.told.touch()
            os.kill(os.getpid(), signal.SIGUSR2)
