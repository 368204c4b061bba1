"""`FiniteTraining`: training ends at the first loss, gradient or weight that is not finite, and none is ever saved.

What it costs: losses are remembered as they are, on their device. Once an optimiser step, before the weights move, a
single wait tells whether those since the last step and the gradient's norm are finite, and the ranks agree on it by one
number; a step ends with a wait anyway. Weights are looked at when a checkpoint is written, which reads them all.

A gradient scaler (float16) meets infinite gradients by design: it leaves the step out and lowers its scale. There a
gradient ends the training only when the scale is down to 1, where nothing is left to lower; a loss always does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_avg.runs.run_folder import LAST_CHECKPOINT
from lit_avg.training.strategies import prepare_strategy
from lit_avg.training.zero_steps import ZeroSteps
from lit_avg.utils.errors import UserError
from lit_avg.utils.finite import named, non_finite


@dataclass(frozen=True)
class NotFinite:
    """What one rank has found since the last optimiser step."""

    losses: list[tuple[float, list[str]]]  # each that is not finite, with the samples of its batch
    gradients: list[str]  # parameters whose gradient is not
    keys: list[str]  # all samples since the last step


class FiniteTraining(L.LightningModule):
    """A module that tells `watch_loss` of each of its losses."""

    def __init__(self) -> None:
        super().__init__()
        self._losses: list[tuple[Tensor, list[str]]] = []  # since the last optimiser step, with the samples
        self._saved_step: int | None = None
        self._weights_known_at = -1

    def watch_loss(self, loss: Tensor, keys: Sequence[str]) -> None:
        """Remember a training loss and the samples it is of, until somebody looks whether it is finite."""
        self._losses.append((loss.detach(), list(keys)))

    def configure_callbacks(self) -> Sequence[L.Callback]:
        """None; it is the one hook that comes before the strategy sets up its processes."""
        prepare_strategy(self.trainer.strategy)
        return []

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the gradient before it is clipped; go no further if it or a loss is not finite.

        Raises:
            UserError: on all ranks, whichever of them met it.
        """
        if isinstance(self.trainer.strategy, ZeroSteps):  # which tells the norm once it has stepped
            self._stop_if_not_finite()
            return
        self._end_step(gradient_norm(one.grad for one in self.parameters() if one.grad is not None))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """As in Lightning; log DeepSpeed's norm, and go no further if it is not finite."""
        super().optimizer_step(*args, **kwargs)
        if isinstance(self.trainer.strategy, ZeroSteps):
            self._end_step(self.trainer.strategy.gradient_norm)

    def _end_step(self, norm: Tensor | None) -> None:
        if norm is not None:
            self.log("train/gradient_norm", norm)
            self._stop_if_not_finite(norm)
        self._losses.clear()

    def on_validation_start(self) -> None:
        """Look at the losses of an optimiser step that has only begun, and at the weights that are judged."""
        if self._losses:
            self._stop_if_not_finite()
            self._losses.clear()
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._check_weights()

    def on_train_end(self) -> None:
        """End on weights that are finite, be they saved or not."""
        self._check_weights()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was saved before rather than numbers that are not finite."""
        if self._losses:
            self._stop_if_not_finite()
            self._losses.clear()
        self._check_weights()
        self._saved_step = checkpoint["global_step"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note how far the checkpoint is that this run goes on from."""
        self._saved_step = checkpoint.get("global_step")

    def _stop_if_not_finite(self, norm: Tensor | None = None) -> None:
        flags = [loss.isfinite().all() for loss, _ in self._losses]
        flags.append(torch.ones((), dtype=torch.bool, device=self.device) if norm is None else norm.isfinite())
        *losses, gradient = torch.stack([flag.to(self.device) for flag in flags]).tolist()
        self._stop_unless(all(losses) and (gradient or self._scale_can_be_lowered()), not gradient)

    def _scale_can_be_lowered(self) -> bool:
        if isinstance(self.trainer.strategy, ZeroSteps):
            return self.trainer.strategy.scale_can_be_lowered
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return isinstance(scaler, torch.amp.GradScaler) and scaler.is_enabled() and scaler.get_scale() > 1

    def _stop_unless(self, fine: bool, look_at_gradients: bool) -> None:
        """All ranks stop if one of them has to, and each tells what all have found."""
        if self.trainer.strategy.reduce_boolean_decision(fine, all=True):
            return
        own = NotFinite(
            losses=[(loss.item(), keys) for loss, keys in self._losses if not loss.isfinite().all()],
            gradients=non_finite({name: one.grad for name, one in self.named_parameters() if one.grad is not None})
            if look_at_gradients
            else [],
            keys=[key for _, keys in self._losses for key in keys],
        )
        found: list[NotFinite] = [own]
        if self.trainer.world_size > 1:
            found = [own] * self.trainer.world_size
            torch.distributed.all_gather_object(found, own)
        step = self.trainer.global_step + 1
        raise UserError(f"training stopped at step {step}: {told(found)}; {self._what_is_left()}")

    def _check_weights(self) -> None:
        """Raises on all ranks, whichever of them has a weight that is not finite."""
        step = self.trainer.global_step
        if self._weights_known_at == step:
            return
        trained = {name: one for name, one in self.named_parameters() if one.requires_grad}
        names = non_finite(trained | dict(self.named_buffers()))
        if not self.trainer.strategy.reduce_boolean_decision(not names, all=True):
            weight = names[0] if names else "a weight of another rank"
            raise UserError(f"training stopped after step {step}: {weight} is not finite; {self._what_is_left()}")
        self._weights_known_at = step

    def _what_is_left(self) -> str:
        """The checkpoint from before, and what might help."""
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(float(group["lr"]) for group in groups))
        path = Path(self.trainer.default_root_dir) / LAST_CHECKPOINT
        step = "" if self._saved_step is None else f", of step {self._saved_step}"
        good = f"the last good checkpoint is {path}{step}" if path.exists() else "no checkpoint was saved before"
        return f"{good}. Lower the learning rate (it was {rates}), or look at these samples"


def gradient_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Of all gradients together, also of those of which this process has a part."""
    norm = nn.utils.get_total_norm(list(gradients))
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def told(found: Sequence[NotFinite]) -> str:
    """What the ranks have found, in words; a loss explains the gradients of all ranks."""
    many = len(found) > 1
    losses = [
        f"the loss is {value} (samples: {named(keys)}{f'; rank {rank}' if many else ''})"
        for rank, own in enumerate(found)
        for value, keys in own.losses
    ]
    if losses:
        return ", ".join(losses)
    gradients = [name for own in found for name in own.gradients]
    gradient = f"the gradient of {gradients[0]}" if gradients else "the norm of the gradient"
    ranks = [f"{named(own.keys)}{f'; rank {rank}' if many else ''}" for rank, own in enumerate(found)]
    return f"{gradient} is not finite (samples: {'; '.join(ranks)})"
