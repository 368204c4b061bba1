"""Taking a YAML file apart so that every mistake in it is found at once, and told with its line."""

from dataclasses import dataclass
from typing import Any, TypeVar, cast

Value = TypeVar("Value", str, int, bool)


@dataclass(frozen=True)
class Mistake:
    """What is wrong, and the dotted path of the entry that is wrong; empty for the whole file."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.place else self.text


class Fields:
    """The entries of one section, taken out one by one; whatever is wrong is added to `errors`.

    Args:
        content: the section as YAML gave it.
        place: dotted path of the section, to name it by; empty for the whole file.
        errors: the file's list of mistakes.
    """

    def __init__(self, content: object, place: str, errors: list[Mistake]) -> None:
        self.place = place
        self._errors = errors
        if not isinstance(content, dict):
            self.complain(f"must be a section of `key: value` lines, but is {content!r}")
            content = {}
        self._left = dict(cast(dict[str, Any], content))

    @property
    def name(self) -> str:
        """The section's own name."""
        return self.place.split(".", 1)[-1]

    @property
    def left(self) -> dict[str, Any]:
        """What nobody has taken yet."""
        return dict(self._left)

    def complain(self, mistake: str, key: str = "") -> None:
        """Note a mistake in this section, or in one of its entries."""
        self._errors.append(Mistake(".".join(part for part in (self.place, key) if part), mistake))

    def take(self, key: str, kind: type[Value], meaning: str, optional: bool = False) -> Value | None:
        """One value; None if it is not there or not of its kind."""
        value = self._left.pop(key, None)
        if value is None:
            if not optional:
                self.complain(f"is missing; give {meaning}", key)
            return None
        if type(value) is not kind:  # `isinstance` would take `true` for a number
            self.complain(f"must be {meaning}, but is {value!r}", key)
            return None
        return value

    def take_list(self, key: str, kind: type[Value], meaning: str, optional: bool = False) -> list[Value]:
        """A list of values; empty if it is not there or something in it is not of its kind."""
        values = self._left.pop(key, None)
        if values is None:
            if not optional:
                self.complain(f"is missing; give a list of {meaning}", key)
            return []
        if not isinstance(values, list) or not values or any(type(v) is not kind for v in cast(list[object], values)):
            self.complain(f"must be a list of {meaning}, but is {values!r}", key)
            return []
        return cast(list[Value], values)

    def take_mapping(self, key: str, meaning: str) -> dict[str, Any]:
        """`name: value` lines; empty if there are none."""
        values = self._left.pop(key, None)
        if values is None:
            return {}
        if not isinstance(values, dict):
            self.complain(f"must be `name: value` lines of {meaning}, but is {values!r}", key)
            return {}
        return {str(name): value for name, value in cast(dict[object, Any], values).items()}

    def take_section(self, key: str) -> "Fields":
        """One section inside a section; empty if it is not there."""
        return Fields(self._left.pop(key, {}), f"{self.place}.{key}" if self.place else key, self._errors)

    def take_sections(self, key: str) -> "list[Fields]":
        """The sections inside a section, by name."""
        place = f"{self.place}.{key}" if self.place else key
        inside = Fields(self._left.pop(key, None), place, self._errors)
        return [Fields(content, f"{place}.{name}", self._errors) for name, content in inside._left.items()]

    def refuse_the_rest(self) -> None:
        """Whatever nobody has taken is unknown."""
        for key in self._left:
            self.complain("is not a key that belongs here", str(key))
