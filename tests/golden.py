"""What our code makes of a golden case, under the names by which the authors' code stored its own results.

A case is a folder with `config.json`, `vision_config.json`, `weights.safetensors`, `io.safetensors` and `tensors.json`,
which explains each tensor.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from datamodules.encoding.tiling import best_plane
from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PADDING, PREFIX, Batch
from lit_avg.commands.import_release import imported
from lit_avg.feedback.lmm_feedback import lmm_feedback
from lit_avg.llava_next.llava_layout import to_release
from lit_avg.llava_next.llm_input import llm_input
from lit_avg.model import AvgLlava
from lit_avg.routing.instruction_filter import instruction_candidates
from lit_avg.stages import RGLF, MultiGranularityTuning
from lit_avg.training.optim import Optimization

BEGIN = 1


class GoldenCase:
    """One case: the inputs and results that were stored, and the model by way of our import."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.about: dict[str, Any] = json.loads((folder / "tensors.json").read_text())
        self.stored = load_file(folder / "io.safetensors")
        checkpoint.mkdir()
        for name in ("config.json", "vision_config.json"):
            shutil.copy(folder / name, checkpoint / name)
        shutil.copy(folder / "weights.safetensors", checkpoint / "model.safetensors")
        self.checkpoint = checkpoint

    def model(self) -> AvgLlava:
        model = imported(str(self.checkpoint))
        for module in model.router.modules():  # the case was recorded without dropout, in training too
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.router.fusion.self_attn.dropout = 0.0
        return model

    def batch(self) -> Batch:
        ids, labels = self.stored["in.input_ids"], self.stored["in.labels"]
        return self.batch_of(ids, labels, self.stored["in.attention_mask"], range(len(ids)))

    def prompt(self) -> Batch:
        """The prompt of one sample without its answer."""
        ids = self.stored["out.eval_one.prompt_ids"].long()
        filling = torch.full_like(ids, IGNORED_LABEL)
        return self.batch_of(ids, filling, torch.ones_like(ids).bool(), [self.about["eval_one"]["sample"]])

    def batch_of(self, ids: Tensor, labels: Tensor, there: Tensor, samples: range | list[int]) -> Batch:
        """Rows of one question each, about the images of these samples."""
        width, height = self.stored["in.image_sizes_wh"][list(samples)].unbind(1)
        sizes = torch.stack([height, width], dim=1)
        tiles = [self.stored[f"in.image_{sample}.pixel_tiles_f16"].float() for sample in samples]
        question = torch.arange(len(ids)).unsqueeze(1).expand_as(ids)
        at = (ids == IMAGE_PLACEHOLDER).int().argmax(dim=1, keepdim=True)
        question = torch.where(torch.arange(ids.shape[1]) <= at, PREFIX, question)
        return Batch(
            input_ids=ids,
            labels=labels,
            question=torch.where(there, question, PADDING),
            instruction=torch.zeros_like(there),
            image_of_row=torch.arange(len(ids)),
            pixel_values=torch.cat(tiles),
            tile_grids=[self.tile_grid(size) for size in sizes.tolist()],
            image_sizes=sizes,
            keys=[str(sample) for sample in samples],
            kinds=["all"] * len(ids),
            answers=["?"] * len(ids),
        )

    def tile_grid(self, size: list[int]) -> tuple[int, int]:
        planes = [(height, width) for width, height in self.config["image_grid_pinpoints"]]
        plane, side = best_plane((size[0], size[1]), planes), self.stored["in.image_0.pixel_tiles_f16"].shape[-1]
        return plane[0] // side, plane[1] // side

    def results(self) -> dict[str, Tensor]:
        """Everything the authors' code stored, from ours."""
        with torch.no_grad():
            found = features(self) | packed(self) | evaluated(self) | answered(self)
        return found | stage3(self) | stage4(self)


def features(case: GoldenCase) -> dict[str, Tensor]:
    """The encoder's tokens, projected, and pooled to every level."""
    model, batch = case.model(), case.batch()
    tower, layer = model.backbone.hf.model.vision_tower, model.backbone.hf.config.vision_feature_layer
    hidden = tower(batch.pixel_values[:1], output_hidden_states=True).hidden_states[layer]
    levels = model.encode_levels(batch)
    pooled = {f"out.pooled_{level.shape[1]}": level for level in levels}
    return {"out.clip_features_image0_tile0": hidden[0, 1:], "out.projected_features": levels[-1]} | pooled


def packed(case: GoldenCase) -> dict[str, Tensor]:
    """The visual sequences of every image at every level, and the labels around them."""
    model, batch = case.model(), case.batch()
    levels, found = model.encode_levels(batch), dict[str, Tensor]()
    for level, tokens in enumerate(model.granularities.tokens):
        level_of_row = [level] * len(batch.keys)
        rows = llm_input(batch, level_of_row, model.layout)
        embeddings = model.embeddings(batch, levels, level_of_row, rows)
        for image, grid in enumerate(batch.tile_grids):
            height, width = batch.image_sizes[image].tolist()
            index = model.layout.sequence(grid, (height, width), level)
            begin = sum(batch.tiles[:image]) * tokens
            found[f"out.packed_{tokens}_image_{image}.index"] = torch.where(index < 0, index, index + begin)
            found[f"out.packed_{tokens}_image_{image}.values"] = embeddings[image, rows.visual[image]]
        labels = torch.full_like(rows.source, IGNORED_LABEL)
        labels[rows.answer_row, rows.answer_from + 1] = rows.answer_token
        found[f"out.labels_packed_{tokens}"] = labels
    return found


