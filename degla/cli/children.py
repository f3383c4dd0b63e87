"""Runs of several processes inside a sweep.

Imports torch only while a sweep runs.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

_SET_BY_LIGHTNING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


@contextlib.contextmanager
def one_job_per_child() -> Iterator[None]:
    """Let the processes that Lightning starts for one job of a sweep run that job, not the whole sweep.

    Lightning starts further processes by repeating the command line. Under ``-m`` that command line describes the
    whole sweep. Inside this context it describes the current job: its own overrides, in its own folder. Afterwards
    the process group is destroyed, so that the next job of the sweep can set up its own.
    """
    # Without Hydra the caller is degla.finetune, which runs in one process.
    hydra = cast(DictConfig, HydraConfig.get()) if HydraConfig.initialized() else None
    if hydra is None or hydra.mode != RunMode.MULTIRUN:
        yield
        return
    import torch.distributed as dist

    import __main__

    arguments, environment, spec = sys.argv, os.environ.copy(), __main__.__spec__
    if Path(arguments[0]).name != "degla-train":  # a launcher's own program, or `python -m`
        __main__.__spec__ = importlib.util.find_spec("degla.train")
    sys.argv = [arguments[0], *hydra.overrides.task, "hydra.mode=RUN"]
    with read_write(hydra), open_dict(hydra):
        hydra.run.dir = hydra.runtime.output_dir
    try:
        yield
    finally:
        sys.argv, __main__.__spec__ = arguments, spec
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
        for name in _SET_BY_LIGHTNING:
            if name not in environment:
                os.environ.pop(name, None)
