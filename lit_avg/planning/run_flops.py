"""FLOPs of whole runs, for studies: what a sweep's runs take, before any of them is started."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from lit_avg.data import ShardsData, Split
from lit_avg.planning.schedule import schedule
from lit_avg.planning.step_flops import evaluation_flops, total, training_flops
from lit_avg.planning.workload import Workload, workload
from lit_avg.stages.base import Stage
from lit_avg.stages.rglf import RGLF


def run_flops(stage: Stage, data: object, trainer: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, float]:
    """What a config's run takes, as far as that is known.

    Args:
        stage: with its model on torch's meta device, its parts frozen as they will be.
        data: the data module.
        trainer: the trainer's options.
        settings: the data module's.

    Returns:
        FLOPs to `fit`, validation included, and to `test`; of a stage that learns from feedback also to fit from what
        is `stored`, and to compute the `feedback` that is. Empty if nobody knows how much it reads.
    """
    samples = {split: _work(stage, data, split) for split in ("train", "val", "test")}
    if (work := samples["train"]) is None:
        return {}
    batch, accumulated = int(settings.get("batch_size") or 1), trainer["accumulate_grad_batches"]
    devices = device_count(trainer["devices"]) * trainer["num_nodes"]
    judged = int(settings.get("eval_batch_size") or batch) * devices
    counts = {split: 0 if one is None else one.sizes.samples or 0 for split, one in samples.items()}
    times = schedule(trainer, work.sizes.samples, counts["val"], batch * accumulated * devices, accumulated, judged)
    if times.samples is None:
        return {}
    of_training, judging = training_flops(stage, work), evaluation_flops(stage, work)
    validating = times.validations * times.validated * judging
    flops = {"fit": times.samples * total(of_training) + validating, "test": counts["test"] * judging}
    if isinstance(stage, RGLF):
        of_llm = sum(of_training[part].total for part in ("llm", "head") if part in of_training)
        feedback = evaluation_flops(stage, work, routed=False)
        judged_samples = times.validations * times.validated
        flops["stored"] = flops["fit"] - times.samples * of_llm - judged_samples * of_llm
        flops["feedback"] = ((work.sizes.samples or times.samples) + counts["val"]) * feedback
    return flops


def device_count(devices: object, otherwise: int = 1) -> int:
    """How many devices a config asks for on each node; if it takes what it gets, that many."""
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(cast(Sequence[object], devices))
    text = str(devices)
    if "," in text:
        return len(text.split(","))
    return int(text) if text.isdigit() and int(text) > 0 else otherwise


def _work(stage: Stage, data: object, split: Split) -> Workload | None:
    sizes = data.sample_sizes(split, quickly=True) if isinstance(data, ShardsData) else None
    return None if sizes is None else workload(sizes, stage.model.layout, tile_side(stage))


def tile_side(stage: Stage) -> int:
    """Pixels of a side of what the encoder sees."""
    return cast(int, cast(Any, stage.model.backbone.hf.config).vision_config.image_size)
