"""What does the product raise when it refuses something, and what does it tell the user?"""


class KdnasError(Exception):
    """Refused input: names the field, the value and the remedy; the CLI prints it and exits with 2.

    Args:
        problem: what is wrong, one clause.
        field: the key, argument or file at fault, as the user wrote it.
        value: the offending value (shortened for display), or None where there is none.
        remedy: what to do instead.
    """

    exit_code = 2

    def __init__(self, problem: str, *, field: str, value: object = None, remedy: str = "") -> None:
        self.problem, self.field, self.value, self.remedy = problem, field, value, remedy
        shown = "" if value is None else f" = {_short(value)}"
        super().__init__(f"{field}{shown}: {problem}" + (f"\n  {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple:
        # Exceptions with keyword arguments do not survive pickling (between Ray processes) by default.
        return _rebuild, (type(self), self.problem, self.field, self.value, self.remedy)


class RunError(KdnasError):
    """A run that started and could not go on; the CLI exits with 1."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """What a foreign error says, in one line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _rebuild(cls: type[KdnasError], problem: str, field: str, value: object, remedy: str) -> KdnasError:
    return cls(problem, field=field, value=value, remedy=remedy)


def _short(value: object, limit: int = 120) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
