"""The training stages, one LightningModule each; stage 0 lives in `lit_avg.stages.toy_pretraining`."""

from lit_avg.stages.gumbel import GumbelRouterTuning
from lit_avg.stages.instruction_tuning import InstructionTuning
from lit_avg.stages.multi_granularity import MultiGranularityTuning
from lit_avg.stages.pretrain import Pretrain
from lit_avg.stages.rglf import RGLF

__all__ = ["RGLF", "GumbelRouterTuning", "InstructionTuning", "MultiGranularityTuning", "Pretrain"]
