"""Stage 2: visual instruction tuning at the finest granularity (paper, section 3.3)."""

from typing import ClassVar

from lit_avg.stages.base import Stage
from lit_avg.stages.trained_parts import Part


class InstructionTuning(Stage):
    """The base class's loss on instructions; everything but the router is trained."""

    trains: ClassVar[tuple[Part, ...]] = ("vision_encoder", "connector", "llm")
    starts_from: ClassVar[tuple[str, ...]] = ("Pretrain",)
