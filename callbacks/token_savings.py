"""`TokenSavings`: what choosing a granularity saves against always taking the finest."""

import lightning as L
from torch import Tensor

from callbacks.run_context import logged_step, stage_and_outcomes
from callbacks.watcher import Watcher
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.llava_next.flops import llm_forward_flops
from lit_avg.llava_next.llm_configs import LlmShape
from lit_avg.stages.base import Stage


class TokenSavings(Watcher):
    """Shares of the finest granularity's cost: tokens per tile, visual tokens in all, FLOPs of the LLM's forward pass.

    After validation the stage's own policy is logged as `savings/<name>`. After a test every policy's are in
    `results`, which `ResultsWriter` adds to its metrics as `<policy>/<name>`. Questions without an image have
    nothing to save and are left out.
    """

    def __init__(self) -> None:
        self.results: dict[str, float] = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what the stage's own choice costs."""
        found = stage_and_outcomes(trainer, pl_module)
        if found is None:
            return
        stage, outcomes = found
        chosen = outcomes.chosen_by(stage.own_policy)
        shares = {f"savings/{name}": share for name, share in cost_shares(stage, outcomes, chosen).items()}
        for logger in trainer.loggers if shares else []:
            logger.log_metrics(shares, logged_step(trainer))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what each policy's choice costs."""
        found = stage_and_outcomes(trainer, pl_module)
        if found is None:
            return
        stage, outcomes = found
        for policy, chooser in stage.policies.items():
            shares = cost_shares(stage, outcomes, outcomes.chosen_by(chooser))
            self.results |= {f"{policy}/{name}": share for name, share in shares.items()}


def cost_shares(stage: Stage, outcomes: Outcomes, chosen: Tensor) -> dict[str, float]:
    """The cost of a choice of levels (Q,) as shares of the finest level's; nothing where no question has an image."""
    pictured = (outcomes.tiles > 0).nonzero().squeeze(1)
    if not len(pictured):
        return {}
    outcomes, chosen = outcomes.rows(pictured), chosen[pictured]
    granularities, shape = stage.granularities, LlmShape.of(stage.model.backbone.llm_config)
    finest = outcomes.visual_tokens[:, -1]
    selected = outcomes.visual_tokens.gather(1, chosen.unsqueeze(1)).squeeze(1)
    per_tile = sum(granularities.tokens[level] for level in chosen.tolist()) / len(chosen)
    flops = llm_forward_flops(shape, selected + outcomes.text_tokens)
    finest_flops = llm_forward_flops(shape, finest + outcomes.text_tokens)
    return {
        "tokens_per_tile_share": per_tile / granularities.finest,
        "token_share": (selected.sum() / finest.sum()).item(),
        "llm_flops_share": flops / finest_flops,
    }