def filtered(model: AvgLlava, batch: Batch, name: str) -> dict[str, Tensor]:
    """The instruction filter's scores and choice for every question."""
    heard = instruction_candidates(batch, model.semantics.instruction, model.router.training)
    tokens = model.backbone.embed(heard.input_ids).masked_fill(heard.empty.unsqueeze(2), 0.0)
    views = model.encode_levels(batch)[-1][[sum(batch.tiles[:image]) for image in range(len(batch.tiles))]]
    similarity = model.instruction_filter.similarity(tokens, views).masked_fill(~heard.heard, -torch.inf)
    chosen = model.instruction_filter.choose(tokens, heard.heard, views)
    slots = model.instruction_filter(tokens, heard.heard, views).embeddings
    found = dict[str, Tensor]()
    for question in range(len(batch.keys)):
        found[f"{name}.text_filter_{question}.similarity"] = similarity[question]
        found[f"{name}.text_filter_{question}.indices"] = chosen[question]
        found[f"{name}.text_filter_{question}.embeddings"] = slots[question]
    return found


def evaluated(case: GoldenCase) -> dict[str, Tensor]:
    """The batch in evaluation, where the authors' code hears the answers too, if it is given any."""
    model, batch = case.model(), case.batch()
    unlabelled = case.batch()
    unlabelled.labels = torch.full_like(batch.labels, IGNORED_LABEL)
    seen = dict[str, Tensor]()
    model.router.norm.register_forward_pre_hook(keep_input(seen, "logits"))
    model.router.mlp.register_forward_pre_hook(keep_input(seen, "fused"))
    levels = model.encode_levels(batch)
    logits = model.route(unlabelled, levels)
    chosen = logits.argmax(dim=1)
    found = filtered(model, unlabelled, "out.eval") | {
        "out.eval.router_logits_prenorm": seen["logits"],
        "out.eval.router_logits": logits,
        "out.eval.argmax_index": chosen,
        "out.eval.merger_out_image0_tile0": seen["fused"][0],
        "out.eval.batch_loss": -model.answer_tokens(batch, levels, chosen.tolist()).log_prob.mean(),
    }
    return found | {"out.eval.merger_in_text_slots_image0": found["out.eval.text_filter_0.embeddings"]}


def answered(case: GoldenCase) -> dict[str, Tensor]:
    """One prompt: the router's logits, the LLM's at the routed granularity, and greedy answers."""
    model, batch = case.model(), case.prompt()
    levels = model.encode_levels(batch)
    logits = model.route(batch, levels)
    routed = int(logits.argmax())
    embeddings = model.embeddings(batch, levels, [routed], llm_input(batch, [routed], model.layout))
    hidden = model.backbone.hf.model.language_model(inputs_embeds=embeddings).last_hidden_state[0]
    positions = case.stored["out.eval_one.logit_positions"].long()
    new = case.stored["out.eval_one.generated_ids_routed"].shape[1] - 1
    model.backbone.hf.generation_config.min_new_tokens = new  # the case was recorded with the end token suppressed

    def generated(level: int) -> Tensor:
        # The authors' transformers puts a begin token before what is generated.
        return torch.cat([torch.tensor([[BEGIN]]), model.generate_ids(batch, [level], max_new_tokens=new)], dim=1)

    found = {f"out.eval_one.generated_ids_{n}": generated(i) for i, n in enumerate(model.granularities.tokens)}
    return found | {
        "out.eval_one.prompt_ids": batch.input_ids,
        "out.eval_one.router_logits": logits,
        "out.eval_one.logit_positions": positions,
        "out.eval_one.logits": model.backbone.hf.lm_head(hidden[positions]),
        "out.eval_one.generated_ids_routed": generated(routed),
    }


def stage3(case: GoldenCase) -> dict[str, Tensor]:
    """One step of multi-granularity tuning, up to the gradients."""
    stage = MultiGranularityTuning(case.model, Optimization(lr=1.0))
    stage.configure_model()
    parts = stage.loss(case.batch())
    parts["loss"].backward()
    found = {
        "out.stage3.loss_per_granularity": torch.stack([parts[f"loss@{n}"] for n in stage.granularities.tokens]),
        "out.stage3.total_loss": parts["loss"],
    }
    return found | gradients(stage.model, "out.stage3")


def stage4(case: GoldenCase) -> dict[str, Tensor]:
    """One step of RGLF, up to the gradients."""
    weights = {"alpha": case.config["ce_loss_weight"], "ranking_weight": case.config["rank_loss_weight"]}
    stage = RGLF(case.model, Optimization(lr=1.0), **weights)
    stage.configure_model()
    batch = case.batch()
    parts = stage.loss(batch)
    parts["loss"].backward()
    levels = stage.model.encode_levels(batch)
    logits, losses = stage.model.route(batch, levels), -lmm_feedback(stage.model, batch, levels).log_prob
    order = losses.argsort(dim=1)
    found = filtered(stage.model, batch, "out.stage4") | {
        "out.stage4.llm_loss": losses,
        "out.stage4.sort_indices": order,
        "out.stage4.router_logits": logits,
        "out.stage4.router_logits_sorted": logits.gather(1, order),
        "out.stage4.adaptive_rank_loss": parts["ranking_loss"],
        "out.stage4.ce_loss": parts["ce_loss"],
        "out.stage4.total_loss": parts["loss"],
    }
    return found | gradients(stage.model, "out.stage4")


def gradients(model: AvgLlava, name: str) -> dict[str, Tensor]:
    """Every gradient there is, by the authors' names."""
    there = {own: parameter.grad for own, parameter in model.named_parameters() if parameter.grad is not None}
    return {f"{name}.grad.{theirs}": gradient for theirs, gradient in to_release(there).items()}


def keep_input(into: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that keeps what a module is given."""

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        into[name] = inputs[0]

    return keep
