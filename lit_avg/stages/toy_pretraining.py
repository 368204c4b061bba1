"""Stage 0: a toy vision encoder and a toy LLM, pretrained here in place of those that real runs download.

Both are tiny, trained within half a minute each on one core, and saved as transformers folders, so that stages 1 to 4
take them up exactly as they take up CLIP and Vicuna. Neither has seen the other: the encoder learns what every patch
shows, the LLM to read an image that is spelled in words.
"""

from pathlib import Path

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from lit_avg.batch import NO_DIGIT, UNLABELLED, PatchBatch, SymbolBatch
from lit_avg.llava_next.llm_input import llm_input
from lit_avg.stages.finite_training import FiniteTraining
from lit_avg.training.optim import Optimization, ParameterGroup, adamw_with_cosine
from lit_avg.utils.arguments import check_counts, check_number
from lit_avg.utils.atomic_io import whole_folder
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.anyres import VisualLayout
from lit_avg.visual_tokens.granularity import Granularities
from lit_avg.visual_tokens.scaler import GranularityScaler

COLOURS = 6
"""Colours a patch may have."""

DIGIT_HEADS = ("tens", "units")
"""Heads that only few patches have something to say to."""


def check_sizes(hidden_size: int, num_attention_heads: int, **others: int) -> None:
    """Refuse sizes that no transformer has.

    Raises:
        UserError: one is below 1, or the heads do not divide the width.
    """
    check_counts({"hidden_size": hidden_size, "num_attention_heads": num_attention_heads, **others})
    if hidden_size % num_attention_heads:
        raise UserError(f"num_attention_heads must divide hidden_size {hidden_size}, but is {num_attention_heads}")


