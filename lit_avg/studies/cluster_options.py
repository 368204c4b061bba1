"""The study file's `slurm:` section: what a run asks of the cluster."""

from dataclasses import dataclass

from lit_avg.studies.fields import Fields


@dataclass(frozen=True)
class ClusterOptions:
    """What each job asks for.

    Args:
        partition: where it runs.
        account: who pays.
        time: its limit in minutes; a run that needs longer is requeued and goes on.
        nodes: machines.
        tasks: processes on each of them; those of a training must be as many as its devices.
        gpus: on each of them.
        cpus: for each process.
        memory: of each machine, in GB.
        signal: seconds before the limit at which a run is told to save itself and make room.
        setup: shell commands before the run.
    """

    partition: str | None = None
    account: str | None = None
    time: int = 60
    nodes: int = 1
    tasks: int = 1
    gpus: int | None = None
    cpus: int = 1
    memory: int | None = None
    signal: int = 90
    setup: tuple[str, ...] = ()


def read_options(fields: Fields) -> ClusterOptions:
    """Take the section apart; what is wrong with it is noted in `fields`."""

    def number(key: str, default: int) -> int:
        value = fields.take(key, int, "a whole number", optional=True)
        return default if value is None else value

    def text(key: str) -> str | None:
        return fields.take(key, str, "a name", optional=True)

    options = ClusterOptions(
        partition=text("partition"),
        account=text("account"),
        time=number("time", 60),
        nodes=number("nodes", 1),
        tasks=number("tasks", 1),
        gpus=fields.take("gpus", int, "a whole number", optional=True),
        cpus=number("cpus", 1),
        memory=fields.take("memory", int, "gigabytes", optional=True),
        signal=number("signal", 90),
        setup=tuple(fields.take_list("setup", str, "shell commands", optional=True)),
    )
    fields.refuse_the_rest()
    if options.signal >= options.time * 60:
        fields.complain(f"{options.signal} seconds before the end of {options.time} minute(s) is too early", "signal")
    return options
