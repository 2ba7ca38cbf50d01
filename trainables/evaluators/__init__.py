"""Where candidates' weights start and how they are judged."""

from search_spaces import Registry
from trainables.evaluators.blocks import Blocks
from trainables.evaluators.gradient import Gradient
from trainables.evaluators.scratch import Scratch
from trainables.evaluators.supernet import OneShot
from trainables.evaluators.table import Table

EVALUATORS: Registry[type] = Registry(
    "evaluator",
    ("scratch", Scratch),
    ("supernet", OneShot),
    ("gradient", Gradient),
    ("blocks", Blocks),
    ("table", Table),
)

__all__ = ["EVALUATORS", "Blocks", "Gradient", "OneShot", "Scratch", "Table"]