def initialise(model: nn.Module) -> None:
    """Weights that a small transformer learns from quickly; transformers' own are for large ones."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)


class ToyVisionPretraining(FiniteTraining):
    """A small CLIP vision encoder that learns what every patch shows; a linear head on each patch asks for it.

    Args:
        optimization: AdamW and schedule.
        hidden_size: width.
        intermediate_size: width of the feed-forward layers.
        num_hidden_layers: depth.
        num_attention_heads: heads.
        image_size: side of a tile in pixels.
        patch_size: side of a patch in pixels.
    """

    def __init__(
        self,
        optimization: Optimization,
        hidden_size: int = 64,
        intermediate_size: int = 256,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        image_size: int = 64,
        patch_size: int = 8,
    ) -> None:
        super().__init__()
        check_sizes(
            hidden_size, num_attention_heads, intermediate_size=intermediate_size, num_hidden_layers=num_hidden_layers
        )
        check_counts({"patch_size": patch_size, "image_size": image_size})
        if image_size % patch_size:
            raise UserError(f"image_size must be made of whole patches of {patch_size} pixels, but is {image_size}")
        self.save_hyperparameters()
        self.optimization = optimization
        self.encoder = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=hidden_size,
                intermediate_size=intermediate_size,
                num_hidden_layers=num_hidden_layers,
                num_attention_heads=num_attention_heads,
                image_size=image_size,
                patch_size=patch_size,
            )
        )
        self.side = image_size // patch_size
        sizes = {"tens": NO_DIGIT + 1, "units": NO_DIGIT + 1, "jersey": 2, "colour": COLOURS}
        sizes |= {"row": self.side, "column": self.side, "global_view": 2, "brightness": 1}
        self.heads = nn.ModuleDict({name: nn.Linear(hidden_size, size) for name, size in sizes.items()})
        initialise(self.encoder)
        for head in self.heads.children():
            nn.init.zeros_(head.weight)  # pyright: ignore[reportArgumentType]  nn.ModuleDict forgets what it holds
        nn.init.normal_(self.encoder.embeddings.position_embedding.weight, std=0.4)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Views (V, 3, S, S) to what the heads say, (V, P, classes) each.

        They read the last hidden state before the encoder's final norm, which is what a backbone with
        `vision_feature_layer: -1` reads.
        """
        hidden = self.encoder(pixel_values, output_hidden_states=True).hidden_states[-1][:, 1:]  # without CLS
        return {name: head(hidden) for name, head in self.heads.items()}

    def loss(self, batch: PatchBatch) -> dict[str, Tensor]:
        """The sum of all heads' losses under `loss`, and each one's own."""
        said = self(batch.pixel_values)
        brightness = said.pop("brightness").squeeze(2)
        losses = {name: self._head_loss(name, logits, batch) for name, logits in said.items()}
        lit = ~batch.brightness.isnan()
        errors = (brightness[lit] - batch.brightness[lit]).square()
        losses["brightness"] = 10 * (errors.mean() if len(errors) else errors.sum())  # of nothing there is no mean
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _head_loss(self, name: str, logits: Tensor, batch: PatchBatch) -> Tensor:
        """Mean cross-entropy over patches; the few that show a digit count most, and more in a tile.

        Those that show a jersey count more than those beside it, or boards are taken for jerseys in the global view.
        """
        truth = self.truth(batch, name)
        loss = F.cross_entropy(logits.transpose(1, 2), truth, ignore_index=UNLABELLED, reduction="none")  # (V, P)
        if name == "jersey":
            weight = 1.0 + truth
            return 3 * (weight * loss).sum() / weight.sum()
        if name not in DIGIT_HEADS:
            return loss.mean()
        weight = torch.where(truth == NO_DIGIT, 0.1, 1.0) * torch.where(batch.global_view == 1, 0.2, 1.0).unsqueeze(1)
        return 3 * (weight * loss).sum() / weight.sum()

    def truth(self, batch: PatchBatch, name: str) -> Tensor:
        """(V, P) what a head should say."""
        views, patches = batch.tens.shape
        place = torch.arange(patches, device=batch.tens.device)
        known = {"row": place // self.side, "column": place % self.side, "global_view": batch.global_view.unsqueeze(1)}
        return known[name].expand(views, patches) if name in known else getattr(batch, name)

    def training_step(self, batch: PatchBatch, batch_idx: int) -> Tensor:
        """One step on one batch."""
        parts = self.loss(batch)
        self.watch_loss(parts["loss"], [f"those of batch {batch_idx}"])
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, batch_size=len(batch.tens))
        return parts["loss"]

    def validation_step(self, batch: PatchBatch, batch_idx: int) -> None:
        """Share of digits read right, over the patches of tiles that show one: the criterion of a good encoder."""
        said = self(batch.pixel_values)
        on_tile = (batch.global_view == 0).unsqueeze(1)
        right: list[Tensor] = []
        for name in DIGIT_HEADS:
            truth = self.truth(batch, name)
            right.append((said[name].argmax(dim=2) == truth)[on_tile & (truth != NO_DIGIT)])
        digits = torch.cat(right).float()
        if len(digits):  # what no digit is shown to tells nothing
            self.log("val/accuracy/digits", digits.mean(), batch_size=len(digits), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and cosine over the run's own number of steps."""
        group = ParameterGroup("encoder", self.optimization.lr, list(self.parameters()))
        return adamw_with_cosine([group], int(self.trainer.estimated_stepping_batches), self.optimization)

    def on_fit_end(self) -> None:
        """Save the encoder, without the heads, as a transformers folder."""
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir) / "encoder"
            with whole_folder(folder, replace=True) as partial:
                self.encoder.save_pretrained(partial)


