"""Where the configs are, where a run writes, and Hydra's errors in one sentence. Imports no torch."""

import contextlib
import datetime
import difflib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from degla.cli.sweeps import storage, trial_folder, trials_left
from degla.errors import ConfigError

USAGE_ERROR = 2

# Where other projects keep what is elsewhere here.
_ELSEWHERE = {
    "trainer.max_epochs": "loader.epochs",
    "trainer.precision": "precision",
    "trainer.strategy": "strategy",
    "data.batch_size": "loader.global_batch_size",
    "data.num_workers": "loader.num_workers",
    "loader.batch_size": "loader.global_batch_size",
    "model.lr": "optimizer.lr",
    "max_bad_fraction": "loader.max_bad_fraction",
    "lr": "optimizer.lr",
}


def config_dir() -> str:
    """``configs/`` of a checkout, or the copy inside an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "configs"
    if (checkout / "train.yaml").is_file() and (package.parent / "pyproject.toml").is_file():
        return str(checkout)
    return str(package / "configs")


def run_folder(root: str, name: str, ckpt_path: str | None) -> str:
    """The folder of this run: a new one, or with ``ckpt_path=last`` the newest of that name.

    All processes of a torchrun launch get the same folder.
    """
    runs = Path(root) / name
    if ckpt_path == "last":
        # Newest checkpoint, not newest folder: a run that died before its first checkpoint has nothing to resume.
        saved = sorted(runs.glob("*/checkpoints/step-*.ckpt"), key=lambda path: path.stat().st_mtime)
        if saved:
            return str(saved[-1].parent.parent)
    stamp = f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        run_id = os.environ["TORCHELASTIC_RUN_ID"]
        stamp = f"torchrun-{run_id if run_id != 'none' else f'{datetime.date.today()}-{os.getppid()}'}"
    folder, number = runs / stamp, 1
    while folder.exists() and "TORCHELASTIC_RUN_ID" not in os.environ:  # two runs within one second
        folder, number = runs / f"{stamp}-{number}", number + 1
    return str(folder)


def hydra_main(config_name: str, task: Callable[[DictConfig], None]) -> None:
    """Run ``task`` under Hydra with this project's configs; exit with one sentence where the user can mend it.

    ``HYDRA_FULL_ERROR=1`` brings the tracebacks back.
    """
    verbose = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise, so that the message is ours
    try:
        hydra.main(version_base="1.3", config_path=config_dir(), config_name=config_name)(task)()
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        if verbose:
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        sys.exit(USAGE_ERROR)


# As soon as this is imported, which launchers in a fresh process do before they read any config.
OmegaConf.register_new_resolver("degla.run_folder", run_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("degla.storage", storage, replace=True)
OmegaConf.register_new_resolver("degla.trials_left", trials_left, use_cache=True, replace=True)
OmegaConf.register_new_resolver("degla.trial_folder", trial_folder, replace=True)


def _sentence(error: Exception) -> str:
    """One line that says what is wrong and what to write instead."""
    message = str(error).strip()
    if isinstance(error, OverrideParseException):
        reason = message.splitlines()[0]
        return f"'{error.override}' cannot be read as key=value (quote it for the shell and for Hydra): {reason}"
    unknown = re.search(r"Key '([^']+)' is not in struct", message) or re.search(
        r"Could not override '([^']+)'", message
    )
    if "Original Traceback" in message:  # raised in a DataLoader worker: the last line is ours
        message = message.splitlines()[-1].partition("Error: ")[2]
    if unknown:
        full = re.search(r"Could not override '([^']+)'", message)
        key = full.group(1) if full else unknown.group(1)
        known = _known_keys()
        if key in known:
            group = key.partition(".")[0]
            return f"there is no config key '{key}' with this {group}: choose the {group}=... that has it"
        close = [_ELSEWHERE[key]] if key in _ELSEWHERE else difflib.get_close_matches(key, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see --help or --cfg job for the keys there are"
        return f"there is no config key '{key}': {hint}"
    group = re.search(r"Could not find '([^']+)'", message)
    if group and "Available options" in message:
        options = re.findall(r"^\t(\S+)$", message, re.MULTILINE)
        name, _, value = group.group(1).rpartition("/")
        close = difflib.get_close_matches(value, options, n=1)
        hint = f"did you mean {name}={close[0]}?" if close else f"choose one of {', '.join(options)}"
        return f"there is no {name}={value}: {hint}"
    return " ".join(message.split())


def _known_keys() -> list[str]:
    """Every key of every config file, with its group in front: what a misspelt override may have meant."""
    keys = []
    for file in Path(config_dir()).rglob("*.yaml"):
        relative = file.relative_to(config_dir())
        prefix = "" if relative.parent == Path() or relative.parts[0] == "experiment" else f"{relative.parts[0]}."
        keys += [prefix + key for key in _flat(OmegaConf.load(file))]
    return sorted(set(keys))


def _flat(config: DictConfig | ListConfig, prefix: str = "") -> list[str]:
    if not isinstance(config, DictConfig):
        return []
    keys = []
    for key in config:
        value = config._get_node(key)
        keys.append(f"{prefix}{key}")
        keys += _flat(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else []
    return keys


@contextlib.contextmanager
def one_job_per_child():
    """Let the processes that Lightning starts for one job of a sweep run that job, not the whole sweep.

    Lightning repeats the command line for each further process. Under ``-m`` that would be the sweep; here
    it becomes the job's own overrides and folder. Afterwards the process group is taken down, so that the
    next job of the sweep can set up its own.
    """
    cfg = HydraConfig.get()
    if cfg.mode != RunMode.MULTIRUN:
        yield
        return
    import torch.distributed as dist

    import __main__

    arguments, environment, spec = sys.argv, os.environ.copy(), __main__.__spec__
    if Path(arguments[0]).name != "degla-train":  # a launcher's own program, or `python -m`
        __main__.__spec__ = importlib.util.find_spec("degla.train")
    sys.argv = [arguments[0], *cfg.overrides.task, "hydra.mode=RUN"]
    with read_write(cfg), open_dict(cfg):
        cfg.run.dir = cfg.runtime.output_dir
    try:
        yield
    finally:
        sys.argv, __main__.__spec__ = arguments, spec
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
        for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
            if name not in environment:
                os.environ.pop(name, None)
