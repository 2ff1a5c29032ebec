"""Draws the picture of the packages and their imports: python -m docs.import_graph

The arrows come from the code, as tests/unit/test_layout.py reads it. An import that a longer way along the
arrows covers is left out. The program `dot` (graphviz) draws docs/images/import-graph.svg. The picture is
committed, so the site and the tests do not need the program. A unit test compares the picture with the code.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from html import escape, unescape
from pathlib import Path

from docs.generate import PACKAGES
from tests.unit.test_layout import MODULES, imported, package_of

PICTURE = Path(__file__).parent / "images" / "import-graph.svg"

Edge = tuple[str, str]

_STYLE = """
  rankdir=TB; bgcolor="transparent"; nodesep=0.35; ranksep=0.45;
  node [shape=box, style="rounded,filled", fillcolor="#f3f6fb", color="#4a6fa5", fontname="sans-serif",
        fontsize=11, margin="0.16,0.09"];
  edge [color="#4a6fa5", arrowsize=0.7];
"""


def edges_of_the_code() -> set[Edge]:
    """Each pair of packages of which the first imports from the second."""
    pairs = {
        (package_of(module), package_of(needed))
        for module in MODULES
        for needed in imported(module)
        if package_of(module) in PACKAGES and package_of(needed) in PACKAGES
    }
    return {(package, needed) for package, needed in pairs if package != needed}


def edges_of_the_picture(svg: str) -> set[Edge]:
    """The arrows of a picture that dot has drawn.

    >>> sorted(edges_of_the_picture("<title>cli&#45;&gt;ops</title><title>cli</title>"))
    [('cli', 'ops')]
    """
    titles = (unescape(title) for title in re.findall(r"<title>([^<]*)</title>", svg))
    return {(before, after) for before, arrow, after in (title.partition("->") for title in titles) if arrow}


def without_shortcuts(edges: Iterable[Edge]) -> set[Edge]:
    """The edges that are not covered by a longer way.

    >>> sorted(without_shortcuts([("a", "b"), ("b", "c"), ("a", "c")]))
    [('a', 'b'), ('b', 'c')]
    """
    edges = set(edges)

    def reached(start: str, skip: Edge) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            here = todo.pop()
            for edge in edges - {skip}:
                if edge[0] == here and edge[1] not in seen:
                    seen.add(edge[1])
                    todo.append(edge[1])
        return seen

    return {edge for edge in edges if edge[1] not in reached(edge[0], edge)}


def dot_source(edges: set[Edge]) -> str:
    """The graph as dot reads it."""
    boxes = [f'  "{name}" [label=<<b>{name}</b><br/>{_two_lines(duty)}>];' for name, duty in PACKAGES.items()]
    arrows = [f'  "{before}" -> "{after}";' for before, after in sorted(edges)]
    return "digraph packages {" + _STYLE + "\n".join([*boxes, *arrows]) + "\n}\n"


def _two_lines(text: str) -> str:
    """Text for a box, broken near its middle.

    >>> _two_lines("the functions for Python programs")
    'the functions for<br/>Python programs'
    """
    spaces = [place for place, sign in enumerate(text) if sign == " "]
    middle = min(spaces, key=lambda place: abs(place - len(text) / 2))
    return f"{escape(text[:middle])}<br/>{escape(text[middle + 1 :])}"


def main() -> int:
    drawn = subprocess.run(
        ["dot", "-Tsvg"],
        input=dot_source(without_shortcuts(edges_of_the_code())),
        capture_output=True,
        text=True,
        check=False,
    )
    if drawn.returncode:
        print(drawn.stderr, file=sys.stderr)
        return 1
    PICTURE.write_text(drawn.stdout)
    print(f"{PICTURE.relative_to(Path.cwd())} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
