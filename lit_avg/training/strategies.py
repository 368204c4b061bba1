"""What Lightning's strategies are told before they set up their processes, whoever named them and in whatever class."""

from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy

from lit_avg.training.zero_steps import count_steps
from lit_avg.utils.errors import UserError


def prepare_strategy(strategy: Strategy) -> None:
    """Have DeepSpeed's steps counted as under every other strategy, and FSDP2 shard over all devices.

    `ModelParallelStrategy` by itself would split single layers over the devices of a node, for which nothing here has a
    plan; only who asks for that by number is refused, when the model is built.

    Raises:
        UserError: it is the first FSDP, which flattens parameters that are asked for one by one here.
    """
    if isinstance(strategy, FSDPStrategy):
        raise UserError(
            "trainer.strategy is PyTorch's first FSDP, for which there is no plan here; lay "
            "experiments/strategies/fsdp2.yaml over the stage"
        )
    count_steps(strategy)
    if isinstance(strategy, ModelParallelStrategy):
        sizes = strategy._data_parallel_size, strategy._tensor_parallel_size  # pyright: ignore[reportPrivateUsage]  it has no other way
        if sizes == ("auto", "auto"):
            strategy._data_parallel_size = strategy.num_nodes * strategy.num_processes  # pyright: ignore[reportPrivateUsage]
            strategy._tensor_parallel_size = 1  # pyright: ignore[reportPrivateUsage]
