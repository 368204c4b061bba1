"""`ALLaVA`: captions and instructions written by GPT-4V."""

from datamodules.instruction_mix import InstructionMix


class ALLaVA(InstructionMix):
    """ALLaVA-4V, LAION and VFLAN, packed by `lit-avg shard --preset allava`; trained on like the mix it is part of."""
