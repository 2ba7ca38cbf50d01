"""How are named choices (spaces, losses, samplers, …) kept and looked up, a user's own by import path included?"""

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from search_spaces.errors import KdnasError, first_line

T = TypeVar("T")

_may_import = ContextVar("_may_import", default=True)


class Registry(Mapping[str, T]):
    """A table of what exists: `Registry("space", ("resnet", ResNetSpace), …)`.

    Args:
        kind: the word for one entry, used in error messages.
        entries: pairs of name and object; a name given twice raises.
        needs: methods and attributes of an entry; where given, `package.module:Class` names a user's own frozen
            dataclass with all of them, imported from the working folder too.
    """

    def __init__(self, kind: str, *entries: tuple[str, T], needs: Sequence[str] = ()) -> None:
        self.kind, self.needs = kind, tuple(needs)
        self._entries: dict[str, T] = {}
        for name, entry in entries:
            if name in self._entries:
                raise KdnasError(f"two {kind} entries have this name", field=kind, value=name)
            self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        if self.needs and isinstance(name, str) and ":" in name:
            return self._own(name)
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
        """Name under which the class of `entry` (or `entry` itself) is registered; the import path of a user's own."""
        for name, known in self._entries.items():
            if known is entry or known is type(entry):
                return name
        kind = entry if isinstance(entry, type) else type(entry)
        if self.needs and not missing(kind, self.needs):
            return f"{kind.__module__}:{kind.__qualname__}"
        raise KdnasError(f"not a registered {self.kind}", field=self.kind, value=type(entry).__name__)

    def _own(self, path: str) -> Any:
        found = imported(path, self.kind)
        lacking = missing(found, self.needs)
        if lacking:
            raise KdnasError(
                f"is no {self.kind}: it {lacking}",
                field=self.kind,
                value=path,
                remedy=f"a frozen dataclass with {', '.join(self.needs)}; docs/extending.md shows one",
            )
        return found

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


def imported(path: str, field: str) -> Any:
    """What `package.module:name` names; the working folder is searched too. This runs the user's code.

    Raises:
        KdnasError: the module cannot be imported, or has no such name.
    """
    module = path.partition(":")[0]
    try:
        return located(path)
    except KdnasError:
        raise
    except AttributeError as error:
        own = importlib.import_module(module) if module in sys.modules else None
        there = [known for known, value in vars(own).items() if inspect.isclass(value)] if own else []
        raise KdnasError(
            f"has no such name ({first_line(error)})",
            field=field,
            value=path,
            remedy=f"classes of the module: {', '.join(there)}" if there else "give package.module:Class",
        ) from error
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise KdnasError(
            f"cannot be imported ({type(error).__name__}: {first_line(error)})",
            field=field,
            value=path,
            remedy="give package.module:Class, importable from here (the working folder is searched too)",
        ) from error


@contextlib.contextmanager
def data_only() -> Iterator[None]:
    """While what is read is a file that may come from elsewhere: an import path in it imports no module.

    One whose module is imported already is found, for then the user's own configuration or program named it.
    """
    token = _may_import.set(False)
    try:
        yield
    finally:
        _may_import.reset(token)


def located(path: str) -> Any:
    """What `package.module:name` names; the working folder is searched too. Raises whatever the import raises.

    Raises:
        KdnasError: the module is not imported yet, within `data_only`.
    """
    module, _, name = path.partition(":")
    if module not in sys.modules and not _may_import.get():
        raise KdnasError(
            "a file names code by its import path, and files run none",
            field="import path",
            value=path,
            remedy=f"if you trust it, name it in your configuration, or `import {module}` first",
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def missing(entry: Any, needs: Sequence[str]) -> str:
    """What keeps a class from being an entry that is made from options, as the end of a sentence; empty for nothing."""
    if not isinstance(entry, type) or not dataclasses.is_dataclass(entry):
        return "is no dataclass"
    if not entry.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return "is a dataclass, but not a frozen one"
    there = {*dir(entry), *(field.name for field in dataclasses.fields(entry))}
    lacking = [name for name in needs if name not in there]
    return f"has no {', '.join(lacking)}" if lacking else ""
