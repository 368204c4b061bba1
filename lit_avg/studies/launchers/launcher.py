"""What does the runs of a study: processes of this machine, jobs of a cluster, or a class of a user's own.

A launcher takes runs on and says which of them it still has. Which comes after which, what has failed, what was lost
and is to be submitted again is for the sweep (`lit_avg.studies.launchers.sweep`), which learns it from the runs'
folders. So a launcher may forget everything when its process ends, but for what it needs to find its runs again. One of
a user's own is a class that extends `Launcher`, on Python's path, and is named in the study or by the command:

    launcher: {class_path: my_module.MyLauncher, init_args: {host: lamp}}
    lit-avg sweep STUDY --launcher my_module.MyLauncher

`lit_avg.studies.launchers.standalone.command_line` gives it a run as a command line.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from lit_avg.studies.launchers.process import Command
from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.spec.study import Study

POLL_SECONDS = 1.0
"""How often what others do is looked at, where nobody says otherwise."""


class Launcher(ABC):
    """One way to do runs. Built anew by every `sweep`, `status` and `cancel`.

    Args:
        study: its `out` is the place for notes. Arguments of a subclass stand behind it and come from `init_args`.
    """

    reports_exits: ClassVar[bool] = False
    """Whether runs begin as soon as they are submitted, and `watch` tells how each has ended. Otherwise the sweep takes
    both from the runs' folders, and submits again what has vanished from `queued` without a word."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def check(self) -> list[str]:
        """Refuse, by a `UserError`, what cannot work. What is returned is shown before the first run."""
        return []

    def preview(self, runs: Sequence[PlannedRun]) -> list[str]:
        """What would be submitted for these, for people to read (`--dry-run`)."""
        return []

    @abstractmethod
    def submit(self, runs: Mapping[PlannedRun, Sequence[PlannedRun]], command: Command) -> Sequence[PlannedRun]:
        """Take runs on, as many as fit; the others are offered again after the next `watch`.

        Args:
            runs: what is not yet taken on, each with the unfinished ones that must end well before it may begin.
            command: what does a run (`execute` in this process, `command_line` in another).

        Returns:
            Those taken on.
        """

    def watch(self) -> Mapping[PlannedRun, int]:
        """Wait until something may have changed. The exit statuses that are known of runs that have ended since."""
        time.sleep(POLL_SECONDS)
        return {}

    @abstractmethod
    def queued(self) -> Collection[str]:
        """The identities of the study's runs that wait or run, whichever process has submitted them.

        Raises:
            UserError, OSError: nobody can tell now.
        """

    @abstractmethod
    def cancel(self) -> int:
        """Take back what is queued or runs, whichever process has submitted it; says how many runs that were."""

    def close(self) -> None:  # noqa: B027  what lives without the sweep is left to live
        """End what cannot go on without the sweep, which is over or interrupted."""
