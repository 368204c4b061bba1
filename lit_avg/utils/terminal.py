"""What a terminal or a log shows: plain signs where it knows no others, and warnings, which end no run.

Those that know ASCII or Latin-1 alone get a plain sign for each that they cannot show. A mere `?` would take the sign
off a number: the minus of our tables is no hyphen.

Warnings are shown whatever `PYTHONWARNINGS` and `python -W` say. Libraries warn on nearly every run (of what they will
change, of what they think slow). Where the environment makes an error of each, which is meant for a library's own
tests, no run would come to its first step, or one would be lost late.
"""

import codecs
import os
import sys
import warnings
from io import TextIOWrapper

ERRORS = "plain_signs"
"""Name of the codec error handler."""

PLAIN = {
    "−": "-",
    "–": "-",
    "─": "-",
    "━": "-",
    "│": "|",
    "·": "|",
    "…": "...",
    "±": "+-",
    "×": "x",
    "→": "->",
    "α": "alpha",
    "δ": "delta",
    "ε": "epsilon",
    "†": "*",
    "‡": "**",
    "§": "#",
    "¶": "##",
}
"""What stands for a sign that an encoding does not have; any other is shown as `?`."""


def write_plain_signs() -> None:
    """Let standard output and errors replace what their encoding does not have, instead of ending the program."""
    codecs.register_error(ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign, "?") for sign in unknown), error.end


VARIABLE = "PYTHONWARNINGS"


def show_warnings() -> None:
    """Have what would be raised as an error be shown, in this process and in those that it starts."""
    if all(shown(option) == option for option in sys.warnoptions):
        return
    # processes that multiprocessing starts are given `sys.warnoptions`, all others read the variable
    sys.warnoptions[:] = map(shown, sys.warnoptions)
    if told := os.environ.get(VARIABLE):
        os.environ[VARIABLE] = ",".join(map(shown, told.split(",")))
    for place, (action, *where) in enumerate(warnings.filters):
        if action == "error":
            warnings.filters[place] = ("default", *where)  # pyright: ignore[reportIndexIssue]  a list, in truth
    warnings.simplefilter("default", append=True)  # what happens anyway; but `warnings` notices that filters changed


def shown(option: str) -> str:
    """An option of `python -W`, such as `error::UserWarning`, without the error; Python takes `e` for it, too."""
    action, separator, where = option.strip().partition(":")
    action = action.strip()
    return f"default{separator}{where}" if action and "error".startswith(action) else option
