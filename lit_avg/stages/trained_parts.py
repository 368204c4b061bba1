"""Which parts of an `AvgLlava` a run trains: those of its stage that its config does not freeze."""

from collections.abc import Sequence
from typing import Literal

from lit_avg.llava_next.backbone import BACKBONE_PARTS, BackbonePart
from lit_avg.utils.errors import UserError

Part = BackbonePart | Literal["router"]

PARTS: tuple[Part, ...] = (*BACKBONE_PARTS, "router")
"""The parts of an `AvgLlava`, in the order of the data's way through them."""


def check_frozen(stage: str, trains: Sequence[Part], frozen: Sequence[Part]) -> None:
    """Refuse to freeze what a stage does not train, or all that it does; what adapter there is nobody knows yet.

    Raises:
        UserError: names it.
    """
    if unknown := {*frozen} - {*trains, *(("llm_adapter",) if "llm" in trains else ())}:
        raise UserError(f"frozen: {stage} does not train {', '.join(unknown)} anyway")
    if {*frozen} >= {*trains}:
        raise UserError(f"frozen: {stage} trains {', '.join(trains)} alone; leave some of it")


def parts_to_train(stage: str, trains: Sequence[Part], frozen: Sequence[Part], adapted: bool) -> tuple[Part, ...]:
    """What a stage trains but for what is frozen; an `adapted` LLM's adapter in the LLM's stead.

    Raises:
        UserError: the LLM is frozen by its adapter anyway, there is no adapter to freeze, or nothing is left.
    """
    if adapted and "llm" in frozen:
        raise UserError("frozen: llm, but it is frozen by its `lora` anyway; leave it out, or name llm_adapter")
    if not adapted and "llm_adapter" in frozen:
        raise UserError("frozen: llm_adapter, but the backbone has none; leave it out, or give it `lora`")
    parts: list[Part] = ["llm_adapter" if part == "llm" and adapted else part for part in trains]
    check_frozen(stage, parts, frozen)
    return tuple(part for part in parts if part not in frozen)
