"""What `lit-avg plan` prints."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from lit_avg.commands.describe import numbers_table, say
from lit_avg.planning.disk import checkpoints
from lit_avg.planning.hosts import host_memory
from lit_avg.planning.live_memory import GRADIENTS
from lit_avg.planning.plan import GIB, RESERVED, Fit, Plan
from lit_avg.planning.schedule import Schedule, schedule
from lit_avg.planning.step_flops import total
from lit_avg.planning.strategies import configured_strategy
from lit_avg.stages.rglf import RGLF
from lit_avg.utils.errors import UserError

SHORT = 0.1
"""Seconds of a micro-batch below which FLOPs say little of its time."""


def print_plan(console: Console, plan: Plan, config: Mapping[str, Any], gpu: str) -> None:
    """Print all of it.

    Args:
        console: where to.
        plan: made of the config.
        config: fit's.
        gpu: what the devices are called.

    Raises:
        UserError: when all is printed: no strategy fits.
    """
    machines, trainer = plan.machines, config["trainer"]
    strategy = configured_strategy(trainer["strategy"], machines.all_devices)
    configured, fits = plan.fit(strategy, plan.micro_batch), plan.fits(strategy)
    say(
        console,
        f"{type(plan.stage).__name__} on {machines.nodes} x {machines.devices} {gpu} of {machines.memory / GIB:g} GiB, "
        f"{machines.flops / 1e12:g} TFLOP/s, of which {machines.utilisation:.0%} are reached; {plan.precision}",
    )
    say(console, f"samples: {plan.work.sizes.told_by}; {_tokens(plan)}")
    console.print(strategy_table(plan, fits))
    console.print(memory_table(configured))
    console.print(flops_table(plan))
    times = _schedule(plan, configured, config)
    for line in [*time_lines(plan, times), *disk_lines(plan, configured, config, times)]:
        say(console, line)
    if not plan.holds(fits[0]):
        least = min(fits, key=lambda fit: fit.peak)
        raise UserError(
            f"nothing fits: {least.strategy.name} with a micro-batch of {least.micro_batch} takes "
            f"{least.peak / GIB:.1f} GiB, but a device has {(machines.memory - RESERVED) / GIB:.1f} to give"
        )
    if not plan.holds(configured):
        best = fits[0]
        say(
            console,
            f"the config's own, {strategy.name} with a micro-batch of {plan.micro_batch}, does not fit; "
            f"{best.strategy.name} with batch_size: {best.micro_batch} and accumulate_grad_batches: "
            f"{best.accumulated} does",
        )


def strategy_table(plan: Plan, fits: list[Fit]) -> Table:
    """The strategies with the largest micro-batch each, best first."""
    table = numbers_table("strategy", "micro-batch", "accumulated", "peak GiB", "loading GiB", "fits")
    for fit in fits:
        answer = "yes" if plan.holds(fit) else "no"
        table.add_row(
            fit.strategy.name,
            str(fit.micro_batch),
            str(fit.accumulated),
            _gib(fit.peak),
            _gib(fit.kept.loading),
            answer,
        )
    return table


def memory_table(fit: Fit) -> Table:
    """Where a device's memory goes as the config has it."""
    parts = dict(fit.step.by_part)
    gradients, logits, router = (parts.pop(name, 0) for name in (GRADIENTS, "logits", "router"))
    rows = {
        "weights": fit.kept.weights,
        "gradients": fit.kept.gradients + gradients,
        "optimiser": fit.kept.optimiser,
        "communication, gathered weights": fit.kept.buffers,
        "activations": sum(parts.values()),
        "logits": logits,
        "router": router,
    }
    table = numbers_table(f"{fit.strategy.name}, micro-batch {fit.micro_batch}", "GiB of a device")
    for name, size in rows.items():
        table.add_row(name, _gib(size))
    table.add_section()
    table.add_row("in a micro-batch", _gib(sum(rows.values())))
    table.add_row("the logits at their own peak", _gib(fit.step.most.get("logits", 0)))
    table.add_row("in the optimiser's step", _gib(fit.between_steps + fit.kept.stepping))
    table.add_row("while weights are loaded", _gib(fit.kept.loading))
    table.add_row("kept free for CUDA", _gib(RESERVED))
    return table


