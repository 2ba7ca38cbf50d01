"""Where candidates' weights start and how they are judged."""

from search_spaces import Registry
from trainables.evaluators.scratch import Scratch

EVALUATORS: Registry[type] = Registry("evaluator", ("scratch", Scratch))

__all__ = ["EVALUATORS", "Scratch"]
