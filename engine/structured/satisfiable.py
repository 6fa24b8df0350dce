"""Whether a schema has a finite value, and whether every step towards it writes something."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Node:
    """What one schema needs to end. ``all``: every child, with ``least`` optional ones; ``any``: one of them.

    ``writes``: something is written before a child begins.
    """

    kind: Literal["all", "any"]
    children: Sequence[str]
    writes: bool
    optional: Sequence[str] = ()
    least: int = 0


def finite(nodes: Mapping[str, Node], root: str) -> bool:
    """Whether ``root`` has a value that ends: the least fixed point, each node looked at as its children are found."""
    users: defaultdict[str, list[str]] = defaultdict(list)
    for name, node in nodes.items():
        for child in {*node.children, *node.optional}:
            users[child].append(name)
    found: set[str] = set()
    waiting = deque(nodes)
    while waiting:
        name = waiting.popleft()
        if name not in found and _ends(nodes[name], found):
            found.add(name)
            waiting.extend(users[name])
    return root in found


def _ends(node: Node, found: set[str]) -> bool:
    if node.kind == "any":
        return any(child in found for child in node.children)
    spare = sum(child in found for child in node.optional)
    return all(child in found for child in node.children) and spare >= node.least


def turns_in_place(nodes: Mapping[str, Node]) -> bool:
    """Whether some schema comes back to itself with nothing written between."""
    steps = {name: set(node.children) for name, node in nodes.items() if not node.writes}
    users: defaultdict[str, list[str]] = defaultdict(list)
    for name, children in steps.items():
        children.intersection_update(steps)
        for child in children:
            users[child].append(name)
    done = deque(name for name, children in steps.items() if not children)
    left = len(steps)
    while done:
        left -= 1
        child = done.popleft()
        for name in users[child]:
            steps[name].discard(child)
            if not steps[name]:
                done.append(name)
    return left > 0
