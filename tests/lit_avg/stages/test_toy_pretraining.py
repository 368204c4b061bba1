from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch

from datamodules.jersey import JerseyPatches, JerseySymbols
from lit_avg.llava_next.backbone import Backbone
from lit_avg.stages.toy_pretraining import ToyLLMPretraining, ToyVisionPretraining
from lit_avg.training.optim import Optimization
from lit_avg.visual_tokens.granularity import Granularities

SETTINGS = Optimization(lr=3e-3, betas=(0.9, 0.98))
VISION = {"model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 4, "image_size": 64, "patch_size": 8}
LLM = {"model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
LLM |= {"num_attention_heads": 4, "num_key_value_heads": 4}


@pytest.fixture
def patches() -> JerseyPatches:
    data = JerseyPatches(batch_size=8, images_train=16, images_val=8)
    data.setup("fit")
    return data


@pytest.fixture
def symbols() -> JerseySymbols:
    data = JerseySymbols(batch_size=4, scenes_train=16, scenes_val=8)
    data.setup("fit")
    return data


@pytest.fixture
def backbone() -> Backbone:
    return Backbone(vision_encoder=VISION, llm=LLM, vision_feature_layer=-1)


@pytest.fixture
def fit(tmp_path: Path) -> Callable[[L.LightningModule, L.LightningDataModule], Path]:
    def run(module: L.LightningModule, data: L.LightningDataModule) -> Path:
        trainer = L.Trainer(
            default_root_dir=tmp_path,
            max_steps=6,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data)
        return tmp_path

    return run


def test_the_encoder_is_saved_as_a_backbone_takes_it_up_and_reads_it(
    patches: JerseyPatches, backbone: Backbone, fit: Callable[..., Path]
) -> None:
    torch.manual_seed(0)
    module = ToyVisionPretraining(SETTINGS)
    batch = next(iter(patches.val_dataloader()))
    before = module.loss(batch)["loss"].item()
    folder = fit(module, patches)
    assert module.loss(batch)["loss"].item() < 0.9 * before
    backbone.load_part("vision_encoder", str(folder / "encoder"))
    backbone.hf.model.multi_modal_projector = torch.nn.Identity()
    with torch.no_grad():
        read = module.heads["tens"](backbone.encode(batch.pixel_values))
        assert torch.allclose(read, module(batch.pixel_values)["tens"], atol=1e-5)


def test_an_encoder_that_reads_every_digit_scores_one(patches: JerseyPatches) -> None:
    batch = next(iter(patches.val_dataloader()))

    class Clairvoyant(ToyVisionPretraining):
        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            return {name: torch.nn.functional.one_hot(self.truth(batch, name), 11) for name in ("tens", "units")}

    module = Clairvoyant(SETTINGS)
    scores: dict[str, float] = {}
    module.log = lambda name, value, **_: scores.update({name: value.item()})
    module.validation_step(batch, 0)
    assert scores == {"val/accuracy/digits": 1.0}


def test_a_visual_token_is_the_weighted_sum_of_its_words_and_pooled_by_averaging(symbols: JerseySymbols) -> None:
    module = ToyLLMPretraining(SETTINGS, granularities=Granularities((32, 64)), noise=0.0)
    batch = next(iter(symbols.val_dataloader()))
    words = module.llm.model.embed_tokens.weight
    first_visual = 1 + batch.text.input_ids.numel()
    fine, coarse = module.embeddings(batch, 1), module.embeddings(batch, 0)
    assert torch.equal(fine[0], words[batch.newline])
    assert torch.equal(fine[1], words[batch.text.input_ids[0, 0]])
    by_hand = sum(weight * words[word] for word, weight in zip(batch.words[0, 0], batch.weights[0, 0], strict=True))
    assert torch.allclose(fine[first_visual], by_hand, atol=1e-5)
    assert torch.allclose(coarse[first_visual], fine[first_visual : first_visual + 2].mean(dim=0), atol=1e-5)


def test_the_llm_learns_and_is_saved_as_a_backbone_takes_it_up(
    symbols: JerseySymbols, backbone: Backbone, fit: Callable[..., Path]
) -> None:
    torch.manual_seed(0)
    module = ToyLLMPretraining(SETTINGS)
    batch = next(iter(symbols.val_dataloader()))
    before = module.answers(batch, 0)[0].mean().item()
    folder = fit(module, symbols)
    assert module.answers(batch, 0)[0].mean().item() > 0.9 * before  # log-probabilities are negative
    backbone.load_part("llm", str(folder / "llm"))
    ids = torch.arange(10).unsqueeze(0)
    with torch.no_grad():
        hidden = backbone.hf.model.language_model(ids).last_hidden_state
        assert torch.allclose(backbone.hf.lm_head(hidden), module.llm(ids).logits, atol=1e-5)
