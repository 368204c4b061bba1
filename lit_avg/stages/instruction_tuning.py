"""Stage 2: visual instruction tuning at the finest granularity (paper, section 3.3)."""

from typing import ClassVar

from lit_avg.stages.base import Part, Stage


class InstructionTuning(Stage):
    """The base class's loss on instructions; everything but the router is trained."""

    trains: ClassVar[tuple[Part, ...]] = ("vision_encoder", "connector", "llm")
    starts_from: ClassVar[tuple[str, ...]] = ("Pretrain",)
