"""Warnings are shown, and end no run, whatever `PYTHONWARNINGS` and `python -W` say.

Libraries warn on nearly every run (of what they will change, of what they think slow). Where the environment makes an
error of each, which is meant for a library's own tests, no run would come to its first step, or one would be lost late.
"""

import os
import sys
import warnings

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
