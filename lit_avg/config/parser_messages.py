"""What jsonargparse and Lightning say of a mistake in a config, in one line instead of a page.

A page names every type that a value may have; what a person needs is the key, the value, and what was expected.
"""

import re
import traceback
from collections.abc import Iterator
from importlib import import_module

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_avg.utils.arguments import LARGEST_SEED
from lit_avg.utils.errors import UserError

NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Expected a path but"
    r"|Subclass types expect|Unable to load config '|a class path|a dict with"
)
"""Beginnings of jsonargparse's lines that say nothing of the mistake."""

KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "`key: value` entries",
    "Sequence": "a list",
    "Iterable": "a list",
    "Mapping": "`key: value` entries",
}
"""What Python's types are called in YAML."""

_EXPECTED = re.compile(r"Expected a (?:<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[(.*?)\])(?:\. Got value: (.*))?$")
_UNKNOWN_CLASS = re.compile(
    r"expects a function or a callable class: (.*?)\. Got value: Namespace\(class_path='([\w.]+)'", re.DOTALL
)
"""What is said of a part of a model whose class cannot be found, before all of its arguments."""

_KEY = re.compile(r'(?:Parser key "([^"]*)"|([\w.]+)):\s+|Parser key "([^"]*)":$')
_CLASS = "a class by its class_path"
_NO_CLASS = ("Not a valid subclass", "Expected a dot import path string", "Import path does not correspond")


def in_short(message: str) -> str:
    """The keys on the way to a mistake and the mistake: `model.alpha: expected a number, but got x`."""
    if missing := re.match(r"the following arguments are required: (.*)", message):
        return f"the config does not say what {missing[1].replace('fit.', '')} is, which must be given"
    if unexpected := re.match(r"Unexpected config: ?(.*)", message, re.DOTALL):
        return f"a config must hold `key: value` lines, but one holds {_cut(unexpected[1]) or 'nothing'}"
    keys, reasons, value = list[str](), list[str](), _given(message)
    for line in message.splitlines():
        reason = line.strip().removeprefix("- ")
        own = list[str]()
        while (key := _KEY.match(reason)) and not (key[2] and key[2][0].isupper()):
            own.append(key[1] or key[2] or key[3])
            reason = reason[key.end() :]
        if not reasons:
            keys += [part for part in own if keys[-1:] != [part]]
        if reason and not NOISE.match(reason) and f" {reason}" not in reasons:
            reasons.append(reason)
    return _told(".".join(keys), reasons, value)


def _told(where: str, reasons: list[str], value: str | None) -> str:
    expected, others = list[str](), list[str]()
    for reason in dict.fromkeys(reasons):
        if kind := _EXPECTED.match(reason):
            expected.append(KINDS.get(kind[1], kind[1]) if kind[1] else kind[2].replace("'", "").replace(", ", " | "))
            value = kind[3] or value
        elif reason.startswith(_NO_CLASS):
            expected.append(_CLASS)
        elif loaded := re.match(r'Unable to load config "(.*)"', reason):
            expected.append("a section of options")
            value = loaded[1]
        elif abstract := re.match(r"Expected an instantiatable class, but ([\w.]+) is abstract", reason):
            others.append(f"{abstract[1]} does not define {_not_defined(abstract[1])}")
        else:
            others.append(reason)
    what = " ".join(others)
    if where == "seed_everything":  # Lightning would take true and false, too, for seeds that nobody chose
        expected = [f"a whole number from 0 to {LARGEST_SEED}"]
    if not others:
        what = f"expected {' or '.join(dict.fromkeys(expected))}" + (f", but got {_cut(value)}" if value else "")
    if unknown := _UNKNOWN_CLASS.search(what):
        what = f"there is no class {unknown[2]} ({unknown[1]}); name it by where it lies now"
    if missing := re.search(r"No module named .*Got value: (\S+\.ya?ml)$", what):  # it took the file for a class
        what = f"there is no file {missing[1]} beside the config that names it"
    return f"{where}: {what}" if where else what


def _not_defined(class_path: str) -> str:
    """The methods that an abstract class leaves to be defined."""
    module, _, name = class_path.rpartition(".")
    return ", ".join(sorted(getattr(import_module(module), name).__abstractmethods__))


def _given(message: str) -> str | None:
    """The value that a page ends with."""
    given = re.search(r"Given value: (.*)", message)
    return None if given is None or given[1].startswith(("Namespace(", "NestedArg(")) else given[1]


def _cut(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:80]} …"


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, what that came from …"""
    passed = set[int]()
    while error is not None and id(error) not in passed:
        passed.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def mistake_in(error: Exception) -> UserError | None:
    """What an error that building a config ended with says of a mistake in it; None if it is a bug.

    What a library says of the values that it was given is the user's to mend, and so is a package that is missing.
    """
    chain = list(chain_of(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return cause
    root = chain[-1]
    frames = traceback.extract_tb(root.__traceback__)
    of_library = bool(frames) and "site-packages" in frames[-1].filename
    if isinstance(root, MisconfigurationException) or (
        isinstance(root, ValueError | TypeError | ImportError) and of_library
    ):
        named = re.search(r"given class_path '([\w.]+)'", " ".join(map(str, chain)))
        where = named[1] if named else "trainer" if _of_trainer(error) else "config"
        return UserError(f"{where}: {' '.join(str(root).split())[:400]}")
    return None


def _of_trainer(error: Exception) -> bool:
    return any(frame.name == "instantiate_trainer" for frame in traceback.extract_tb(error.__traceback__))
