"""`ImageGallery`: a few images with question, answer at each granularity, and the granularity chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import torch
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.run_context import logged_step, shards_data, stage_and_outcomes, tensorboard
from callbacks.watcher import DrawingWatcher
from lit_avg.batch import PADDING, Batch
from lit_avg.data import ShardsData
from lit_avg.llava_next.llm_input import separate_questions
from lit_avg.stages.base import Stage
from lit_avg.utils.arguments import check_counts


@dataclass(frozen=True)
class Answered:
    """One question on an image."""

    question: str
    truth: str
    answers: list[str]  # N, coarse to fine
    chosen: int  # level


class ImageGallery(DrawingWatcher):
    """After each validation of a run: the first images of the validation split in TensorBoard.

    Only in runs that have their LLM, not those on stored feedback; and of one process: to generate is a matter for all
    ranks of a sharded model, and they would not agree on when to stop.

    Args:
        images: how many.
        questions: questions shown of each image, at most.
        max_new_tokens: length of an answer, at most.
    """

    drawn = "images with their answers"

    def __init__(self, images: int = 4, questions: int = 5, max_new_tokens: int = 8) -> None:
        check_counts({"images": images, "questions": questions, "max_new_tokens": max_new_tokens})
        self.images = images
        self.questions = questions
        self.max_new_tokens = max_new_tokens
        self._batch: Batch | None = None

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first batch."""
        if batch_idx == 0 and isinstance(batch, Batch):
            self._batch = first_images(batch, self.images, self.questions)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Answer its questions at every level and show them."""
        found, writer, batch = stage_and_outcomes(trainer, pl_module), tensorboard(trainer), self._batch
        data = shards_data(trainer)
        self._batch = None
        if (
            found is None
            or writer is None
            or batch is None
            or data is None
            or (shades := data.denormalise(batch.pixel_values.float().cpu())) is None
            or trainer.world_size > 1
            or found[0].model.backbone.llm_not_loaded is not None
        ):
            return
        answered = answer_everywhere(found[0], batch, data, self.max_new_tokens)
        images = batch.image_of_question.tolist()
        for image in range(len(batch.tile_grids)):
            told = [one for one, of_image in zip(answered, images, strict=True) if of_image == image]
            figure = image_figure(pixels_of(batch, image, shades), told, found[0].granularities.tokens)
            writer.add_figure(f"images/{image}", figure, logged_step(trainer))


def first_images(batch: Batch, images: int, questions: int) -> Batch | None:
    """The first questions on the first images of a batch, a row each; None where there is no image."""
    image_of_question = batch.image_of_question.tolist()
    chosen = [
        question
        for image in range(min(images, len(batch.tile_grids)))
        for question in [number for number, of_image in enumerate(image_of_question) if of_image == image][:questions]
    ]
    if not chosen:
        return None
    apart = separate_questions(batch)
    rows = torch.tensor(chosen, device=apart.question.device)
    question = apart.question[rows]
    numbers = torch.arange(len(chosen), device=question.device).unsqueeze(1).expand_as(question)
    return replace(
        apart,
        input_ids=apart.input_ids[rows],
        labels=apart.labels[rows],
        instruction=apart.instruction[rows],
        question=torch.where(question >= 0, numbers, question),
        image_of_row=apart.image_of_row[rows],
        pixel_values=apart.pixel_values[: sum(apart.tiles[:images])],
        tile_grids=apart.tile_grids[:images],
        image_sizes=apart.image_sizes[:images],
        image_hashes=apart.image_hashes[:images],
        keys=[apart.keys[row] for row in chosen],
        kinds=[apart.kinds[row] for row in chosen],
        answers=[apart.answers[row] for row in chosen],
    )


@torch.no_grad()
def answer_everywhere(stage: Stage, batch: Batch, data: ShardsData, max_new_tokens: int) -> list[Answered]:
    """Generate the answer to each question (a row each) at every level."""
    levels, rows = range(len(stage.granularities)), len(batch.keys)
    generated = [stage.model.generate_ids(batch, [level] * rows, max_new_tokens).cpu() for level in levels]
    outcomes = stage.evaluate(batch)
    chosen = outcomes.chosen_by(stage.own_policy).tolist()
    return [
        Answered(
            question=data.decode(batch.input_ids[row][batch.instruction[row] & (batch.question[row] != PADDING)]),
            truth=batch.answers[row],
            answers=[_until_end(data, ids[row], stage.model.backbone.end_tokens) for ids in generated],
            chosen=chosen[row],
        )
        for row in range(rows)
    ]


def pixels_of(batch: Batch, image: int, shades: Tensor) -> Tensor:
    """One image as its tiles show it, (height, width, 3) in [0, 1]: the plane of tiles, or the global view alone.

    Args:
        batch: that has the image.
        image: its number.
        shades: of all the batch's tiles, (tiles, 3, S, S).
    """
    begin = sum(batch.tiles[:image])
    (rows, columns), side = batch.tile_grids[image], shades.shape[-1]
    tiles = shades[begin + 1 : begin + 1 + rows * columns]
    if rows * columns:
        plane = tiles.view(rows, columns, 3, side, side).permute(0, 3, 1, 4, 2).reshape(rows * side, columns * side, 3)
    else:
        plane = shades[begin].permute(1, 2, 0)
    return plane.clamp(0, 1)


def image_figure(pixels: Tensor, told: list[Answered], tokens: Sequence[int]) -> Figure:
    """The image on the left; on the right a line a question, the chosen level in a frame, wrong answers in red."""
    figure = Figure(figsize=(11, max(2.0, 0.6 + 0.45 * len(told))), layout="constrained")
    shown, listed = figure.subplots(1, 2, width_ratios=(1, 3.2))
    shown.imshow(pixels.numpy(), interpolation="nearest")
    shown.set_axis_off()
    listed.set_axis_off()
    header = ["question", "answer", *(f"{count} tokens" for count in tokens)]
    rows = [
        [_short(one.question, 40), _short(one.truth, 14), *(_short(answer, 13) for answer in one.answers)]
        for one in told
    ]
    widths = [0.34, 0.12, *[0.54 / len(tokens)] * len(tokens)]
    table = listed.table(rows, colLabels=header, colWidths=widths, loc="center", cellLoc="left", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.scale(1, 1.5)
    for cell in table.get_celld().values():
        cell.get_text().set_parse_math(False)  # a $ in an answer is money
    for row, one in enumerate(told, start=1):
        for level, answer in enumerate(one.answers):
            cell = table[row, 2 + level]
            cell.get_text().set_color("black" if answer == one.truth else "#b2182b")
            if level == one.chosen:
                cell.visible_edges = "closed"
                cell.set_linewidth(2)
                cell.set_zorder(2)
    figure.text(
        0.99, 0.01, "framed: the granularity chosen · red: not the answer", ha="right", fontsize=7, color="gray"
    )
    return figure


def _until_end(data: ShardsData, ids: Tensor, end_tokens: Sequence[int]) -> str:
    """Text of generated tokens up to the first end token."""
    ends = torch.isin(ids, torch.tensor(end_tokens, dtype=ids.dtype)).nonzero()
    return data.decode(ids[: int(ends[0])] if len(ends) else ids).strip()


def _short(text: str, length: int) -> str:
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))
    return text if len(text) <= length else text[: length - 1] + "…"