class ToyLLMPretraining(FiniteTraining):
    """A small Llama that learns to answer questions on images spelled in words.

    Each visual token is the weighted sum of the LLM's own embeddings of some words, laid out as the connector's tokens
    will be, with noise on it, since no encoder sees as clearly as that.

    Args:
        optimization: AdamW and schedule.
        vocab_size: size of the vocabulary.
        hidden_size: width.
        intermediate_size: width of the feed-forward layers.
        num_hidden_layers: depth.
        num_attention_heads: heads.
        granularities: levels to read; steps take turns, from the finest on.
        noise: standard deviation of the noise on visual tokens; an embedding's own is 0.5.
    """

    def __init__(
        self,
        optimization: Optimization,
        vocab_size: int = 512,
        hidden_size: int = 64,
        intermediate_size: int = 128,
        num_hidden_layers: int = 3,
        num_attention_heads: int = 4,
        granularities: Granularities | None = None,
        noise: float = 0.25,
    ) -> None:
        super().__init__()
        check_sizes(
            hidden_size, num_attention_heads, intermediate_size=intermediate_size, num_hidden_layers=num_hidden_layers
        )
        check_counts({"vocab_size": vocab_size})
        check_number("noise", noise, least=0)
        self.save_hyperparameters()
        self.optimization = optimization
        self.noise = noise
        self.scaler = GranularityScaler(granularities or Granularities((64,)))
        self.llm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=hidden_size,
                intermediate_size=intermediate_size,
                num_hidden_layers=num_hidden_layers,
                num_attention_heads=num_attention_heads,
            )
        )
        initialise(self.llm)

    def answers(self, batch: SymbolBatch, level: int) -> tuple[Tensor, Tensor]:
        """Log-prob of every answer token, and whether it is the most probable one, (A,) each."""
        granularities = self.scaler.granularities
        rows = llm_input(batch.text, [level] * len(batch.text.input_ids), VisualLayout(granularities))
        hidden = self.llm.model(
            inputs_embeds=self.embeddings(batch, level)[rows.source],
            attention_mask=rows.attention_mask(),
            position_ids=rows.position_ids,
            use_cache=False,
        ).last_hidden_state
        logits = self.llm.lm_head(hidden[rows.answer_row, rows.answer_from])
        log_prob = -F.cross_entropy(logits, rows.answer_token, reduction="none")
        return log_prob, logits.argmax(dim=1) == rows.answer_token

    def embeddings(self, batch: SymbolBatch, level: int) -> Tensor:
        """The table that `LlmInput.source` indexes: newline, text tokens, visual tokens of one level."""
        words = self.llm.model.embed_tokens.weight
        tiles, patches, per_patch = batch.words.shape
        spelled = F.embedding_bag(
            batch.words.view(-1, per_patch), words, per_sample_weights=batch.weights.view(-1, per_patch), mode="sum"
        )
        noisy = (spelled + self.noise * torch.randn_like(spelled)).view(tiles, patches, -1)
        visual = self.scaler.pool(noisy, level).flatten(0, 1)
        text = words[batch.text.input_ids.clamp(min=0)].flatten(0, 1)
        return torch.cat([words[batch.newline].unsqueeze(0), text, visual])

    def training_step(self, batch: SymbolBatch, batch_idx: int) -> Tensor:
        """One step on one batch, at the level whose turn it is."""
        levels = len(self.scaler.granularities)
        log_prob, _ = self.answers(batch, levels - 1 - batch_idx % levels)
        loss = -log_prob.mean()
        self.watch_loss(loss, batch.text.keys)
        self.log("train/loss", loss.detach(), batch_size=len(batch.text.keys), prog_bar=True)
        return loss

    def validation_step(self, batch: SymbolBatch, batch_idx: int) -> None:
        """Share of answer tokens got right at the finest level."""
        _, right = self.answers(batch, len(self.scaler.granularities) - 1)
        self.log("val/accuracy/tokens", right.float().mean(), batch_size=len(right), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and cosine over the run's own number of steps."""
        group = ParameterGroup("llm", self.optimization.lr, list(self.llm.parameters()))
        return adamw_with_cosine([group], int(self.trainer.estimated_stepping_batches), self.optimization)

    def on_fit_end(self) -> None:
        """Save the LLM as a transformers folder."""
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir) / "llm"
            with whole_folder(folder, replace=True) as partial:
                self.llm.save_pretrained(partial)
