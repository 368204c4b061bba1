"""`Resumption`: what a run takes up when it goes on from a checkpoint, and how it is seen that it did."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, cast, runtime_checkable

import lightning as L
from tensorboard.compat.proto import event_pb2
from torch import Tensor

from callbacks.checkpointing.settled_steps import Place
from callbacks.run_context import tensorboard
from lit_avg.utils.distributed import RandomState, random_states, restore
from lit_avg.utils.errors import UserError


@runtime_checkable
class ResumableLoader(Protocol):
    """A loader that can go on in the midst of an epoch (Lightning's own protocol)."""

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


@runtime_checkable
class TellsPlace(Protocol):
    """A loader that says where it stands."""

    epoch: int
    yielded: int  # batches of this epoch it has given


class BeforeStop(TypedDict):
    """What a validation changes, as it was before one that a stop has brought forward.

    A run that `max_time` ends is validated, though none may be due: who uses it as it is wants that. Who goes on from
    it does so as if nothing had been.
    """

    callbacks: dict[str, dict[str, Any]]
    buffers: dict[str, Tensor]
    random_states: list[RandomState]
    metrics: dict[str, Tensor]


def before_stop(trainer: L.Trainer) -> BeforeStop:
    """As it is now."""
    callbacks = cast(list[L.Callback], trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]  in a connector
    return BeforeStop(
        callbacks=deepcopy({one.state_key: state for one in callbacks if (state := one.state_dict())}),
        buffers={name: buffer.detach().clone() for name, buffer in trainer.lightning_module.named_buffers()},
        random_states=random_states(),
        metrics=metrics_of(trainer),
    )


def metrics_of(trainer: L.Trainer) -> dict[str, Tensor]:
    """The metrics that were logged last, for callbacks that ask for one of an earlier epoch."""
    return {name: value.detach().clone() for name, value in trainer.callback_metrics.items()}


@dataclass(frozen=True)
class Resumption:
    """What a checkpoint says of where its run stands.

    Args:
        random_states: of each rank.
        metrics: those that were logged last.
        place: where it stands; None if an earlier version wrote the checkpoint.
        before: what a validation changed that was done because the run was stopped.
        loader_states: where the loaders stand, as Lightning has them.
    """

    random_states: list[RandomState]
    metrics: Mapping[str, Tensor]
    place: Place | None
    before: BeforeStop | None
    loader_states: Sequence[dict[str, Any]]

    def take_up(self, trainer: L.Trainer) -> None:
        """Give everything its state back, when training begins."""
        before = self.before
        if before is not None:
            _go_back(trainer, before)
        device = trainer.strategy.root_device
        metrics = self.metrics if before is None else before["metrics"]
        trainer.callback_metrics.update({name: value.to(device) for name, value in metrics.items()})
        self._place_loaders(trainer)
        if self.place is not None and not self.place["batches"]:
            # Lightning takes a run of `max_steps` to be in the midst of an epoch, whatever its counters say
            trainer.fit_loop.epoch_loop.restarting = False
        _hide_lost_steps(trainer)
        states = self.random_states if before is None else before["random_states"]
        if states:
            restore(states, trainer.global_rank)

    def _place_loaders(self, trainer: L.Trainer) -> None:
        """Tell the loaders where they stand.

        Lightning does so too, but only if nobody asked for the number of batches before (`estimated_stepping_batches`
        does, for the learning rate), and not between two epochs (#20550).
        """
        loop = trainer.fit_loop
        combined, fetcher = loop._combined_loader, loop._data_fetcher  # pyright: ignore[reportPrivateUsage]
        assert combined is not None
        assert fetcher is not None
        combined._load_state_dicts(list(self.loader_states))  # pyright: ignore[reportPrivateUsage]
        iter(fetcher)  # what was begun when the loader was set up does not know of it

    def check(self, trainer: L.Trainer) -> None:
        """Refuse to train on at the first batch if it is not the one that would have come.

        Raises:
            UserError: says what is wrong.
        """
        loop = trainer.fit_loop
        # what loggers count by; Lightning's own count depends on the hook that saved
        loop.epoch_loop._batches_that_stepped = trainer.global_step  # pyright: ignore[reportPrivateUsage]
        if self.place is not None and not self.place["settled"]:
            raise UserError(
                "this checkpoint was made in the midst of an accumulated step or before a validation that was due, and "
                "training cannot go on from there as it would have; go on from checkpoints/last.ckpt (--resume auto)"
            )
        combined = loop._combined_loader  # pyright: ignore[reportPrivateUsage]
        assert combined is not None
        for loader in cast(list[object], combined.flattened):
            self._check_loader(loader, trainer.current_epoch, loop.batch_idx)

    def _check_loader(self, loader: object, epoch: int, batch: int) -> None:
        """See that the batch of this number is what a loader has just given."""
        name = type(loader).__name__
        if isinstance(loader, TellsPlace) and (loader.epoch, loader.yielded) != (epoch, batch + 1):
            raise UserError(
                f"the run goes on with batch {batch} of epoch {epoch}, but its data ({name}) is at batch "
                f"{loader.yielded - 1} of epoch {loader.epoch}: the checkpoint's place did not reach it; "
                "nothing was trained or overwritten. Start anew with --resume none"
            )
        if batch > 0 and not (isinstance(loader, ResumableLoader) and self.loader_states):
            raise UserError(
                f"the checkpoint was made after batch {batch - 1} of epoch {epoch}, but the data ({name}) cannot say "
                "where it stood, so that some samples would come twice and others not at all; give the loader "
                "state_dict() and load_state_dict(), or start anew with --resume none"
            )


def _go_back(trainer: L.Trainer, before: BeforeStop) -> None:
    """Undo what the validation has changed."""
    for callback in cast(list[L.Callback], trainer.callbacks):  # pyright: ignore[reportAttributeAccessIssue]  see above
        if callback.state_key in before["callbacks"]:
            callback.load_state_dict(deepcopy(before["callbacks"][callback.state_key]))
    for name, buffer in trainer.lightning_module.named_buffers():
        if name in before["buffers"]:
            buffer.copy_(before["buffers"][name])


def _hide_lost_steps(trainer: L.Trainer) -> None:
    """Tell TensorBoard that what was logged after the checkpoint is being done again."""
    writer = tensorboard(trainer)
    if writer is None or not trainer.is_global_zero:
        return
    # opened again if a fit before, of the same process, has closed it
    file = cast(Any, writer._get_file_writer())  # pyright: ignore[reportPrivateUsage]  `file_writer` is None then
    step, proto = trainer.global_step, cast(Any, event_pb2)
    # as `SummaryWriter(purge_step=…)` does, which would have to be known before the checkpoint is
    file.add_event(proto.Event(step=step, file_version="brain.Event:2"))
    file.add_event(proto.Event(step=step, session_log=proto.SessionLog(status=proto.SessionLog.START)))
