"""How is YAML read that may come from elsewhere? As plain data, nothing twice, nothing that grows."""

from typing import Any

import yaml

MOST_NODES = 1_000_000


def load_yaml(text: str) -> Any:
    """The plain data in a text.

    Raises:
        yaml.YAMLError: it is no YAML, a key comes twice, or anchors stand for too much; also ValueError (a date that
            does not exist), TypeError (a list as a key) and RecursionError.
    """
    return yaml.load(text, _OnceLoader)  # noqa: S506 (a SafeLoader)


class _OnceLoader(yaml.SafeLoader):
    """Safe YAML where a key that comes twice is an error, not the last one's win, and so is a text that grows.

    Ten lines of anchors that repeat each other stand for billions of values as soon as something writes them out.
    """

    def get_single_node(self) -> yaml.Node | None:
        """The document's node."""
        node = super().get_single_node()
        if node is not None and _written_out(node, {}) > MOST_NODES:
            problem = f"its anchors stand for more than {MOST_NODES:,} values"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Mapping of the node."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} comes twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """Values of a node, those of a repeated one each time."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1  # for one that holds itself
        parts = [] if isinstance(node.value, str) else node.value
        inner = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in inner)
    return known[id(node)]
