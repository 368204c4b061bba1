"""`Plan`: what a stage takes of devices, hosts and disks, and for how long."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lit_avg.planning.fake_step import Computed, Folded, StepMemory, fold, step_memory
from lit_avg.planning.step_flops import FlopPart, PartFlops, evaluation_flops, total, training_flops
from lit_avg.planning.strategies import ONE_DEVICE, STRATEGIES, Kept, StrategyPlan, Weights
from lit_avg.planning.workload import Workload, longest_batch
from lit_avg.stages.base import Stage

GIB = 2**30

ENOUGH = 16_384
"""Tokens at the finest granularity that keep a device busy: a larger micro-batch would gain nothing."""

MOMENTS = {"adamw": 8, "adamw8bit": 2, "paged_adamw8bit": 2}
"""Bytes that an optimiser has for each number that is trained."""

RESERVED = 2 * GIB
"""Of each device for CUDA, its libraries, NCCL and what lies between tensors."""


@dataclass(frozen=True)
class Machines:
    """What a run is given.

    Args:
        devices: on each node.
        nodes: machines.
        memory: bytes of a device.
        flops: of a device in a second, at its best.
        utilisation: the share of them that is reached.
    """

    devices: int
    nodes: int
    memory: int
    flops: float
    utilisation: float

    @property
    def all_devices(self) -> int:
        """Of all nodes."""
        return self.devices * self.nodes

    def hours(self, flops: float) -> float:
        """What so many FLOPs take on all devices."""
        return flops / (self.all_devices * self.flops * self.utilisation) / 3600


@dataclass(frozen=True)
class Fit:
    """What a device holds under a strategy, with a micro-batch of so many samples."""

    strategy: StrategyPlan
    micro_batch: int
    accumulated: int
    kept: Kept
    step: StepMemory
    batch_bytes: int = 0

    @property
    def between_steps(self) -> int:
        """Bytes that are always there."""
        return self.kept.weights + self.kept.gradients + self.kept.optimiser + self.kept.buffers

    @property
    def peak(self) -> int:
        """Bytes at most: in a micro-batch, in the optimiser's step, or while weights are loaded."""
        return max(self.between_steps + max(self.step.peak, self.kept.stepping), self.kept.loading)


