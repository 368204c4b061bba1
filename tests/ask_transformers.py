"""An exported folder as others use it, with transformers and nothing of this project.

    python -I tests/ask_transformers.py FOLDER PICTURE PROMPT ANSWERS

ANSWERS is a file of tensors: log-probs (T, V) behind the image, the greedy answer's token ids, and those of a sample.
"""

import sys

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoProcessor, LlavaNextForConditionalGeneration


@torch.no_grad()
def ask(folder: str, image: Image.Image, prompt: str) -> dict[str, torch.Tensor]:
    """What transformers makes of an image and a prompt, in float32 at least."""
    model = LlavaNextForConditionalGeneration.from_pretrained(folder).eval()
    model.to(torch.promote_types(model.dtype, torch.float32))  # pyright: ignore[reportArgumentType]  its stub has a decorator's type
    processor = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(
        [{"role": "user", "content": f"<image>\n{prompt}"}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(images=image, text=text, add_special_tokens=False, return_tensors="pt")
    ids, begin = inputs["input_ids"][0], inputs["input_ids"].shape[1]
    behind = int((ids == model.config.image_token_id).nonzero()[-1]) + 1
    torch.manual_seed(0)
    sampled = model.generate(**inputs, do_sample=True, temperature=50.0, top_k=0, max_new_tokens=200)[0, begin:]
    return {
        "log_probs": model(**inputs).logits[0, behind - 1 :].float().log_softmax(dim=1).contiguous(),
        "greedy": model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, begin:].contiguous(),
        "sampled": sampled.contiguous(),
    }


if __name__ == "__main__":
    exported, image, asked, answers = sys.argv[1:]
    save_file(ask(exported, Image.open(image), asked), answers)
    ours = {name.partition(".")[0] for name in sys.modules} & {"lit_avg", "datamodules", "callbacks"}
    sys.exit(f"this project was loaded: {ours}" if ours else 0)
