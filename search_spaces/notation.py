"""How is an architecture written as text, and when are two the same network?

A space may have a notation of its own (`notation`, `parse`) and a canonical form (`canonical`), each an optional
method; where it has none, what is written here once serves.
"""

import json

from search_spaces.base import Architecture, Space, decode
from search_spaces.errors import KdnasError

_REMEDY = 'this space is written as a JSON object of its decisions, such as {"stage1.width": 8, …}'


def notation(space: Space, architecture: Architecture) -> str:
    """The architecture in the space's own notation; JSON of its decisions where the space has none."""
    own = getattr(space, "notation", None)
    return own(architecture) if own else json.dumps(architecture.to_json())


def parse(space: Space, text: str) -> Architecture:
    """The architecture that `notation` wrote.

    Raises:
        KdnasError: the text is malformed, or names an architecture outside the space.
    """
    own = getattr(space, "parse", None)
    if own:
        return own(text)
    try:
        decisions = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KdnasError(f"not JSON ({error})", field="architecture", value=text, remedy=_REMEDY) from error
    if not isinstance(decisions, dict):
        raise KdnasError("not a JSON object of decisions", field="architecture", value=text, remedy=_REMEDY)
    return decode(space, decisions)


def canonical(space: Space, architecture: Architecture) -> str:
    """Text that is the same for architectures that build the same network."""
    own = getattr(space, "canonical", None)
    return own(architecture) if own else architecture.digest()
