"""Data that fills a `lit_avg.batch.Batch`: one module per data set over a shared stream of shards.

The classes are loaded when asked for, so that packing data does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules.allava import ALLaVA
    from datamodules.cc595k import CC595K
    from datamodules.instruction_mix import InstructionMix
    from datamodules.jersey import Jersey
    from datamodules.llava_shards import LLaVAShards

__all__ = ["CC595K", "ALLaVA", "InstructionMix", "Jersey", "LLaVAShards"]

_MODULES = {
    "ALLaVA": "allava",
    "CC595K": "cc595k",
    "InstructionMix": "instruction_mix",
    "Jersey": "jersey",
    "LLaVAShards": "llava_shards",
}


def __getattr__(name: str) -> object:
    """One of the classes."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
