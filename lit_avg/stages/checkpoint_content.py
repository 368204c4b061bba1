"""`CheckpointContent`: what checkpoints of a stage hold beside Lightning's own and leave out, and what is checked."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

from lit_avg.llava_next.backbone import BACKBONE_PARTS, BackbonePart
from lit_avg.model import AvgLlava
from lit_avg.runs.consolidation import NAMES_KEY, weights_path
from lit_avg.runs.origins import ORIGIN_KEY, Origin, beside, origin_now
from lit_avg.stages.finite_training import FiniteTraining
from lit_avg.stages.trained_parts import Part
from lit_avg.training.frozen_parts import (
    EXTERNAL_WEIGHTS_KEY,
    ExternalWeights,
    check_frozen_parts,
    names_of,
    parts_of_pretrained,
    parts_of_run,
)
from lit_avg.training.handover import ADAPTER_KEY, STAGE_KEY, plain
from lit_avg.training.sharded_state import keep_whole, sharding, take_whole, trained_alone
from lit_avg.utils.errors import UserError
from lit_avg.utils.finite import check_weights


class CheckpointContent(FiniteTraining):
    """A module around an `AvgLlava`, of whose weights a checkpoint leaves out what lies elsewhere."""

    trains: ClassVar[tuple[Part, ...]]
    starts_from: ClassVar[tuple[str, ...]]
    trained_parts: tuple[Part, ...]
    model: AvgLlava
    init_from: str | None
    begun_from: Origin | None

    def find_again(self, checkpoint: Mapping[str, Any], run: Path) -> None:
        """Look where that lies by now which a run began from; before the model is built.

        Args:
            checkpoint: of the run.
            run: its directory.

        Raises:
            UserError: the config means something else, or it is gone.
        """
        self.begun_from = cast(Origin | None, checkpoint.get(ORIGIN_KEY))
        if self.begun_from is not None and self.init_from is not None:
            self.init_from = origin_now(
                self.begun_from, self.init_from, run, bool(checkpoint.get(EXTERNAL_WEIGHTS_KEY))
            )
        elif self.init_from is not None and not weights_path(self.init_from).is_file():
            parts = cast(Mapping[str, ExternalWeights], checkpoint.get(EXTERNAL_WEIGHTS_KEY, {})).values()
            places = [beside(run, part["beside"]) for part in parts if part["is_run"]]
            self.init_from = next((place for place in places if weights_path(place).is_file()), self.init_from)

    @cached_property
    def external_weights(self) -> dict[BackbonePart, ExternalWeights]:
        """The parts that checkpoints need not hold: frozen ones that can be had from where this run had them."""
        frozen: list[BackbonePart] = [part for part in BACKBONE_PARTS if part not in self.trained_parts]
        if self.init_from is not None:
            return {} if self.begun_from is None else parts_of_run(self.model.backbone, frozen, self.begun_from)
        return parts_of_pretrained(self.model.backbone, frozen, Path(self.trainer.default_root_dir))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As torch has it; under FSDP2 what the strategy is to save and to load, which asks for it here."""
        state = super().state_dict(*args, **kwargs)
        return state if self.device_mesh is None else trained_alone(self, state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the stage, leave out what lies elsewhere, keep what can be read back without running code."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[STAGE_KEY] = type(self).__name__
        checkpoint[EXTERNAL_WEIGHTS_KEY] = dict(self.external_weights)
        if self.model.backbone.lora is not None and self.starts_from:
            checkpoint[ADAPTER_KEY] = self.model.backbone.lora.scale
        if self.begun_from is not None:
            checkpoint[ORIGIN_KEY] = dict(self.begun_from)
        left_out, strategy = self._names_of_external_weights(), self.trainer.strategy
        checkpoint["hyper_parameters"] = plain(checkpoint.get("hyper_parameters", {}))
        if sharding(strategy) is not None:
            keep_whole(self, super().state_dict(), checkpoint, left_out, strategy, self.trainer.is_global_zero)
            return
        for name in left_out:
            del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See to it that checkpoint and what it leaves out make this very model again; Lightning no longer does.

        Raises:
            UserError: tensors are missing, too many or not finite, or the base model is another one than it was.
        """
        super().on_load_checkpoint(checkpoint)
        is_sharded = NAMES_KEY in checkpoint
        names = set(checkpoint[NAMES_KEY] if is_sharded else checkpoint["state_dict"])
        expected = set(super().state_dict()) - self._names_of_external_weights()
        if differing := sorted(names ^ expected):
            raise UserError(
                f"the checkpoint and this config's model differ in {', '.join(differing[:3])}; "
                "go on with the config it was made with"
            )
        if is_sharded:
            take_whole(self, super().state_dict(), checkpoint, self.trainer.strategy)
            self._check_weights()
        else:
            check_weights(checkpoint["state_dict"], "the checkpoint")
        check_frozen_parts(self.model.backbone, checkpoint.get(EXTERNAL_WEIGHTS_KEY, {}), "the checkpoint")

    def _names_of_external_weights(self) -> set[str]:
        """Of what lies elsewhere, and of a router that nobody has trained yet."""
        untrained = [] if "router" in self.trains else [f"router.{name}" for name in self.model.router.state_dict()]
        backbone = self.model.backbone
        elsewhere = [f"backbone.{name}" for part in self.external_weights for name in names_of(backbone, part)]
        return {f"model.{name}" for name in (*untrained, *elsewhere)}
