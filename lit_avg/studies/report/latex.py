"""A study's table as LaTeX, for `\\input` into a document that loads booktabs; nothing else is needed."""

import re
import unicodedata
from functools import cache

from lit_avg.studies.report.table_cells import Cell, TableSheet, one_line

_COMMANDS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # behind the \\ of the row before it would be an argument
    "*": "{*}",  # and would be taken for that of \\\\*
    "–": "--",
    "—": "---",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "§": r"\S{}",
    "¶": r"\P{}",
} | {character: f"\\{character}" for character in "&%$#_{}"}

_LETTERS = "ßæÆøØœŒłŁ"
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}
"""What LaTeX sets in its oldest encoding, which is the default; accents with their commands."""

_LAST_READ = "ſ"
"""Up to here LaTeX reads a letter with its accent; those beyond are to be spelt."""

_LIKE_LATIN = {
    "alpha": "A",
    "beta": "B",
    "epsilon": "E",
    "zeta": "Z",
    "eta": "H",
    "iota": "I",
    "kappa": "K",
    "mu": "M",
    "nu": "N",
    "omicron": "O",
    "rho": "P",
    "tau": "T",
    "chi": "X",
}


def as_latex(sheet: TableSheet) -> str:
    """A `tabular` with what a reader must know behind it, and where its numbers come from in comments."""
    columns = len(sheet.columns)
    *notes, provenance = sheet.explained("bold")
    return "\n".join(
        [
            rf"% {one_line(provenance)}",
            rf"% lit-avg table {one_line(str(sheet.table.study.path))} --format latex; needs \usepackage{{booktabs}}",
            rf"\begin{{tabular}}{{l{'r' * (columns + 1)}}}",
            r"\toprule",
            " & ".join(map(escaped, sheet.head)) + r" \\",
            r"\midrule",
            *(
                " & ".join([escaped(line.name), escaped(line.count), *map(_cell, line.cells)]) + r" \\"
                for line in sheet.lines
            ),
            r"\bottomrule",
            rf"\addlinespace \multicolumn{{{columns + 2}}}{{l}}{{\footnotesize {escaped(notes[0])}}} \\",
            *(rf"\multicolumn{{{columns + 2}}}{{l}}{{\footnotesize {escaped(note)}}} \\" for note in notes[1:]),
            r"\end{tabular}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Any text so that pdflatex sets it: what it would take for a command, and characters it has no letter for."""
    return "".join(map(_letter, unicodedata.normalize("NFC", text)))


def _cell(cell: Cell) -> str:
    if cell.mean is None:
        return escaped(cell.said) + _signs(cell.behind)
    mean = _signs(cell.mean)
    return (rf"\textbf{{{mean}}}" if cell.best else mean) + _signs(cell.behind)


def _signs(text: str) -> str:
    """Numbers with the signs of mathematics, not hyphens."""
    return re.sub(r"([-+])(?=\d)", r"$\1$", escaped(text))


@cache  # of the few hundred there are
def _letter(character: str) -> str:
    if character in _COMMANDS:
        return _COMMANDS[character]
    if character.isspace():
        return " "
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(character, ""))
    if greek is not None and "Α" <= character <= "ω":
        return _greek(greek[2].lower(), capital=greek[1] == "CAPITAL")
    base, *accents = unicodedata.normalize("NFD", character)
    if not ((base.isascii() and base.isprintable()) or base in _LETTERS) or not set(accents) <= _ACCENTS.keys():
        return rf"\texttt{{U+{ord(character):04X}}}"
    return character if character <= _LAST_READ else _accented(base, accents)


def _accented(base: str, accents: list[str]) -> str:
    """A letter with accents, the innermost first."""
    text = {"i": r"\i", "j": r"\j"}.get(base, base)
    for accent in accents:
        text = rf"\{_ACCENTS[accent]}{{{text}}}"
    return text


def _greek(name: str, capital: bool) -> str:
    """A letter of mathematics; those that look like Latin ones have no command of their own."""
    name = {"lamda": "lambda"}.get(name, name)
    if name in _LIKE_LATIN and (capital or name == "omicron"):
        return _LIKE_LATIN[name] if capital else "o"
    return rf"$\{name.capitalize() if capital else name}$"
