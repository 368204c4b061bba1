"""Stage 0: stand-ins for what real runs download, a pretrained vision encoder and a pretrained LLM.

Both are tiny, trained within half a minute each on one core, and saved as transformers folders, so that stages 1 to 4
take them up exactly as they take up CLIP and Vicuna. Neither has seen the other: the encoder learns what every patch
shows, the LLM to read a picture that is spelled in words.
"""

from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from lit_avg.optim import Optimization, ParameterGroup, adamw_with_cosine
from lit_avg.stand_in_batch import NO_DIGIT, UNLABELLED, PatchBatch

COLOURS = 6
"""Colours a patch may have."""


def initialise(model: nn.Module) -> None:
    """Weights that a small transformer learns from quickly; transformers' own are for large ones."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)


class EncoderStandIn(L.LightningModule):
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
        initialise(self)
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
        losses = {
            name: F.cross_entropy(logits.flatten(0, 1), self.truth(batch, name).flatten(), ignore_index=UNLABELLED)
            for name, logits in said.items()
        }
        error = brightness - batch.brightness
        losses["brightness"] = 10 * error[~error.isnan()].square().mean()
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def truth(self, batch: PatchBatch, name: str) -> Tensor:
        """(V, P) what a head should say."""
        views, patches = batch.tens.shape
        place = torch.arange(patches, device=batch.tens.device)
        known = {"row": place // self.side, "column": place % self.side, "global_view": batch.global_view.unsqueeze(1)}
        return known[name].expand(views, patches) if name in known else getattr(batch, name)

    def training_step(self, batch: PatchBatch, batch_idx: int) -> Tensor:
        """One step on one batch."""
        parts = self.loss(batch)
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, batch_size=len(batch.tens))
        return parts["loss"]

    def validation_step(self, batch: PatchBatch, batch_idx: int) -> None:
        """Share of right answers on the patches of tiles that show a digit; the criterion of a good stand-in."""
        said = self(batch.pixel_values)
        for name in ("tens", "units"):
            truth = getattr(batch, name)
            for where, views in {"digits": batch.global_view == 0, "global_digits": batch.global_view == 1}.items():
                asked = (truth != NO_DIGIT) & views.unsqueeze(1)
                right = (said[name].argmax(dim=2) == truth)[asked].float().mean()
                self.log(f"val/{where}/{name}", right, batch_size=int(asked.sum()))
        asked = batch.colour != UNLABELLED
        self.log("val/colour", (said["colour"].argmax(2) == batch.colour)[asked].float().mean())
        self.log("val/jersey", (said["jersey"].argmax(2) == batch.jersey)[asked].float().mean())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and cosine over the run's own number of steps."""
        group = ParameterGroup("encoder", self.optimization.lr, list(self.parameters()))
        return adamw_with_cosine([group], int(self.trainer.estimated_stepping_batches), self.optimization)

    def on_fit_end(self) -> None:
        """Save the encoder, without the heads, as a transformers folder."""
        if self.trainer.is_global_zero:
            self.encoder.save_pretrained(Path(self.trainer.default_root_dir) / "encoder")
