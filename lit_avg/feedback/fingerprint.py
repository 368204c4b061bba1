"""What feedback depends on, so that a store of it is read with exactly that and with nothing else."""

from collections.abc import Mapping

from lit_avg.data import ShardsData
from lit_avg.model import AvgLlava
from lit_avg.utils.errors import UserError

GRANULARITIES = "granularities"
"""The one entry that need not be equal: whoever wants some of the levels may read a store of more."""

Identity = Mapping[str, str]
"""Each thing that feedback depends on, by name."""


def identity_of(
    model: AvgLlava, base: Mapping[str, str], data: ShardsData, precision: str, per_sample: bool
) -> dict[str, str]:
    """What the feedback of a backbone depends on, but for the split's data.

    Args:
        model: gives granularities, pooling and how images are put together; its weights are not looked at.
        base: SHA-256 of the weights of each part.
        data: the data module.
        precision: Lightning's name for it.
        per_sample: whether samples are computed one by one, as in `RGLF`.
    """
    return {
        **{f"weights of the {part.replace('_', ' ')}": sha256[:16] for part, sha256 in base.items()},
        **{f"backbone: {name}": value for name, value in model.backbone.settings.items()},
        GRANULARITIES: " ".join(map(str, model.granularities.tokens)),
        "pooling": model.scaler.pooling,
        "unpad": model.semantics.unpad,
        **data.encoding_settings,
        "precision": precision,
        "per_sample": str(per_sample).lower(),
    }


def check_identity(stored: Identity, wanted: Identity, where: str) -> None:
    """Refuse feedback that was computed with anything else than what it is wanted for.

    Raises:
        UserError: names the first thing that differs, with both sides.
    """
    for name in sorted({*stored, *wanted} - {GRANULARITIES}):
        if stored.get(name) != wanted.get(name):
            raise UserError(
                f"{where} holds feedback of another origin: {name} is {_short(stored.get(name))} there and "
                f"{_short(wanted.get(name))} here; compute it anew with `lit-avg feedback`, into another folder"
            )
    levels = stored[GRANULARITIES].split()
    if missing := [level for level in wanted[GRANULARITIES].split() if level not in levels]:
        raise UserError(
            f"{where} has feedback at {', '.join(levels)} tokens per tile, but not at {', '.join(missing)}, which this "
            "config asks for; compute it anew with `lit-avg feedback`, into another folder"
        )


def _short(value: str | None) -> str:
    return "not there" if value is None else value if len(value) <= 60 else f"{value[:57]}..."
