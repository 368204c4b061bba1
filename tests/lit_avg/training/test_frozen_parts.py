import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree, move, rmtree

import pytest
import torch

from lit_avg.cli import main
from lit_avg.llava_next.hf_model import without_llm
from lit_avg.model import AvgLlava
from lit_avg.training.frozen_parts import EXTERNAL_WEIGHTS_KEY, part_hash
from lit_avg.training.handover import initialise_from, read_checkpoint
from lit_avg.utils.errors import UserError
from lit_avg.utils.weight_io import tensors_hash
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
def runs(chain: Path, tmp_path: Path) -> Iterator[Path]:
    """The folder of those runs, beside their configs. A test may take it apart: it is mended afterwards."""
    kept = copytree(chain / "runs", tmp_path / "kept" / "out" / "of" / "sight")
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
    (runs / "MultiGranularityTuning" / "result.json").unlink()  # which knows the file's own hash
    capsys.readouterr()
    assert main(["test", "--config", str(runs.parent / "RGLF.yaml")]) == 2
    assert "was trained with another llm than" in capsys.readouterr().err


def test_a_base_model_that_is_gone_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rmtree(runs / "InstructionTuning")
    capsys.readouterr()
    assert main(["fit", "--config", str(runs.parent / "RGLF.yaml"), "--overwrite"]) == 2
    message = capsys.readouterr().err
    assert f"there is no checkpoint at {runs / 'InstructionTuning'}" in message
    assert len(message.splitlines()) <= 2


def test_a_checkpoint_that_lacks_a_tensor_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage4 = runs / "RGLF" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(stage4, weights_only=True)
    del checkpoint["state_dict"]["model.router.voter"]
    torch.save(checkpoint, stage4)
    (runs / "RGLF" / "result.json").unlink()
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


def test_the_hash_tells_shapes_and_values_apart() -> None:
    flat = torch.zeros(4)
    others = [torch.zeros(2, 2), torch.zeros(8), torch.ones(4)]
    assert tensors_hash([flat]) == tensors_hash([torch.zeros(4)])
    assert len({tensors_hash([tensor]) for tensor in (flat, *others)}) == 4


def test_an_init_from_of_a_stage_that_may_not_come_before_is_still_refused(runs: Path, model: AvgLlava) -> None:
    with pytest.raises(UserError, match="starts from InstructionTuning"):
        initialise_from(model, str(runs / "RGLF"), ("InstructionTuning",))


PRECISIONS = ("32-true", "bf16-true", "bf16-mixed", "64-true")

PAIRS = [
    pytest.param(*pair, marks=[] if set(pair) == {"32-true", "bf16-true"} else pytest.mark.slow)
    for pair in itertools.permutations(PRECISIONS, 2)
]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_what_is_left_out_is_known_again_in_any_precision(before: str, after: str, tmp_path: Path) -> None:
    tiny_model().backbone.hf.model.vision_tower.save_pretrained(tmp_path / "encoder")
    encoder: dict[str, object] = {"pretrained_parts": {"vision_encoder": str(tmp_path / "encoder")}}
    stage2: dict[str, object] = {"init_from": "${run_root}/Pretrain", "frozen": ["vision_encoder"]}
    stage3: dict[str, object] = {"init_from": "${run_root}/InstructionTuning", "frozen": ["vision_encoder", "llm"]}
    for stage, precision, start in (
        ("Pretrain", before, encoder),
        ("InstructionTuning", after, stage2),
        ("MultiGranularityTuning", before, stage3),
    ):
        assert main(["fit", "--config", write_stage(tmp_path, stage, **start), "--trainer.precision", precision]) == 0
    config = ["--config", str(tmp_path / "MultiGranularityTuning.yaml")]
    for precision in (before, after):
        assert main(["validate", *config, "--trainer.precision", precision]) == 0
    external_weights = read_checkpoint(tmp_path / "runs" / "MultiGranularityTuning" / "checkpoints" / "last.ckpt")[
        EXTERNAL_WEIGHTS_KEY
    ]
    encoder_itself = sorted(tiny_model().backbone.hf.model.vision_tower.named_parameters())
    assert external_weights["vision_encoder"]["sha256"] == tensors_hash(tensor for _, tensor in encoder_itself)


def test_what_was_known_by_another_type_of_number_is_still_accepted(tmp_path: Path) -> None:
    in_bf16 = ["--trainer.precision", "bf16-true"]
    for before, stage in ((None, "MultiGranularityTuning"), ("MultiGranularityTuning", "RGLF")):
        start: dict[str, object] = {"init_from": f"${{run_root}}/{before}"} if before else {}
        assert main(["fit", "--config", write_stage(tmp_path, stage, **start), *in_bf16]) == 0
    path = tmp_path / "runs" / "RGLF" / "checkpoints" / "last.ckpt"
    checkpoint, weights = torch.load(path, weights_only=True), saved(tmp_path / "runs" / "MultiGranularityTuning")
    for part, beginnings in (("llm", ("hf.model.language_model.", "hf.lm_head.")), ("vision_encoder", ("hf.model.v",))):
        names = sorted(name for name in weights if name.startswith(tuple(f"model.backbone.{b}" for b in beginnings)))
        digest = hashlib.sha256()
        for tensor in (weights[name] for name in names):
            digest.update(f"torch.bfloat16 {tuple(tensor.shape)}".encode())
            digest.update(tensor.view(torch.uint8).numpy().data)
        checkpoint[EXTERNAL_WEIGHTS_KEY][part]["sha256"] = digest.hexdigest()
    torch.save(checkpoint, path)
    (tmp_path / "runs" / "RGLF" / "result.json").unlink()  # which knows the file's own hash
    for precision in ("bf16-true", "32-true"):
        assert main(["test", "--config", str(tmp_path / "RGLF.yaml"), "--trainer.precision", precision]) == 0


def test_the_hash_is_of_values_whatever_type_holds_them() -> None:
    few, fine = torch.tensor([1.5, -2.0]), torch.tensor([0.1], dtype=torch.double)
    assert (
        len({tensors_hash([few.to(dtype)]) for dtype in (torch.float32, torch.bfloat16, torch.half, torch.double)}) == 1
    )
    assert len({tensors_hash([fine.to(dtype)]) for dtype in (torch.float32, torch.bfloat16, torch.double)}) == 3
