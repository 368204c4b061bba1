"""How long a run trains, how often it is validated and saved, by the trainer's options."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """Of one run.

    Args:
        samples: that are trained on in all; None if nobody knows.
        epoch: samples of an epoch; None if nobody knows.
        steps: of the optimiser; None if nobody knows.
        validations: how often it is validated.
        validated: samples of each validation.
    """

    samples: int | None
    epoch: int | None
    steps: int | None
    validations: int
    validated: int


def schedule(
    trainer: Mapping[str, Any], epoch: int | None, validated: int, batch: int, accumulated: int, eval_batch: int
) -> Schedule:
    """What a trainer does with data.

    Args:
        trainer: its options.
        epoch: samples of the training split, if known.
        validated: samples of the validation split.
        batch: samples of an optimiser step on all devices.
        accumulated: micro-batches of a step.
        eval_batch: samples that all devices judge at a time.
    """
    micro_batch = max(1, batch // accumulated)
    batches = None if epoch is None else _limited(epoch // micro_batch, trainer["limit_train_batches"])
    steps = _steps(trainer, batches, accumulated)
    if isinstance(validated_batches := trainer["limit_val_batches"], int | float) and validated:
        validated = min(validated, _limited(math.ceil(validated / eval_batch), validated_batches) * eval_batch)
    return Schedule(
        samples=None if steps is None else steps * batch,
        epoch=None if batches is None else batches * micro_batch,
        steps=steps,
        validations=_validations(trainer, steps, batches, accumulated) if validated else 0,
        validated=validated,
    )


def _steps(trainer: Mapping[str, Any], batches: int | None, accumulated: int) -> int | None:
    """Of the optimiser: whatever ends first. Lightning takes a step at an epoch's end, be it whole or not."""
    most, epochs = trainer["max_steps"], trainer["max_epochs"]
    ends = [most] if isinstance(most, int) and most >= 0 else []
    if batches is not None and isinstance(epochs, int) and epochs >= 0:
        ends.append(epochs * math.ceil(batches / accumulated))
    return min(ends, default=None)


def _validations(trainer: Mapping[str, Any], steps: int | None, batches: int | None, accumulated: int) -> int:
    interval, every = trainer["val_check_interval"], trainer["check_val_every_n_epoch"]
    if steps is None:
        return 0
    if every is not None and batches:
        epochs = steps * accumulated // batches
        return epochs // every * (max(1, int(1 / interval)) if isinstance(interval, float) else 1)
    if isinstance(interval, float) and batches:
        interval = max(1, int(interval * batches))
    return steps * accumulated // interval if isinstance(interval, int) and interval > 0 else 1


def _limited(batches: int, limit: object) -> int:
    if isinstance(limit, float):
        return int(batches * limit)
    return min(batches, limit) if isinstance(limit, int) else batches
