"""`lit-avg export`: a run's model as a folder that transformers, and `AvgLlava.from_pretrained`, can load.

    lit-avg export --ckpt runs/jersey/stage4 --out exported

The folder holds a plain LLaVA-NeXT with its processor, the router beside it, and a model card; an adapter of the LLM is
merged into it. Before it is written the model scores a fixed prompt; afterwards transformers alone does, and the
largest difference is printed. Both compute in float32 at least, whatever the weights are. With `--adapter` the folder
holds the adapter alone, as peft writes it, for whoever has the LLM.

Where the vocabulary has no room for `<image>` it grows. A new row of the LM head is the mean of the old ones, so its
logit is the mean of theirs: never the largest, and at most as probable as one over their number. In the folder's
generation config new tokens are suppressed, so that sampling cannot choose them either.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoProcessor, LlavaNextForConditionalGeneration

from lit_avg.batch import IGNORED_LABEL
from lit_avg.commands.fit import quiet_lightning
from lit_avg.commands.offline import finished_run, take_over_trained
from lit_avg.data import ShardsData, no_processor
from lit_avg.llava_next.lora import save_adapter
from lit_avg.llava_next.prompts import PromptEncoder
from lit_avg.model import AvgLlava
from lit_avg.result_names import ACCURACY, RESULT, TOKEN_SHARE, RunResult
from lit_avg.runs.recorded_hashes import read_result
from lit_avg.stages.base import Stage
from lit_avg.studies.report.numbers import number
from lit_avg.training.handover import pretrained_origin
from lit_avg.utils.atomic_io import whole_folder
from lit_avg.utils.command_line import VerbParser
from lit_avg.utils.errors import UserError
from lit_avg.utils.finite import check_feedback, check_scores


def model_card(stage: Stage, name: str, result: RunResult) -> str:
    """Markdown with the front matter that the Hugging Face hub reads.

    Args:
        stage: the trained stage.
        name: of the folder.
        result: the run's `result.json`; empty if there is none.
    """
    tokens = ", ".join(map(str, stage.granularities.tokens))
    routed = "router" in stage.trains
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\ntags: [llava-next, avg-llava]\n---",
        f"# {name}",
        f"AVG-LLaVA (arXiv 2410.02745): a LLaVA-NeXT that can look at an image at {tokens} tokens per tile"
        + (", and a router that picks one from image and question." if routed else ". Its router is untrained."),
        f"## Training\n\n{_training(stage, result)}",
        f"## Results\n\n{_results(result)}",
        f"## Use\n\n{_use(name)}",
    ]
    return "\n\n".join(parts) + "\n"


def _training(stage: Stage, result: RunResult) -> str:
    known = {
        "stage": type(stage).__name__,
        "started from": stage.init_from or "pretrained parts",
        "data (hash of its manifests)": result.get("data"),
        "seed": result.get("seed"),
        "commit": result.get("commit"),
    }
    return "\n".join(f"- {what}: {value}" for what, value in known.items() if value is not None)


def _results(result: RunResult) -> str:
    metrics: Mapping[str, object] = result.get("metrics", {})
    numbers = {name: found for name, value in metrics.items() if (found := number(value)) is not None}
    told = {
        name: value for name, value in numbers.items() if name.endswith((ACCURACY.name, TOKEN_SHARE.name, "val/loss"))
    }
    if not told:
        return "None were recorded."
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in sorted(told.items()))
    return f"| metric | value |\n|---|---|\n{rows}"


def _use(name: str) -> str:
    return f"""At the finest granularity it is a plain LLaVA-NeXT:

```python
from transformers import AutoProcessor, LlavaNextForConditionalGeneration

model = LlavaNextForConditionalGeneration.from_pretrained("{name}")
processor = AutoProcessor.from_pretrained("{name}")
said = [{{"role": "user", "content": [{{"type": "image"}}, {{"type": "text", "text": "What is this?"}}]}}]
text = processor.apply_chat_template(said, add_generation_prompt=True)
output = model.generate(**processor(images=image, text=text, return_tensors="pt"), max_new_tokens=128)
```

`pipeline("image-text-to-text", "{name}")` takes such chats as well. Content may also be a string, with `<image>` and a
new line before the words. The chat template writes all special tokens, so the tokenizer adds none by itself. The model
was trained on at most one image, before the first question; of several, each is shown, but what comes of it was not
measured.

Where the text is not your own, let `apply_chat_template` tokenise it with `sanitize_control_tokens=True`: what spells a
special token is then text, as in training. Give images upright and in RGB: `transformers` does not turn them as their
EXIF data say, and clips those of more than 8 bits, which training scaled.