@dataclass
class Plan:
    """A stage on some machines.

    Args:
        stage: with its model on torch's meta device, its parts frozen as they will be.
        work: the training samples.
        validation: those it is validated on; None for none.
        machines: where it runs.
        precision: the trainer's.
        batch: samples of an optimiser step, on all devices.
        wanted: samples a device is to take at a time, by the config.
    """

    stage: Stage
    work: Workload
    validation: Workload | None
    machines: Machines
    precision: str
    batch: int
    wanted: int
    _steps: dict[tuple[int, Computed, bool, bool, bool], StepMemory] = field(default_factory=dict)

    @cached_property
    def weights(self) -> Weights:
        """Of the model."""
        return Weights.of(self.stage)

    @cached_property
    def flops(self) -> Mapping[FlopPart, PartFlops]:
        """Of training on a sample."""
        return training_flops(self.stage, self.work)

    @cached_property
    def validation_flops(self) -> float:
        """Of validating on a sample."""
        return 0.0 if self.validation is None else evaluation_flops(self.stage, self.validation)

    @cached_property
    def feedback_flops(self) -> float:
        """Of one sample's feedback: encoder and LLM, forward at every level, without the router."""
        return evaluation_flops(self.stage, self.work, routed=False)

    @cached_property
    def _folded(self) -> Folded:
        _ = (
            self.weights,
            self.flops,
            self.validation_flops,
            self.feedback_flops,
        )  # of the whole stage, which this makes short
        return fold(self.stage)

    @property
    def samples_per_second(self) -> float:
        """Of training, all devices together."""
        return 1 / (self.machines.hours(total(self.flops)) * 3600)

    @property
    def moments(self) -> int:
        """Bytes of the optimiser for each number that is trained."""
        return MOMENTS[self.stage.optimization.optimizer]

    @property
    def micro_batches(self) -> list[int]:
        """Samples a device may take at a time so that whole numbers of them make a step; one after the other larger."""
        each = max(1, self.batch // self.machines.all_devices)
        return [size for size in range(1, each + 1) if each % size == 0]

    @property
    def micro_batch(self) -> int:
        """That of the config, or what is next to it."""
        return min(self.micro_batches, key=lambda size: abs(size - self.wanted))

    @property
    def strategies(self) -> Sequence[StrategyPlan]:
        """Those to choose from."""
        return STRATEGIES if self.machines.all_devices > 1 else ONE_DEVICE

    def fit(self, strategy: StrategyPlan, micro_batch: int) -> Fit:
        """What a device holds."""
        accumulated = max(1, self.batch // (self.machines.all_devices * micro_batch))
        kept = strategy.kept(self.weights, self.precision, self.machines.all_devices, self.moments)
        return Fit(strategy, micro_batch, accumulated, kept, self._step(strategy, micro_batch, accumulated > 1))

    def holds(self, fit: Fit) -> bool:
        """Whether a device has the room."""
        return fit.peak <= self.machines.memory - RESERVED

    def fits(self, configured: StrategyPlan) -> list[Fit]:
        """For each strategy the largest micro-batch that fits and gains something, or else the smallest; best first.

        Best is what sends the fewest bytes for a step; what fits comes before what does not.
        """
        others = [strategy for strategy in self.strategies if strategy.name != configured.name]
        found = [self._largest(strategy) for strategy in (configured, *others)]
        return sorted(found, key=lambda fit: (not self.holds(fit), traffic(fit, self.weights), -fit.micro_batch))

    def _largest(self, strategy: StrategyPlan) -> Fit:
        """From the config's micro-batch on: larger as long as that fits and gains something, or else smaller."""
        sizes, enough = self.micro_batches, ENOUGH / float(self.work.lengths[:, -1].mean())
        place = sizes.index(self.micro_batch)
        if self._never_fits(strategy):
            return self.fit(strategy, sizes[0])
        found = self.fit(strategy, sizes[place])
        while not self.holds(found) and place:
            place -= 1
            found = self.fit(strategy, sizes[place])
        while self.holds(found) and place + 1 < len(sizes):
            if sizes[place] >= enough or not self.holds(larger := self.fit(strategy, sizes[place + 1])):
                break
            place, found = place + 1, larger
        return found

    def _never_fits(self, strategy: StrategyPlan) -> bool:
        kept = strategy.kept(self.weights, self.precision, self.machines.all_devices, self.moments)
        least = max(kept.weights + kept.gradients + kept.optimiser + kept.buffers + kept.stepping, kept.loading)
        return least > self.machines.memory - RESERVED

    def _step(self, strategy: StrategyPlan, size: int, accumulates: bool) -> StepMemory:
        computed, keeps = strategy.computed(self.precision), strategy.keeps_gradients
        key = size, computed, strategy.shards_weights, keeps, accumulates and keeps
        if key not in self._steps:
            self._steps[key] = step_memory(
                self._folded,
                longest_batch(self.work, size),
                computed,
                sharded=strategy.shards_weights,
                keeps_gradients=keeps,
                accumulates=accumulates,
            )
        return self._steps[key]


def traffic(fit: Fit, weights: Weights) -> float:
    """Bytes that a device sends for an optimiser step, about; through the host's bus they count ten times.

    Gradients are sent once a step by DDP, and once a micro-batch by ZeRO; sharded weights are gathered for the forward
    pass and again for the backward pass.
    """
    strategy, width = fit.strategy, 2
    trained, everything = width * weights.trained, width * weights.all
    if strategy.offload:
        return 10 * (8 * weights.trained + fit.accumulated * everything * strategy.offload_weights) + everything
    if strategy.shards_weights:
        return fit.accumulated * (2 * everything + trained)
    if strategy.zero:
        return fit.accumulated * trained + trained
    return 2 * trained * strategy.replicated
