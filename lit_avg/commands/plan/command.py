"""`lit-avg plan`: what fits, how long it takes and what it writes, before it is queued.

    lit-avg plan --config experiments/vicuna-7b/stage2.yaml --devices 8 --gpu h100

It takes fit's options besides its own. The model is built without memory or weights, and a micro-batch of the longest
samples is gone through on tensors without content.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console

from lit_avg.commands.fit import quiet_lightning
from lit_avg.commands.offline import BuildingCLI, outline_model
from lit_avg.commands.plan.report import print_plan
from lit_avg.data import SampleSizes, ShardsData, Split
from lit_avg.llava_next.hf_model import without_llm
from lit_avg.planning.gpus import GPUS, gpu_named
from lit_avg.planning.plan import GIB, Machines, Plan
from lit_avg.planning.run_flops import device_count, tile_side
from lit_avg.planning.workload import workload
from lit_avg.stages.base import Stage
from lit_avg.stages.rglf import RGLF
from lit_avg.utils.command_line import VerbParser, number, whole_number
from lit_avg.utils.errors import UserError


def main(argv: list[str]) -> int:
    """Print a plan.

    Raises:
        UserError: the config is wrong, runs something else than a stage with an `AvgLlava`, or nothing fits.
    """
    parser = VerbParser(prog="lit-avg plan", description="What a run takes; other options are fit's.")
    parser.add_argument("--config", required=True, action="append", help="of a stage; more of them overlay it")
    parser.add_argument("--devices", type=whole_number(least=1), help="on each node (default: the config's)")
    parser.add_argument("--nodes", type=whole_number(least=1), help="machines (default: the config's)")
    parser.add_argument("--gpu", default="h100", help=f"one of {', '.join(GPUS)} (default: h100)")
    parser.add_argument("--memory", type=number(above=0), help="GiB of a device (default: the GPU's)")
    parser.add_argument("--tflops", type=number(above=0), help="of a device, bfloat16 (default: the GPU's)")
    parser.add_argument(
        "--utilisation", type=number(above=0, most=1), default=0.4, help="share of them that is reached (default: 0.4)"
    )
    parser.add_argument("--samples", type=whole_number(least=1), help="of an epoch (default: the shards', or assumed)")
    parser.add_argument("--text-tokens", type=whole_number(least=2), help="of a sample, on average (likewise)")
    parser.add_argument("--longest-text", type=whole_number(least=2), help="tokens of the longest (likewise)")
    options, others = parser.parse_known_args(argv)
    quiet_lightning()
    configs = [text for config in options.config for text in ("--config", config)]
    cli = BuildingCLI(["fit", *configs, *others])
    gpu = gpu_named(options.gpu)
    config = cli.config["fit"].as_dict()
    trainer = config["trainer"]
    machines = Machines(
        devices=options.devices or device_count(trainer["devices"]),
        nodes=options.nodes or trainer["num_nodes"],
        memory=int((options.memory or gpu.memory) * GIB),
        flops=(options.tflops or gpu.tflops) * 1e12,
        utilisation=options.utilisation,
    )
    told = {"samples": options.samples, "text": options.text_tokens, "longest": options.longest_text}
    plan = plan_of(cli, machines, told)
    print_plan(Console(), plan, config, options.gpu)
    return 0


def plan_of(cli: BuildingCLI, machines: Machines, told: Mapping[str, int | None]) -> Plan:
    """The plan of what a config describes.

    Args:
        cli: has parsed it.
        machines: where it is to run.
        told: `samples`, `text` and `longest` in place of what the data says of its samples.

    Raises:
        UserError: it runs no stage, or nothing is known of its samples.
    """
    stage, trainer = build(cli.stage), cli.config["fit"]["trainer"]
    data, config = cli.datamodule, cli.config["fit"]["data"]["init_args"].as_dict()
    sizes = _sizes(data, "train", told)
    if sizes is None:
        raise UserError(f"{type(data).__name__} cannot say how large its samples are; plan with data in shards")
    validation, side = _sizes(data, "val", {**told, "samples": None}), tile_side(stage)
    layout = stage.model.layout
    wanted = int(config.get("batch_size") or 1)
    configured = device_count(trainer["devices"], machines.devices) * trainer["num_nodes"]
    return Plan(
        stage=stage,
        work=workload(sizes, layout, side),
        validation=None if validation is None else workload(validation, layout, side),
        machines=machines,
        precision=str(trainer["precision"] or "32-true"),
        batch=wanted * trainer["accumulate_grad_batches"] * configured,
        wanted=wanted,
    )


def build(stage: Stage) -> Stage:
    """A stage with its model on torch's meta device, frozen where it will be; without LLM if it trains from a store."""
    stored = isinstance(stage, RGLF) and stage.feedback is not None
    with torch.device("meta"), without_llm("") if stored else nullcontext():
        outline_model(stage)
        stage.freeze_the_rest()
    stage.model.context_length.told = True  # of sequences that only might be there
    return stage


def _sizes(data: object, split: Split, told: Mapping[str, int | None]) -> SampleSizes | None:
    sizes = data.sample_sizes(split) if isinstance(data, ShardsData) else None
    if sizes is None:
        return None
    if (text := told["text"]) is not None:
        scaled = np.maximum(sizes.text * text / sizes.text.mean(), 1).astype(np.int64)
        sizes = replace(sizes, text=scaled, longest=max(sizes.longest, text))
    if (longest := told["longest"]) is not None:
        sizes = replace(sizes, text=np.minimum(sizes.text, longest), longest=longest)
    return sizes if told["samples"] is None else replace(sizes, samples=told["samples"])
