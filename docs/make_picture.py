"""Draw docs/first_graph.svg, the first graph of the README: python docs/make_picture.py."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from flowstage import gather

README = Path(__file__).parents[1] / "README.md"
TARGET = Path(__file__).with_name("first_graph.svg")


def picture() -> str:
    """Draw what the first example makes; its last line, which runs it, is left out."""
    found = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    example = ast.parse(found[1])
    example.body.pop()
    names: dict[str, Any] = {}
    exec(compile(example, str(README), "exec"), names)
    return gather(names["pages"], names["sizes"], names["digests"]).graph.to_svg()


if __name__ == "__main__":
    TARGET.write_text(picture(), encoding="utf-8", newline="\n")