def flops_table(plan: Plan) -> Table:
    """FLOPs of an optimiser step, part by part."""
    table = numbers_table("TFLOP a step", "forward", "recomputed", "backward", "all")
    for name, part in plan.flops.items():
        each = (part.forward, part.recomputed, part.backward, part.total)
        table.add_row(name, *(_number(plan.batch * value / 1e12) for value in each))
    table.add_section()
    table.add_row("all", "", "", "", _number(plan.batch * total(plan.flops) / 1e12))
    return table


def time_lines(plan: Plan, times: Schedule) -> list[str]:
    """Samples a second, hours, the share of validation, and what feedback takes."""
    machines, per_sample = plan.machines, total(plan.flops)
    lines = [f"{plan.samples_per_second:,.1f} samples/s, {plan.batch} a step"]
    if (seconds := plan.micro_batch * machines.all_devices / plan.samples_per_second) < SHORT:
        lines.append(
            f"a micro-batch would take {seconds:.2g} s: so little is bound by launching kernels and by reading data, "
            "not by FLOPs; measure it instead"
        )
    if times.epoch is not None:
        lines.append(f"an epoch of {times.epoch:,} samples: {_hours(machines.hours(times.epoch * per_sample))}")
    if times.samples is None or times.steps is None:
        return [*lines, "how long the run takes nobody knows: give --samples, or trainer.max_steps"]
    validation = machines.hours(times.validations * times.validated * plan.validation_flops)
    whole = _hours_of(plan, times)
    judged = f"{validation / whole:.1%} validate, {times.validations} times {times.validated:,} samples"
    share = f"of which {judged}" if validation else "without validation, of whose samples nothing is known"
    lines.append(f"the run of {times.steps:,} steps: {_hours(whole)}, {share}")
    if isinstance(plan.stage, RGLF) and times.epoch is not None and plan.stage.feedback is None:
        fed = plan.work.sizes.samples or 0
        judged = 0 if plan.validation is None else plan.validation.sizes.samples or 0
        stored = machines.hours((fed + judged) * plan.feedback_flops)
        lines.append(
            f"feedback on {fed + judged:,} samples, computed once by `lit-avg feedback`: {_hours(stored)} on "
            f"{machines.all_devices} device(s); a stage that trains from it has no LLM"
        )
    return lines


def _hours_of(plan: Plan, times: Schedule) -> float:
    """Of the whole run, as far as that is known."""
    judged = times.validations * times.validated * plan.validation_flops
    return plan.machines.hours((times.samples or 0) * total(plan.flops) + judged)


def disk_lines(plan: Plan, fit: Fit, config: Mapping[str, Any], times: Schedule) -> list[str]:
    """Host memory, and what checkpoints are."""
    written = checkpoints(
        plan.stage, plan.weights, fit.strategy, plan.precision, config["trainer"], times, plan.moments
    )
    saves = "" if written.saves is None else f", {written.saves:,} times"
    written_in_all = "" if written.saves is None else f" ({_number(written.saves * written.size / 1e9)} GB in all)"
    clock = "" if written.minutes is None else f" and at most every {written.minutes:g} minutes"
    host = host_memory(plan, fit, int(config["data"]["init_args"].get("workers") or 0))
    size, disk = _number(written.size / 1e9), _number(written.disk / 1e9)
    return [
        f"host memory of a node: {_gib(host)} GiB",
        f"a checkpoint is {size} GB{saves}{written_in_all}{clock}; {disk} GB of disk",
    ]


def _schedule(plan: Plan, fit: Fit, config: Mapping[str, Any]) -> Schedule:
    data = config["data"]["init_args"]
    validated = 0 if plan.validation is None else plan.validation.sizes.samples or 0
    judged = int(data.get("eval_batch_size") or plan.wanted) * plan.machines.all_devices
    accumulated = fit.accumulated
    return schedule(config["trainer"], plan.work.sizes.samples, validated, plan.batch, accumulated, judged)


def _tokens(plan: Plan) -> str:
    lengths, tiles = plan.work.lengths, plan.work.tiles
    return (
        f"{lengths[:, -1].mean():,.0f} tokens at the finest granularity and {tiles.mean():.1f} tiles on average, "
        f"{plan.work.longest_sequence:,} tokens at most"
    )


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{hours * 60:,.0f} minutes" if hours >= 1 / 12 else f"{hours * 3600:,.2g} seconds"


def _gib(size: float) -> str:
    return _number(size / GIB)


def _number(value: float) -> str:
    """With three digits, or two."""
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 or not value else f"{value:.1g}"
