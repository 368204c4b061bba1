from collections.abc import Iterator
from pathlib import Path
from shutil import copytree, move, rmtree

import pytest
import torch

from lit_avg.checkpoints import initialise_from, read_checkpoint
from lit_avg.cli import main
from lit_avg.errors import UserError
from lit_avg.left_out import part_hash, tensors_hash
from lit_avg.llava_next import without_llm
from lit_avg.model import AvgLlava
from tests.tiny import tiny_model
from tests.tiny_run import write_stage

STAGES = ("Pretrain", "InstructionTuning", "MultiGranularityTuning", "RGLF")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages 1 to 4 of a model that begins with random weights; stage 3 leaves its vision encoder frozen."""
    folder = tmp_path_factory.mktemp("chain")
    for before, stage in zip((None, *STAGES), STAGES, strict=False):
        start: dict[str, object] = {"init_from": f"${{run_root}}/{before}"} if before else {}
        if stage == "MultiGranularityTuning":
            start["frozen"] = ["vision_encoder"]
        assert main(["fit", "--config", write_stage(folder, stage, **start)]) == 0
    return folder


@pytest.fixture
def runs(chain: Path) -> Iterator[Path]:
    """The folder of those runs, beside their configs. A test may take it apart: it is mended afterwards."""
    kept = copytree(chain / "runs", chain / "kept")
    yield chain / "runs"
    rmtree(chain / "runs", ignore_errors=True)
    move(kept, chain / "runs")


def saved(run: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]


def test_a_checkpoint_holds_what_was_trained_and_what_cannot_be_had_elsewhere(runs: Path) -> None:
    backbone = {f"model.backbone.{name}" for name in tiny_model().backbone.state_dict()}
    router = {f"model.router.{name}" for name in tiny_model().router.state_dict()}
    assert set(saved(runs / "Pretrain")) == backbone  # its random encoder and LLM are nowhere else
    assert set(saved(runs / "InstructionTuning")) == backbone
    assert set(saved(runs / "MultiGranularityTuning")) == {name for name in backbone if "vision_tower" not in name}
    assert set(saved(runs / "RGLF")) == router | {"delta"}


def test_what_was_left_out_is_found_along_the_chain_of_runs_wherever_they_were_moved(
    runs: Path, tmp_path: Path, model: AvgLlava
) -> None:
    weights = saved(runs / "InstructionTuning") | saved(runs / "MultiGranularityTuning")
    move(runs, tmp_path / "moved")
    initialise_from(model, str(tmp_path / "moved" / "MultiGranularityTuning"), ("MultiGranularityTuning",))
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, weights[f"model.backbone.{name}"])


def test_an_earlier_stage_may_have_had_another_llm_where_none_is_loaded(tmp_path: Path, model: AvgLlava) -> None:
    chain = {"Pretrain": ["llm"], "InstructionTuning": ["llm"], "MultiGranularityTuning": ["vision_encoder"]}
    for before, (stage, frozen) in zip((None, *chain), chain.items(), strict=False):
        start: dict[str, object] = {"init_from": f"${{run_root}}/{before}", "frozen": frozen} if before else {}
        assert main(["fit", "--config", write_stage(tmp_path, stage, **start)]) == 0
    stage3 = str(tmp_path / "runs" / "MultiGranularityTuning")
    initialise_from(model, stage3, ("MultiGranularityTuning",))
    with without_llm(part_hash(model.backbone, "llm")):
        routed = tiny_model()
    initialise_from(routed, stage3, ("MultiGranularityTuning",))
    whole = model.backbone.state_dict()
    for name, tensor in routed.backbone.state_dict().items():
        assert torch.equal(tensor, whole[name])


def test_another_base_model_is_refused_by_its_hash(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage3 = runs / "MultiGranularityTuning" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(stage3, weights_only=True)
    checkpoint["state_dict"]["model.backbone.hf.lm_head.weight"][0, 0] += 1
    torch.save(checkpoint, stage3)
    capsys.readouterr()
    assert main(["test", "--config", str(runs.parent / "RGLF.yaml")]) == 2
    assert "was trained with another llm than" in capsys.readouterr().err


def test_a_base_model_that_is_gone_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rmtree(runs / "InstructionTuning")
    capsys.readouterr()
    assert main(["fit", "--config", str(runs.parent / "RGLF.yaml")]) == 2
    message = capsys.readouterr().err
    assert f"there is no checkpoint at {runs / 'InstructionTuning'}" in message
    assert len(message.splitlines()) <= 2


def test_a_checkpoint_that_lacks_a_tensor_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage4 = runs / "RGLF" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(stage4, weights_only=True)
    del checkpoint["state_dict"]["model.router.voter"]
    torch.save(checkpoint, stage4)
    capsys.readouterr()
    assert main(["test", "--config", str(runs.parent / "RGLF.yaml")]) == 2
    assert "differ in model.router.voter" in capsys.readouterr().err


def test_pretrained_halves_are_left_out_of_stage_1(tmp_path: Path, model: AvgLlava) -> None:
    tiny_model().backbone.hf.model.vision_tower.save_pretrained(tmp_path / "encoder")
    pretrained = {"vision_encoder": str(tmp_path / "encoder")}
    assert main(["fit", "--config", write_stage(tmp_path, "Pretrain", pretrained_parts=pretrained)]) == 0
    run = tmp_path / "runs" / "Pretrain"
    assert not [name for name in saved(run) if "vision_tower" in name]
    torch.nn.init.zeros_(model.backbone.hf.model.vision_tower.embeddings.position_embedding.weight)
    initialise_from(model, str(run), ("Pretrain",))
    assert part_hash(model.backbone, "vision_encoder") == part_hash(tiny_model().backbone, "vision_encoder")


def test_the_hash_tells_shapes_and_types_apart() -> None:
    flat = torch.zeros(4)
    others = [torch.zeros(2, 2), torch.zeros(8, dtype=torch.float16), torch.ones(4)]
    assert tensors_hash([flat]) == tensors_hash([torch.zeros(4)])
    assert len({tensors_hash([tensor]) for tensor in (flat, *others)}) == 4


def test_an_init_from_of_a_stage_that_may_not_come_before_is_still_refused(runs: Path, model: AvgLlava) -> None:
    with pytest.raises(UserError, match="starts from InstructionTuning"):
        initialise_from(model, str(runs / "RGLF"), ("InstructionTuning",))