With the router:

```python
from lit_avg.model import AvgLlava

answers = AvgLlava.from_pretrained("{name}").generate([image], ["What is this?"])
```"""


PROMPT = "What is in this image?"

LARGEST_DIFFERENCE = 1e-3
"""Of log-probs, in nats: far above float32's rounding, far below what a wrong weight does."""


def main(argv: list[str]) -> int:
    """Write the folder.

    Raises:
        UserError: there is no finished run, the folder is taken, or what was written does not compute the same.
    """
    parser = VerbParser(prog="lit-avg export", description="Write a run's model for transformers and for others.")
    parser.add_argument("--ckpt", required=True, help="run directory, or a checkpoint in one")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--adapter", action="store_true", help="write the LLM's adapter alone, for peft")
    arguments = parser.parse_args(argv)
    quiet_lightning()
    out = cast(Path, arguments.out)
    if out.exists():
        raise UserError(f"--out: {out} is there already; name a folder that is not")
    stage, run = trained_stage(arguments.ckpt)
    if arguments.adapter:
        base = export_adapter(stage, arguments.ckpt, out)
        print(f"wrote {out}: the adapter of {base}, for peft.PeftModel.from_pretrained")
        return 0
    difference = export(stage, run, out)
    print(f"wrote {out}; transformers alone differs by at most {difference:.1e} nats per token on a fixed prompt")
    if not stage.model.router_is_trained:
        print(
            f"{type(stage).__name__} trains no router: its own is random, so that `AvgLlava.generate` looks at "
            "the finest granularity unless it is given a policy",
            file=sys.stderr,
        )
    return 0


def trained_stage(source: str) -> tuple[Stage, Path]:
    """The stage of a run with its trained weights and its trainer, and the run's directory.

    Raises:
        UserError: there is no checkpoint, or no config beside it.
    """
    cli, run = finished_run(source)
    if not isinstance(cli.datamodule, ShardsData):
        raise no_processor(cli.datamodule)
    stage = cli.stage
    take_over_trained(stage, cli.trainer, source)
    vision = cast(Any, stage.model.backbone.hf.config)
    processor = cli.datamodule.processor(vision.vision_config.patch_size, vision.vision_feature_select_strategy)
    stage.model.prompt_encoder = PromptEncoder(processor)
    stage.model.eval()
    stage.model.router_is_trained = "router" in stage.trains
    return stage, run


def export(stage: Stage, run: Path, out: Path) -> float:
    """Write a trained stage's model; the largest difference in nats between it and what transformers makes of it.

    Raises:
        UserError: the difference is larger than rounding explains.
    """
    model = stage.model
    before = in_full_precision(model, own_log_probs)
    if model.backbone.lora is not None:
        before = merge_adapter(model, before)
    vocabulary = make_readable_by_transformers(model)
    with whole_folder(out) as partial:
        model.save_pretrained(partial)
        (partial / "README.md").write_text(model_card(stage, out.name, results_of(run)), encoding="utf-8")
        model.backbone.to_empty(device="meta")  # what was written is read back, and two of them may be too many
        difference = float((before - log_probs_of_transformers(partial, vocabulary)).abs().max())
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(f"what was written differs by {difference:.1e} nats from the model; please report this")
    return difference


def export_adapter(stage: Stage, source: str, out: Path) -> str:
    """Write the LLM's adapter alone; gives the hub id or folder of the LLM that it is for.

    Raises:
        UserError: there is none, or the LLM below it is no pretrained one.
    """
    backbone = stage.model.backbone
    if backbone.lora is None:
        raise UserError(f"--adapter: {source} has no adapter; give its backbone `lora` and train it, or leave this out")
    base = pretrained_origin(source, "llm")
    with whole_folder(out) as partial:
        save_adapter(backbone.hf.model.language_model, backbone.lora, base, partial)
        card = f"---\nlibrary_name: peft\nbase_model: {base}\ntags: [avg-llava, lora]\n---\n\n# {out.name}\n\n"
        told = f"What AVG-LLaVA's training added to {base}, {backbone.lora}; without connector, encoder and router."
        (partial / "README.md").write_text(f"{card}{told}\n\n## Training\n\n{_training(stage, {})}\n", encoding="utf-8")
    return base


