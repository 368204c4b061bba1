"""An encoder's grid that does not halve: square grids of any size, from stage 3 to an exported router."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F
from transformers.models.llava_next.modeling_llava_next import unpad_image

from lit_avg.cli import main
from lit_avg.feedback.store import FeedbackStore
from lit_avg.llava_next.backbone import Backbone
from lit_avg.llava_next.llm_input import visual_token_counts
from lit_avg.model import AvgLlava
from lit_avg.routing.router import GranularityRouter
from lit_avg.stages import RGLF
from lit_avg.training.optim import Optimization
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.anyres import NEWLINE, VisualLayout
from lit_avg.visual_tokens.granularity import Granularities
from lit_avg.visual_tokens.scaler import Pooling
from tests.drawn import drawn_shards
from tests.stored import config, trained
from tests.tiny import make_batch
from tests.tiny_run import MODEL

SIGLIP = Granularities((9, 49, 196, 729), step=None)
"""Levels of so400m-patch14-384: 384 pixels are 27 patches of 14, and 6 pixels that no patch sees."""

FIVE = {"tokens": [1, 9, 25], "step": None}
"""Levels of a tile of 32 pixels in patches of 6: a grid of 5x5, and 2 pixels that no patch sees."""


def stage(folder: Path, shards: Path, kind: str, name: str, **more: object) -> str:
    """A config as `tests.stored` has it, of an encoder whose grid does not halve."""
    path = Path(config(folder, shards, kind, name, **more))
    content = yaml.safe_load(path.read_text())
    model = content["model"]["init_args"]["model"]["init_args"]
    model["backbone"]["init_args"]["vision_encoder"] |= {"model_type": "siglip_vision_model", "patch_size": 6}
    model |= {"granularities": FIVE, "pooling": "adaptive_average"}
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.slow
def test_a_router_is_trained_from_a_store_as_live_and_exported(tmp_path: Path) -> None:
    shards, stage3 = drawn_shards(tmp_path, 8, rounds=2), str(tmp_path / "stage3")
    assert main(["fit", "--config", stage(tmp_path, shards, "MultiGranularityTuning", "stage3")]) == 0
    live = stage(tmp_path, shards, "RGLF", "live", init_from=stage3, per_sample=True)
    assert main(["feedback", "--config", live, "--out", str(tmp_path / "store")]) == 0
    stored = ["--model.init_args.feedback", str(tmp_path / "store")]
    stored += ["--trainer.default_root_dir", str(tmp_path / "stored")]
    assert main(["fit", "--config", live]) == main(["fit", "--config", live, *stored]) == 0
    runs = [trained(tmp_path / run) for run in ("live", "stored")]
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert FeedbackStore(tmp_path / "store").granularities == [1, 9, 25]
    assert main(["feedback", "report", str(tmp_path / "store")]) == 0
    assert main(["export", "--ckpt", str(tmp_path / "live"), "--out", str(tmp_path / "exported")]) == 0
    model = AvgLlava.from_pretrained(tmp_path / "exported")
    assert model.granularities == Granularities(**FIVE)
    assert model.scaler.pooling == "adaptive_average"
    exported = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(exported[name], tensor) for name, tensor in runs[0].items() if "router" in name)


@pytest.mark.parametrize("grid", [(0, 0), (1, 1), (1, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("size", [(768, 768), (500, 333), (333, 500), (1, 700), (700, 1)])
def test_the_finest_of_27x27_is_unpadded_as_in_transformers_and_each_level_as_long_as_counted(
    grid: tuple[int, int], size: tuple[int, int]
) -> None:
    layout, tiles = VisualLayout(SIGLIP), 1 + grid[0] * grid[1]
    for level, (rows, columns) in enumerate(SIGLIP.grids):
        sequence = layout.sequence(grid, size, level)
        assert layout.count(grid, size, level) == len(sequence)
        assert sequence[:-1].max() < tiles * rows * columns
        assert len(sequence[sequence != NEWLINE].unique()) == (sequence != NEWLINE).sum()
    if grid != (0, 0):
        plane = torch.arange(729, 729 * tiles).view(*grid, 27, 27).transpose(1, 2).reshape(1, grid[0] * 27, -1)
        kept = F.pad(unpad_image(plane, size)[0], (0, 1), value=NEWLINE)  # a newline ends each row
        assert torch.equal(layout.sequence(grid, size, 3), torch.cat([torch.arange(729), kept.flatten()]))


def test_a_wide_image_keeps_its_true_share_of_rows_at_every_level() -> None:
    # 768 wide and 384 high in a plane of 2x2 tiles: half of 6, 14, 28 and 54 rows
    counts = [VisualLayout(SIGLIP).count((2, 2), (384, 768), level) for level in range(4)]
    # a row too many where the padding, of 3, 7, 14 and 27 rows, cannot be halved
    assert counts == [9 + 4 * 7, 49 + 8 * 15, 196 + 14 * 29, 729 + 28 * 55]


def model_of(granularities: Granularities, pooling: Pooling = "adaptive_average") -> AvgLlava:
    """On an encoder whose grid is 5x5."""
    arguments = MODEL["init_args"]["backbone"]["init_args"]
    vision = arguments["vision_encoder"] | {"model_type": "siglip_vision_model", "patch_size": 6}
    router = partial(GranularityRouter, instruction_tokens=4, heads=2, dropout=0.0)
    torch.manual_seed(0)
    return AvgLlava(lambda: Backbone(vision, arguments["llm"]), granularities, router, pooling, k=4).eval()


def test_the_router_reads_every_level_and_hands_its_gradient_through() -> None:
    model = model_of(Granularities(**FIVE))
    batch = make_batch([([(4, 2)], 0), ([(5, 2)], 1)], [((1, 2), (32, 64)), ((2, 1), (60, 20))])
    levels = model.encode_levels(batch)
    assert [level.shape for level in levels] == [(6, 1, 24), (6, 9, 24), (6, 25, 24)]
    read: list[Tensor] = []
    hook = model.router.fusion.register_forward_hook(lambda *call: read.append(call[1][0]))
    model.route(batch, levels)
    hook.remove()
    assert torch.equal(read[0][:, : 1 + 9 + 25], torch.cat(levels, dim=1))
    module = RGLF(lambda: model, Optimization(lr=0.01), init_from="random")
    module.configure_model()
    module.loss(batch)["loss"].backward()
    assert all(bool(parameter.grad is not None) for parameter in model.router.parameters())


def test_answers_are_given_at_each_level() -> None:
    model = model_of(Granularities(**FIVE))
    batch = make_batch([([(4, 2)], 0)], [((1, 2), (32, 64))])
    assert visual_token_counts(batch, model.layout).tolist() == [[1 + 1 * 3, 9 + 3 * 7, 25 + 5 * 11]]
    assert [len(model.generate_ids(batch, [level], 3)) for level in range(3)] == [1, 1, 1]


def test_granularities_that_end_elsewhere_are_refused_with_the_way_out() -> None:
    batch = make_batch([([(4, 2)], 0)], [((1, 2), (32, 64))])
    with pytest.raises(UserError, match=r"end in 25; a grid of 5x5 does not halve, so list square .*`step: null`"):
        model_of(Granularities((4, 8, 16)), "average").encode_levels(batch)
