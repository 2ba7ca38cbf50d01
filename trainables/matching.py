"""Which layer of the teacher does a layer of the student learn from?

Learned attention over all pairs is a loss of its own: `cross_layer`.
"""

from collections.abc import Callable, Mapping, Sequence

from search_spaces import KdnasError, Registry

Shapes = Mapping[str, tuple[int, ...]]
Match = Callable[[str, Sequence[str], Shapes, Shapes], str]


def by_name(tap: str, order: Sequence[str], student: Shapes, teacher: Shapes) -> str:
    """The teacher's tap of the same name.

    Source: Romero 2015, FitNets: Hints for Thin Deep Nets, section 2.2 (a layer chosen by hand).

    Args:
        tap: of the student.
        order: not used.
        student: not used.
        teacher: shapes of the teacher's taps in the bank.

    Raises:
        KdnasError: there is none.
    """
    if tap not in teacher:
        raise KdnasError(
            "the bank does not hold this tap",
            field="recipe.terms.tap",
            value=tap,
            remedy=f"taps in the bank: {', '.join(teacher) or 'none'}",
        )
    return tap


def by_relative_depth(tap: str, order: Sequence[str], student: Shapes, teacher: Shapes) -> str:
    """The teacher's tap that lies at the same share of the way from the first to the last of its kind.

    Source: Chen 2021, Distilling Knowledge via Knowledge Review (stages in order); layers as maps and as vectors apart.

    Args:
        tap: of the student.
        order: the student's taps of all kinds from input to output.
        student: shapes of the student's taps.
        teacher: shapes of the teacher's taps in the bank, from input to output.

    Raises:
        KdnasError: the bank holds none of this kind.
    """
    own = [name for name in order if len(student[name]) == len(student[tap]) and name != "logits"]
    others = _alike(tap, student, teacher)
    place = own.index(tap) / (len(own) - 1) if len(own) > 1 and tap in own else 1.0
    return others[round(place * (len(others) - 1))]


def by_resolution(tap: str, order: Sequence[str], student: Shapes, teacher: Shapes) -> str:
    """The teacher's tap whose map is nearest in height and width; the deepest of several.

    Source: Heo 2019, A Comprehensive Overhaul of Feature Distillation, section 3 (the end of each resolution).

    Args:
        tap: of the student.
        order: not used.
        student: shapes of the student's taps.
        teacher: shapes of the teacher's taps in the bank, from input to output.

    Raises:
        KdnasError: the bank holds none of this kind.
    """
    others = _alike(tap, student, teacher)
    size = student[tap][1:]
    return min(reversed(others), key=lambda name: sum(abs(a - b) for a, b in zip(teacher[name][1:], size, strict=True)))


MATCHES: Registry[Match] = Registry(
    "matching", ("name", by_name), ("depth", by_relative_depth), ("resolution", by_resolution)
)


def _alike(tap: str, student: Shapes, teacher: Shapes) -> list[str]:
    alike = [name for name, shape in teacher.items() if len(shape) == len(student[tap]) and name != "logits"]
    if not alike:
        raise KdnasError(
            "the bank holds no tap of this kind (map or vector)",
            field="recipe.terms.tap",
            value=tap,
            remedy=f"taps in the bank: {', '.join(teacher) or 'none'}",
        )
    return alike
