"""``python benchmarks/run.py``: the same command for those who are not in the checkout's folder."""

import importlib
import sys
from pathlib import Path


def start() -> int:
    """Put the checkout where this file's own folder stands on the path, then run the command."""
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    status: int = importlib.import_module("benchmarks.cli").main()
    return status


if __name__ == "__main__":
    sys.exit(start())
