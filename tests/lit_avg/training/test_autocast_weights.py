"""Frozen weights that are rounded once give what autocast gives, and take half the memory."""

from pathlib import Path

import lightning as L
import pytest
import torch

from lit_avg.cli import main
from lit_avg.stages import base
from lit_avg.stages.base import Stage
from tests.tiny_run import write_stage

STAGES = ("InstructionTuning", "MultiGranularityTuning", "RGLF")


class Types(L.Callback):
    """Notes the types of numbers of a backbone's tensors."""

    found: dict[str, torch.dtype] = {}  # noqa: RUF012  of the run before

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Stage)
        Types.found = {name: one.dtype for name, one in pl_module.model.backbone.hf.named_parameters()}


def test_frozen_linear_layers_are_held_as_autocast_computes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = ["--trainer.callbacks+", "tests.lit_avg.training.test_autocast_weights.Types"]
    starts = {"InstructionTuning": ["vision_encoder"], "MultiGranularityTuning": ["llm"], "RGLF": []}
    for folder in ("rounded", "as ever"):
        (tmp_path / folder).mkdir()
        if folder == "as ever":
            monkeypatch.setattr(base, "round_linear_layers", lambda *_: None)
        for before, (stage, frozen) in zip((None, *STAGES), starts.items(), strict=False):
            start: dict[str, object] = {"init_from": f"${{run_root}}/{before}"} if before else {}
            config = write_stage(tmp_path / folder, stage, frozen=frozen, **start)
            assert main(["fit", "--config", config, "--trainer.precision", "bf16-mixed", *held]) == 0
            if folder == "rounded" and stage == "RGLF":
                assert Types.found["lm_head.weight"] == torch.bfloat16
                assert Types.found["model.language_model.layers.0.mlp.up_proj.weight"] == torch.bfloat16
                assert Types.found["model.multi_modal_projector.linear_1.weight"] == torch.bfloat16
                exact = [name for name in Types.found if "norm" in name or "embed" in name or "newline" in name]
                assert {Types.found[name] for name in exact} == {torch.float32}
    for stage in STAGES:
        one, two = (tmp_path / folder / "runs" / stage for folder in ("rounded", "as ever"))
        assert (one / "losses.csv").read_text() == (two / "losses.csv").read_text(), stage
        saved = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (one, two)]
        assert {name: tensor.dtype for name, tensor in saved[0]["state_dict"].items()} == {
            name: tensor.dtype for name, tensor in saved[1]["state_dict"].items()
        }
        assert all(torch.equal(tensor, saved[1]["state_dict"][name]) for name, tensor in saved[0]["state_dict"].items())
