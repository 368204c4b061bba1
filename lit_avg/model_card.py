"""The README.md of an exported model: what it was trained on, its results, how to use it."""

from collections.abc import Mapping
from typing import Any

from lit_avg.stages.base import Stage
from lit_avg.studies.report.numbers import number


def model_card(stage: Stage, name: str, result: Mapping[str, Any]) -> str:
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
        f"AVG-LLaVA (arXiv 2410.02745): a LLaVA-NeXT that can look at a picture at {tokens} tokens per tile"
        + (", and a router that picks one from picture and question." if routed else ". Its router is untrained."),
        f"## Training\n\n{_training(stage, result)}",
        f"## Results\n\n{_results(result)}",
        f"## Use\n\n{_use(name)}",
    ]
    return "\n\n".join(parts) + "\n"


def _training(stage: Stage, result: Mapping[str, Any]) -> str:
    known = {
        "stage": type(stage).__name__,
        "started from": stage.init_from or "pretrained parts",
        "data (hash of its manifests)": result.get("data"),
        "seed": result.get("seed"),
        "commit": result.get("commit"),
    }
    return "\n".join(f"- {what}: {value}" for what, value in known.items() if value is not None)


def _results(result: Mapping[str, Any]) -> str:
    metrics: Mapping[str, object] = result.get("metrics", {})
    numbers = {name: found for name, value in metrics.items() if (found := number(value)) is not None}
    told = {name: value for name, value in numbers.items() if name.endswith(("accuracy", "token_share", "val/loss"))}
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
output = model.generate(**processor(images=picture, text=text, return_tensors="pt"), max_new_tokens=128)
```

`pipeline("image-text-to-text", "{name}")` takes such chats as well. Content may also be a string, with `<image>` and a
new line before the words. The chat template writes all special tokens, so the tokenizer adds none by itself. The model
was trained on at most one image, before the first question; of several, each is shown, but what comes of it was not
measured.

Where the text is not your own, let `apply_chat_template` tokenise it with `sanitize_control_tokens=True`: what spells a
special token is then text, as in training. Give pictures upright and in RGB: `transformers` does not turn them as their
EXIF data say, and clips those of more than 8 bits, which training scaled.

With the router:

```python
from lit_avg.model import AvgLlava

answers = AvgLlava.from_pretrained("{name}").generate([picture], ["What is this?"])
```"""
