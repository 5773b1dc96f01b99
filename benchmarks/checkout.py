"""Where this checkout is, so that its own flowstage is measured, here and in processes begun."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"


def use_checkout() -> None:
    """Make ``import flowstage`` find this checkout before an installed one."""
    if str(SOURCE) not in sys.path:
        sys.path.insert(0, str(SOURCE))


def environment() -> dict[str, str]:
    """The environment of a process that is to find this checkout too."""
    before = os.environ.get("PYTHONPATH")
    paths = [str(SOURCE), str(ROOT), *([before] if before else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
