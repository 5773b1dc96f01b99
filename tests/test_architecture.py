"""Imports point downwards: the house as it stands, and planted walls that must be seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from .architecture import FLOORS, complaints, floor_of, sources_of

HOUSE = Path(__file__).parents[1] / "src" / "flowstage"

SOUND = {
    "__init__": "from ._flow import Flow\nfrom . import operators\n",
    "_envelope": "import typing\nfrom attrs import frozen\n",
    "_errors": "import anyio\nfrom ._envelope import Failure\n",
    "_backend": "import asyncio\n\ndef token():\n    import trio\n    return trio\n",
    "_plan": "from ._topology import Node\n",
    "_topology": "from ._errors import GraphError\n",
    "_wires": "from anyio import create_memory_object_stream\nfrom ._envelope import Envelope\n",
    "_engine": "from .map import run_map\nfrom . import join\n",
    "_engine.map": "from .._wires import Inlet\nfrom .call import call\n",
    "_engine.call": "from flowstage._errors import note_failure\nfrom .. import _backend\n",
    "_engine.join": "",
    "_run": "from ._plan import plan\nfrom ._engine import RUNNERS\n",
    "_flow": "from ._graph import Graph\n",
    "_graph": (
        "from typing import TYPE_CHECKING\nfrom ._run import Run\n"
        "if TYPE_CHECKING:\n    from ._flow import Flow\n    from typing_extensions import TypeIs\n"
    ),
    "operators": "from ._flow import Flow\nfrom ._envelope import Sentinel\n",
    "compat": "",
    "compat.peer": (
        "from flowstage import Flow\nfrom flowstage.operators import take\n"
        "from ._host import host\n"
    ),
    "compat._host": "import anyio\nimport asyncio\n",
}

PLANTED = {
    "a module without a room": ("_utils", "", "_utils: has no room"),
    "upwards": ("_envelope", "from ._run import Run", "_envelope:1: imports upwards: _run"),
    "upwards, by the package": ("_run", "from flowstage import Flow", "imports upwards: __init__"),
    "upwards, absolute": ("_errors", "import flowstage._run", "imports upwards: _run"),
    "upwards, from below a package": (
        "_engine.map",
        "from ..  import _run",
        "_engine.map:1: imports upwards: _run",
    ),
    "upwards, for types": (
        "_run",
        "import typing\nif typing.TYPE_CHECKING:\n    from ._flow import Flow",
        "_run:3: imports upwards: _flow",
    ),
    "the plan seen by the machinery": (
        "_engine.map",
        "from .._plan import plan",
        "the machinery must not import the plan",
    ),
    "a loop in the plan": ("_plan", "import anyio", "the plan needs no event loop"),
    "a part of a loop in the plan": ("_plan", "from anyio.abc import X", "needs no event loop"),
    "a backend in the machinery": ("_wires", "import asyncio", "may import asyncio"),
    "a backend in a method": (
        "_wires",
        "class A:\n    async def b(self):\n        import trio",
        "_wires:3: only _backend, compat._host, testing may import trio",
    ),
    "an extra at the top": ("_backend", "import trio", "trio is an extra"),
    "an import in a function": (
        "_run",
        "def f():\n    from ._plan import plan",
        "_run:2: imports _plan inside a function",
    ),
    "a late library": ("_run", "def f():\n    import json", "imports json inside a function"),
    "a new dependency": ("_run", "import numpy", "numpy is no dependency"),
    "a type checker's module at run time": ("_run", "import typing_extensions", "no dependency"),
    "a circle of neighbours": ("_topology", "from ._plan import plan", "imports in a circle"),
    "a circle in a package": ("_engine.call", "from .map import run_map", "imports in a circle"),
    "an operator behind the door": (
        "operators",
        "from ._run import Run",
        "operators uses public verbs only, not _run",
    ),
    "compat behind the door": (
        "compat.peer",
        "from .._flow import Flow",
        "compat uses the public API only, not _flow",
    ),
}


def test_the_house_keeps_its_rules() -> None:
    """Every module has a room, and every import points downwards."""
    assert complaints(sources_of(HOUSE)) == []


def test_a_sound_house_gives_no_complaint() -> None:
    """What the rules allow is not complained about."""
    assert complaints(SOUND) == []


@pytest.mark.parametrize(("module", "text", "complaint"), PLANTED.values(), ids=PLANTED)
def test_a_planted_violation_is_found(module: str, text: str, complaint: str) -> None:
    """Each rule sees the one thing that breaks it."""
    found = complaints({**SOUND, module: text})
    assert len(found) == 1, found
    assert complaint in found[0]


def test_no_room_stands_on_two_floors() -> None:
    """The table is unambiguous."""
    rooms = [room for _, rooms in FLOORS for room in rooms]
    assert len(rooms) == len(set(rooms))
    assert floor_of("_engine.map") == floor_of("_wires") == 3
    assert floor_of("_utils") is None
