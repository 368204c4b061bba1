"""Stage 1: the connector learns to speak the LLM's language from captions (paper, section 3.3)."""

from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from lit_avg.llava_next.backbone import BackbonePart
from lit_avg.runs.origins import folder_now
from lit_avg.stages.base import Stage
from lit_avg.stages.trained_parts import Part
from lit_avg.training.frozen_parts import EXTERNAL_WEIGHTS_KEY, ExternalWeights, external_weights_of_pretrained
from lit_avg.utils.errors import UserError


class Pretrain(Stage):
    """The base class's loss on captions; everything but the connector is frozen.

    Args:
        pretrained_parts: hub ids or folders the vision encoder and the LLM are taken from.
        **kwargs: of `Stage`; there is no stage to `init_from`.

    Raises:
        UserError: there is an `init_from`.
    """

    trains: ClassVar[tuple[Part, ...]] = ("connector",)

    def __init__(
        self,
        *args: Any,
        pretrained_parts: Mapping[Literal["vision_encoder", "llm"], str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.init_from is not None:
            raise UserError(
                f"init_from: no stage comes before Pretrain, but it is {self.init_from}; see pretrained_parts"
            )
        self.pretrained_parts = dict(pretrained_parts or {})

    @property
    def parts_to_come(self) -> Collection[BackbonePart]:
        """As in `Stage`: the pretrained ones."""
        return [*self.pretrained_parts]

    @property
    def start_in_words(self) -> str:
        """As in `Stage`: where each part is from."""
        named = [f"{part.replace('_', ' ')} of {source}" for part, source in self.pretrained_parts.items()]
        return ", ".join([*named, f"all else: {super().start_in_words}"] if named else [super().start_in_words])

    def load_weights(self) -> None:
        """Take the vision encoder and the LLM from where they were pretrained."""
        for part, source in self.pretrained_parts.items():
            self.model.backbone.load_part(part, source)

    def find_again(self, checkpoint: Mapping[str, Any], run: Path) -> None:
        """As in `Stage`, and folders of pretrained parts that are no longer where the config says."""
        super().find_again(checkpoint, run)
        external_weights = cast(Mapping[BackbonePart, ExternalWeights], checkpoint.get(EXTERNAL_WEIGHTS_KEY, {}))
        for name, source in self.pretrained_parts.items():
            if name in external_weights and not Path(source).is_dir():
                self.pretrained_parts[name] = folder_now(
                    external_weights[name]["origin"], external_weights[name]["beside"], run
                )

    @cached_property
    def external_weights(self) -> dict[BackbonePart, ExternalWeights]:
        """Encoder and LLM, where they came from pretrained weights."""
        pretrained: list[tuple[BackbonePart, str]] = [*self.pretrained_parts.items()]
        backbone, run = self.model.backbone, Path(self.trainer.default_root_dir)
        own: dict[BackbonePart, ExternalWeights] = {}
        own |= {part: external_weights_of_pretrained(backbone, part, source, run) for part, source in pretrained}
        return super().external_weights | own
