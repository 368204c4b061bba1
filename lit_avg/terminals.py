"""Terminals and logs that know ASCII or Latin-1 alone get what they can show: a plain sign for each that they cannot.

A mere `?` would take the sign off a number: the minus of our tables is no hyphen.
"""

import codecs
import sys
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
