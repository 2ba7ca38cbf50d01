"""How are named choices (spaces, losses, samplers, …) kept and looked up?"""

import difflib
import inspect
from collections.abc import Iterator, Mapping
from typing import TypeVar

from search_spaces.errors import KdnasError

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A table of what exists: `Registry("space", ("resnet", ResNetSpace), …)`.

    Args:
        kind: the word for one entry, used in error messages.
        entries: pairs of name and object; a name given twice raises.
    """

    def __init__(self, kind: str, *entries: tuple[str, T]) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        for name, entry in entries:
            if name in self._entries:
                raise KdnasError(f"two {kind} entries have this name", field=kind, value=name)
            self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            close = difflib.get_close_matches(str(name), self._entries, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise KdnasError(
                f"unknown {self.kind}",
                field=self.kind,
                value=name,
                remedy=f"{hint}known: {', '.join(self._entries)}",
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def name_of(self, entry: object) -> str:
        """Name under which the class of `entry` (or `entry` itself) is registered."""
        for name, known in self._entries.items():
            if known is entry or known is type(entry):
                return name
        raise KdnasError(f"not a registered {self.kind}", field=self.kind, value=type(entry).__name__)

    def describe(self) -> list[dict[str, str]]:
        """Name, summary (first line of the docstring) and source (its `Source:` paragraph) of every entry.

        Where an entry says what it `reads` (losses), that too.
        """
        rows = []
        for name, entry in self._entries.items():
            text = inspect.getdoc(entry) or ""
            paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
            source = next((part.removeprefix("Source: ") for part in paragraphs if part.startswith("Source: ")), "")
            row = {"name": name, "summary": text.partition("\n")[0], "source": source}
            reads = getattr(entry, "reads", None)
            rows.append(row | {"reads": reads} if isinstance(reads, str) else row)
        return rows
