"""The folders of the configs and of a run.

Imports no torch.
"""

import datetime
import itertools
import os
from pathlib import Path

from degla.errors import ConfigError


def config_dir() -> str:
    """Return the folder ``configs/`` of a checkout, or its copy inside an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "configs"
    if (checkout / "train.yaml").is_file() and (package.parent / "pyproject.toml").is_file():
        return str(checkout)
    return str(package / "configs")


def run_folder(root: str, name: str, ckpt_path: str | None) -> str:
    """Return the folder of this run: a new one, or with ``ckpt_path=last`` the newest one of that name.

    A new folder is created. All processes of a torchrun launch get the same folder.

    Args:
        root: folder of all runs, the key ``runs_dir``.
        name: name of the run; runs of the same name share a folder.
        ckpt_path: the key of that name.
    """
    runs = Path(root) / name
    if ckpt_path == "last":
        # Newest checkpoint, not newest folder: a run that died before its first checkpoint has nothing to resume.
        checkpoints = sorted(runs.glob("*/checkpoints/step-*.ckpt"), key=lambda path: path.stat().st_mtime)
        if checkpoints:
            return str(checkpoints[-1].parent.parent)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        run_id = os.environ["TORCHELASTIC_RUN_ID"]
        # The default id is the same for every launch, so the launcher's own process id is added.
        return str(runs / f"torchrun-{run_id if run_id != 'none' else f'{datetime.date.today()}-{os.getppid()}'}")
    stamp = f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    for number in itertools.count():
        folder = runs / (f"{stamp}-{number}" if number else stamp)
        try:
            folder.mkdir(parents=True)  # two runs that start within the same second cannot both create it
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"runs_dir={root}: {folder} cannot be created ({error.strerror})") from error
        return str(folder)
    raise AssertionError("unreachable")
