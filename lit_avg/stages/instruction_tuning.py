"""Stage 2: visual instruction tuning at the finest granularity (paper, section 3.3)."""

from typing import ClassVar

from lit_avg.stages.base import Part
from lit_avg.stages.pretrain import Pretrain


class InstructionTuning(Pretrain):
    """The loss of stage 1 on instructions; everything but the router is trained."""

    trains: ClassVar[tuple[Part, ...]] = ("vision_encoder", "connector", "llm")
    starts_from: ClassVar[tuple[str, ...]] = ("Pretrain",)
