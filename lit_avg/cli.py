"""`lit-avg`, the one command. Each verb is loaded when it is called, so that `lit-avg --help` answers at once."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import cast

from lit_avg.utils.errors import UserError
from lit_avg.utils.terminal import show_warnings, write_plain_signs

USER_MISTAKE, INTERRUPTED, PIPE_CLOSED = 2, 130, 141

_FULL = (errno.ENOSPC, errno.EDQUOT)

_PATHS = (
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.EFBIG, errno.ETXTBSY),
)
"""What can be wrong with a file that somebody has named, or with where it is to go."""

_OF_PATHS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


@dataclass(frozen=True)
class Verb:
    """What a verb does, in one line, and the module whose `main(argv) -> int` does it."""

    summary: str
    module: str
    named: bool = False  # the module serves several verbs: its argv begins with the one that is meant
    calls_verbs: bool = False  # it is handed what calls other verbs


VERBS = {
    "fit": Verb("train one stage", "lit_avg.commands.fit", named=True),
    "validate": Verb("judge a run's newest checkpoint on the validation split", "lit_avg.commands.fit", named=True),
    "test": Verb("compare all policies on the test split", "lit_avg.commands.fit", named=True),
    "predict": Verb("answer questions, each at the granularity chosen for it", "lit_avg.commands.fit", named=True),
    "describe": Verb("say what a stage trains, its parameters, loss and granularities", "lit_avg.commands.describe"),
    "plan": Verb(
        "tell what fits, and what a run takes of time and disk, before it is queued", "lit_avg.commands.plan.command"
    ),
    "shard": Verb("pack conversations and images into shards", "datamodules.packing.command"),
    "data": Verb("check shards by their hashes and tell what is in them", "datamodules.checking.command"),
    "check": Verb("see whether configs can be built, without weights or data", "lit_avg.commands.check"),
    "feedback": Verb(
        "compute what the LMM thinks of each granularity, once; or report on it", "lit_avg.commands.feedback"
    ),
    "calibrate": Verb("fit how much of a run's accuracy may be given for fewer tokens", "lit_avg.commands.calibrate"),
    "consolidate": Verb("bring a sharded run's weights into one file", "lit_avg.commands.consolidate"),
    "export": Verb("write a run's model as a folder that transformers can load", "lit_avg.commands.export"),
    "import-release": Verb(
        "bring a checkpoint of the authors', or any LLaVA-NeXT, into our format", "lit_avg.commands.import_release"
    ),
    "sweep": Verb("do all runs of a study that are not done yet", "lit_avg.commands.sweep", calls_verbs=True),
    "status": Verb("tell how far a study has come", "lit_avg.commands.status"),
    "logs": Verb("show what a run of a study has printed", "lit_avg.commands.logs"),
    "cancel": Verb("stop a study's runs and take back its jobs", "lit_avg.commands.cancel"),
    "compare": Verb("tell in what two runs differ: config, environment, result", "lit_avg.commands.compare"),
    "table": Verb("make a study's table from the results that are there", "lit_avg.commands.table"),
    "figures": Verb("draw a study's figures from the results that are there", "lit_avg.commands.figures"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: the arguments behind `lit-avg`; those of the process if not given.

    Returns:
        The exit status: 0 done, 2 a mistake of the user's, 130 interrupted, 141 nobody reads on. Bugs and faults of the
        machine keep their traceback.
    """
    write_plain_signs()
    show_warnings()
    # peft loads it, which tells of products that nothing here needs
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(help_text(), flush=True)
            return 0
        return _run(arguments[0], arguments[1:])
    except UserError as mistake:
        return _say(_without_worker(str(mistake)), USER_MISTAKE)
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        if (told := _to_mend(error)) is None:
            raise
        return _say(told, USER_MISTAKE)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except SystemExit as leaving:  # argparse, after --help or a message of its own
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)


def help_text() -> str:
    """All verbs, one line each."""
    lines = [f"  {name:<14} {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        ["usage: lit-avg VERB [options]", "", *lines, "", "`lit-avg VERB --help` lists the options of a verb."]
    )


def _run(name: str, argv: list[str]) -> int:
    if name not in VERBS:
        meant = get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(VERBS)}"
        raise UserError(f"there is no verb {name}; {hint}")
    verb = VERBS[name]
    verb_main = cast(Callable[..., int], import_module(verb.module).main)
    return verb_main([name, *argv] if verb.named else argv, *([main] if verb.calls_verbs else []))


def _without_worker(message: str) -> str:
    """A data loader's worker wraps an error into its own traceback; the message itself comes last."""
    return message.rpartition(f"{UserError.__name__}: ")[2].strip()


def _to_mend(error: OSError) -> str | None:
    """What is wrong with which file, if a person can mend it; None for a fault of the machine, the net or this program.

    Those keep their traceback: too many open files, a connection that was dropped, a disk that cannot be read.
    """
    if error.errno is None:  # made by a library: a message for people, or the class of a fault
        return " ".join(str(error).split()) if type(error) in (OSError, *_OF_PATHS) else None
    # who copies a file names both: what is full is where it goes
    place = error.filename2 if error.errno in _FULL and error.filename2 is not None else error.filename
    if error.errno in _FULL and place is None:
        from tempfile import gettempdir  # it takes longer to load than `--help` to print

        return f"{error.strerror} (a disk that is written to, perhaps that of {gettempdir()})"
    return f"{place}: {error.strerror}" if place is not None and error.errno in (*_FULL, *_PATHS) else None


def _reader_gone() -> int:
    """Whoever read what is printed has seen enough, as `head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter would complain when it ends
    return PIPE_CLOSED


def _say(message: str, status: int) -> int:
    print(f"lit-avg: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
