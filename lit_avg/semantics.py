"""`Semantics`: whether the model computes as the paper says or as the authors' code does.

The authors' release (github.com/DeepLearnXMU/AVG-LLaVA) differs from the paper (arXiv 2410.02745) in the points listed
here; `docs/release-differences.md` says what each does to a real image. The paper is the default; `preset: release`
gives released checkpoints the numbers their authors got. Each point can be chosen by itself, for an ablation:

    semantics: release
    semantics: {preset: release, unpad: true share}
"""

from dataclasses import dataclass, fields, replace
from typing import Literal

from lit_avg.utils.arguments import check_number
from lit_avg.utils.errors import UserError

Preset = Literal["paper", "release"]
Attention = Literal["tokens", "tiles"]
Heard = Literal["user turns", "all but labels"]
EmptySlots = Literal["masked", "filled"]
Unpad = Literal["true share", "token grid"]
Ranking = Literal["pair sum", "rank distance"]
VisionEncoder = Literal["trained", "frozen"]


@dataclass(frozen=True)
class Choices:
    """Every point settled. The fields are those of `Semantics`, which explains them."""

    attention: Attention = "tokens"
    logit_norm: bool = False
    instruction: Heard = "user turns"
    empty_slots: EmptySlots = "masked"
    unpad: Unpad = "true share"
    ranking: Ranking = "pair sum"
    margin: float = 1.0
    vision_encoder: VisionEncoder = "trained"


PRESETS: dict[Preset, Choices] = {
    "paper": Choices(),
    "release": Choices(
        attention="tiles",
        logit_norm=True,
        instruction="all but labels",
        empty_slots="filled",
        unpad="token grid",
        ranking="rank distance",
        vision_encoder="frozen",
    ),
}
"""What each preset says on every point; the paper's are the defaults of `Choices`."""


@dataclass(frozen=True)
class Semantics:
    """A preset and the points in which to leave it; a point left at None is as the preset says.

    Args:
        preset: `paper` or `release`.
        attention: along which axis the router's Transformer layer attends: across the `tokens` of a tile (paper), or
            across the `tiles` of an image at each token's place, so that image and text never meet (release).
        logit_norm: a LayerNorm over the N logits of an image (release).
        instruction: which tokens the router may hear: the text of the `user turns` (ours; the paper says
            "instruction"), or `all but labels` (release): BOS, system prompt and role tags too, and in evaluation
            earlier answers.
        empty_slots: where a question has fewer instruction tokens than the router has slots: `masked`, so that they
            neither attend nor vote (ours), or `filled` with tokens the filter had excluded, which are padding and
            even answer tokens, and then with zeros (release).
        unpad: how the image's padding is cut off a plane of tokens: by its `true share` (ours), or by comparing
            the image's aspect ratio with that of the `token grid`, which is not square at every level (release).
        ranking: RGLF's ranking loss: the `pair sum` (paper), or margins multiplied by `rank distance` and pairs
            averaged per distance (release).
        margin: multiplies the margin of the ranking loss; 1 in both presets.
        vision_encoder: whether stages 2 and 3 leave it `trained` (paper) or `frozen`, whatever they train (release,
            where it runs without gradient in every stage).

    Raises:
        UserError: a value is none of those.
    """

    preset: Preset = "paper"
    attention: Attention | None = None
    logit_norm: bool | None = None
    instruction: Heard | None = None
    empty_slots: EmptySlots | None = None
    unpad: Unpad | None = None
    ranking: Ranking | None = None
    margin: float | None = None
    vision_encoder: VisionEncoder | None = None

    def __post_init__(self) -> None:
        _refuse_unknown("semantics", self.preset, list(PRESETS))
        if self.margin is not None:
            check_number("semantics: margin", self.margin, least=0)
        for name, value in self.own().items():
            if isinstance(value, str):
                known = [text for choices in PRESETS.values() if isinstance(text := vars(choices)[name], str)]
                _refuse_unknown(f"semantics: {name}", value, known)

    def own(self) -> dict[str, str | bool | float]:
        """The points in which this leaves its preset."""
        named = {field.name: vars(self)[field.name] for field in fields(Choices)}
        return {name: value for name, value in named.items() if value is not None}

    def resolve(self) -> Choices:
        """The preset's choices with one's own in their place."""
        return replace(PRESETS[self.preset], **self.own())


def choices_of(semantics: Semantics | Preset) -> Choices:
    """Every point settled, from a whole description or the name of a preset.

    Raises:
        UserError: there is no such preset.
    """
    return (semantics if isinstance(semantics, Semantics) else Semantics(preset=semantics)).resolve()


def _refuse_unknown(name: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise UserError(f"{name} must be one of {', '.join(known)}, but is {value}")
