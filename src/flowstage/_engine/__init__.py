"""The runners: which kind of stage is run by what."""

from __future__ import annotations

from .._stages import (
    BalanceStage,
    BatchStage,
    BufferStage,
    CallStage,
    ConcatStage,
    FlatMapStage,
    GatherStage,
    InputStage,
    MergeStage,
    RouteStage,
    Stage,
    TransformStage,
    ZipLatestStage,
    ZipStage,
)
from .._wires import Outlet
from .bursts import BurstOffload, fits
from .chain import Chain
from .entry import EntryRunner, InputRunner
from .flat_bursts import FlatBurstOffload
from .join import ConcatRunner, GatherRunner, MergeRunner, ZipLatestRunner, ZipRunner
from .offload import Offload
from .pool import Pool
from .reshape import BatchRunner
from .runner import Frame, Runner
from .single import SingleOffload, asks_for_more
from .source import SourceRunner
from .split import BalanceRunner, RouteRunner
from .thread_source import ThreadSourceRunner
from .transform import TransformRunner

RUNNERS: dict[type[Stage], type[Runner]] = {
    BatchStage: BatchRunner,
    BufferStage: Chain,
    TransformStage: TransformRunner,
    RouteStage: RouteRunner,
    BalanceStage: BalanceRunner,
    MergeStage: MergeRunner,
    GatherStage: GatherRunner,
    ZipStage: ZipRunner,
    ZipLatestStage: ZipLatestRunner,
    ConcatStage: ConcatRunner,
    InputStage: InputRunner,
}


def runner_for(stage: Stage, frame: Frame, outlet: Outlet | None) -> type[Runner]:
    """Give the class that runs tasks whose first stage is this one.

    Args:
        stage: the stage.
        frame: what the run gives its runners.
        outlet: where the main results go out, unless the stage is a fan-out.
    """
    if isinstance(stage, CallStage):
        if stage.options.on is not None:
            if asks_for_more(frame, stage):
                return SingleOffload
            if outlet is None or not fits(frame, stage, outlet):
                return Offload
            return FlatBurstOffload if isinstance(stage, FlatMapStage) else BurstOffload
        return Pool if stage.options.width > 1 else Chain
    for kind in type(stage).__mro__:
        if kind in RUNNERS:
            return RUNNERS[kind]
    raise TypeError(f"no runner for {stage!r}")


__all__ = [
    "EntryRunner",
    "Frame",
    "InputRunner",
    "Runner",
    "SourceRunner",
    "ThreadSourceRunner",
    "runner_for",
]
