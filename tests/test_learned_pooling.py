"""What a scaler learns in stage 3 is handed on, stored with the model, and part of what feedback depends on."""

from pathlib import Path

import pytest
import torch

from lit_avg.cli import main
from lit_avg.model import AvgLlava
from lit_avg.stages import MultiGranularityTuning
from lit_avg.training.handover import base_weights
from lit_avg.training.optim import Optimization
from tests.tiny import make_batch, tiny_model
from tests.tiny_run import write_stage

POOLING = "--model.init_args.model.init_args.pooling"
LOGITS = "model.scaler.place_logits."


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_stage_3_trains_it_and_stage_4_takes_it_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage3 = write_stage(tmp_path, "MultiGranularityTuning")
    stage4 = write_stage(tmp_path, "RGLF", init_from="${run_root}/MultiGranularityTuning")
    assert main(["fit", "--config", stage3, POOLING, "learned"]) == 0
    assert main(["fit", "--config", stage4, POOLING, "learned"]) == 0
    before, after = (weights(tmp_path / "runs" / stage) for stage in ("MultiGranularityTuning", "RGLF"))
    learned = {name: tensor for name, tensor in before.items() if name.startswith(LOGITS)}
    assert len(learned) > 1
    assert all(bool(tensor.any()) for tensor in learned.values())  # it began with zeros
    assert all(torch.equal(after[name], tensor) for name, tensor in learned.items())
    assert "scaler" in base_weights(str(tmp_path / "runs" / "MultiGranularityTuning"))
    assert main(["fit", "--config", stage4, POOLING, "average", "--overwrite"]) == 2
    assert "a scaler that learned its pooling" in capsys.readouterr().err


def test_its_gradients_are_the_same_level_by_level_and_all_at_once() -> None:
    batch = make_batch([([(4, 2)], 0), ([(9, 1)], 1)], [((1, 2), (32, 64)), ((2, 1), (60, 20))])
    found = list[list[torch.Tensor]]()
    for sequential_backward in (True, False):
        stage = MultiGranularityTuning(
            lambda: tiny_model(pooling="learned"),
            optimization=Optimization(lr=1e-3),
            sequential_backward=sequential_backward,
        )
        stage.configure_model()
        stage.loss(batch)["loss"].backward()
        found.append([parameter.grad for parameter in stage.model.scaler.parameters() if parameter.grad is not None])
    assert len(found[0]) == 4
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_folder_keeps_it(tmp_path: Path) -> None:
    model = tiny_model(pooling="learned")
    with torch.no_grad():
        for logits in model.scaler.parameters():
            logits.normal_()
    model.save_pretrained(tmp_path)
    again = AvgLlava.from_pretrained(tmp_path).scaler.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.scaler.state_dict().items())
