"""On what a measurement was taken: without that, a time means nothing."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "flowstage",
    "anyio",
    "attrs",
    "trio",
    "uvloop",
    "streamable",
    "aiostream",
    "pypeln",
    "python-pyper",
    "spdl-core",
    "slurry",
    "async-task-pipeline",
    "async-pipeline",
    "asyncio-buffered-pipeline",
)


def machine() -> dict[str, object]:
    """Python, system, processors and the versions of all that took part."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        "packages": dict(_installed(PACKAGES)),
    }


def _processor() -> str:
    """The name of the processor, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (line.partition(":")[2] for line in lines if line.startswith("model name"))
            return " ".join(next(names, "").split())
    except OSError:
        return platform.processor()


def _installed(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def caption(found: dict[str, object]) -> str:
    """One line that says it all."""
    packages = found["packages"]
    assert isinstance(packages, dict)
    versions = ", ".join(f"{name} {number}" for name, number in packages.items())
    processors = f"{found['processors']} processors {found.get('processor', '')}".rstrip()
    return f"{found['python']}, {found['system']}, {processors}; {versions}"