def merge_adapter(model: AvgLlava, before: Tensor) -> Tensor:
    """Merge the adapter into the LLM, and measure it anew: weights of half precision are rounded.

    Args:
        model: has an adapter.
        before: its log-probs so far.

    Raises:
        UserError: they differ by more than rounding explains.
    """
    dtype = model.backbone.image_newline.dtype
    full = torch.promote_types(dtype, torch.float32)
    model.to(full).backbone.merge_adapter()
    model.to(dtype)
    merged = in_full_precision(model, own_log_probs)
    difference = float((before - merged).abs().max())
    if dtype == full and not difference <= LARGEST_DIFFERENCE:
        raise UserError(f"merging the adapter changes the model by {difference:.1e} nats; please report this")
    if dtype != full:
        print(f"merged weights are rounded to {dtype}: log-probs change by up to {difference:.1e}", file=sys.stderr)
    return merged


def make_readable_by_transformers(model: AvgLlava) -> int:
    """Tell the backbone's config what the processor does, and give the image's token a row in the embedding table.

    Returns:
        How many tokens the LLM knew before.
    """
    assert model.prompt_encoder is not None
    hf, image_id = model.backbone.hf, model.prompt_encoder.image_id
    vocabulary = cast(nn.Embedding, hf.get_input_embeddings()).num_embeddings
    if image_id >= vocabulary:
        grow_vocabulary(hf, image_id + 1)
    config = cast(Any, hf.config)
    config.image_token_id = image_id
    config.image_grid_pinpoints = model.prompt_encoder.image_processor.image_grid_pinpoints
    return vocabulary


@torch.no_grad()
def grow_vocabulary(hf: LlavaNextForConditionalGeneration, size: int) -> None:
    """Add rows to embeddings and LM head that nothing is read from and that no answer can be made of."""
    before = cast(nn.Embedding, hf.get_input_embeddings()).num_embeddings
    hf.resize_token_embeddings(size, mean_resizing=False)
    for module in (hf.get_input_embeddings(), hf.get_output_embeddings()):  # one table, maybe
        weight = cast(nn.Embedding, module).weight
        weight[before:] = weight[:before].mean(dim=0, dtype=torch.promote_types(weight.dtype, torch.float32))
    generation = hf.generation_config
    generation.suppress_tokens = [*(cast(list[int] | None, generation.suppress_tokens) or []), *range(before, size)]


def in_full_precision(model: AvgLlava, measure: Callable[[AvgLlava], Tensor]) -> Tensor:
    """Measure a model in float32, or finer where it is; what its weights are makes no difference to them."""
    dtype = model.backbone.image_newline.dtype
    measured = measure(model.to(torch.promote_types(dtype, torch.float32)))
    model.to(dtype)
    return measured


def own_log_probs(model: AvgLlava) -> Tensor:
    """Log-prob of each text token behind the image, (T,), at the finest granularity.

    Raises:
        UserError: they, or what the router says, are not finite.
    """
    assert model.prompt_encoder is not None
    batch = model.prompt_encoder([fixed_image()], [PROMPT])
    batch.labels = torch.where(batch.question >= 0, batch.input_ids, IGNORED_LABEL)
    with torch.no_grad():
        levels = model.encode_levels(batch)
        log_probs = model.answer_tokens_at(batch, levels, len(levels) - 1).log_prob
        check_feedback(batch.keys, log_probs.unsqueeze(0))
        check_scores(batch.keys, model.route(batch, levels).float().log_softmax(dim=1))
    return log_probs


def log_probs_of_transformers(folder: Path, vocabulary: int | None = None) -> Tensor:
    """The same with nothing but transformers, among the first tokens of a `vocabulary`, if it is not to be all."""
    hf = LlavaNextForConditionalGeneration.from_pretrained(folder).eval()
    hf.to(torch.promote_types(hf.dtype, torch.float32))  # pyright: ignore[reportArgumentType]  its stub has a decorator's type
    processor = cast(Any, AutoProcessor.from_pretrained(folder))
    said = [{"role": "user", "content": f"<image>\n{PROMPT}"}]
    text = processor.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=fixed_image(), text=text, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        log_probs = cast(Any, hf)(**inputs).logits[0, :, :vocabulary].float().log_softmax(dim=1)
    ids: Tensor = inputs["input_ids"][0]
    behind = int((ids == cast(Any, hf.config).image_token_id).nonzero()[-1]) + 1
    return log_probs[torch.arange(behind - 1, len(ids) - 1), ids[behind:]]


def fixed_image() -> Image.Image:
    """Coloured noise, wide enough for tiles and padding."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 110, 3), dtype=np.uint8))


def results_of(run: Path) -> RunResult:
    """What the run has measured; nothing if it has not come to its end."""
    path = run / RESULT
    return read_result(path) if path.is_file() else RunResult()
