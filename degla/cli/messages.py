"""Turn errors of Hydra and OmegaConf into one sentence that says what to write instead.

Imports no torch.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import OverrideParseException

from degla.cli.keys import composed_keys, keys_of_options, normalized, options_of, root_keys

# What users often type -> the key for it here. The first key that the program has is named. A name with "=" is a
# setting; one without takes the value that was typed.
_ALIASES: dict[str, tuple[str, ...]] = {
    "batch_size": ("loader.global_batch_size", "batch_size"),
    "bs": ("loader.global_batch_size", "batch_size"),
    "loader.batch_size": ("loader.global_batch_size",),
    "data.batch_size": ("loader.global_batch_size", "batch_size"),
    "per_device_train_batch_size": ("loader.global_batch_size",),
    "epochs": ("loader.epochs",),
    "num_epochs": ("loader.epochs",),
    "max_epochs": ("loader.epochs",),
    "trainer.max_epochs": ("loader.epochs",),
    "lr": ("optimizer.lr",),
    "learning_rate": ("optimizer.lr",),
    "model.lr": ("optimizer.lr",),
    "wd": ("optimizer.weight_decay",),
    "warmup": ("scheduler.warmup_steps",),
    "resume": ("ckpt_path=last",),
    "resume_from_checkpoint": ("ckpt_path=last",),
    "checkpoint": ("ckpt_path", "ckpt", "model.pretrained"),
    "output_dir": ("run_dir", "out", "output"),
    "out_dir": ("run_dir", "out", "output"),
    "output": ("run_dir", "out"),
    "out": ("run_dir", "output"),
    "workers": ("loader.num_workers", "num_workers"),
    "num_workers": ("loader.num_workers", "num_workers"),
    "data.num_workers": ("loader.num_workers", "num_workers"),
    "devices": ("trainer.devices", "device"),
    "device": ("trainer.accelerator",),
    "gpus": ("trainer.devices",),
    "nodes": ("trainer.num_nodes",),
    "steps": ("trainer.max_steps",),
    "trainer.precision": ("precision",),
    "trainer.strategy": ("strategy",),
    "pretrained": ("model.pretrained",),
    "grad_clip": ("trainer.gradient_clip_val",),
    "accumulate": ("trainer.accumulate_grad_batches",),
    "accum_freq": ("trainer.accumulate_grad_batches",),
    "train_data": ("data.path",),
    "benchmark.scenes.num_items": ("test.scenes.num_items",),  # of degla-study, which has two benchmarks
    "benchmark.scenes.split": ("test.scenes.split",),
    "max_bad_fraction": ("loader.max_bad_fraction",),
    "blind": ("no_image_baseline",),
}
_MAX_HINTS = 3
# The flags that Hydra takes; every other word with dashes is meant as a setting.
_FLAGS = {
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun"),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info"),
}


_MAX_LENGTH = 1200  # characters; a name in a hostile file can be of any length


def sentence(error: Exception, program: str, arguments: Sequence[str]) -> str:
    """Return one line that says what is wrong and what to write instead.

    Args:
        error: an error of ours, of Hydra or of OmegaConf.
        program: name of the program's root config, such as ``train``.
        arguments: the command line.
    """
    text = _sentence(error, program, arguments)
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 300]} ... {text[-300:]}"


def _sentence(error: Exception, program: str, arguments: Sequence[str]) -> str:
    message = str(error).strip()
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if "Original Traceback" in message:  # raised in a DataLoader worker: the last line is our message
        message = message.splitlines()[-1].partition("Error: ")[2]
    if resolver := re.search(r"ConfigError raised while resolving interpolation: (.*?)(\s+full_key:|$)", message, re.S):
        message = resolver.group(1)  # our own sentence, raised by one of our resolvers
    override = re.search(r"Could not override '([^']+)'", message)
    if unknown := override or re.search(r"Key '([^']+)' is not in struct", message):
        return unknown_key(unknown.group(1), program, arguments)
    option = re.search(r"Could not find '([^']+)'", message)
    if option and "Available options" in message:
        return unknown_option(option.group(1), re.findall(r"^\t(\S+)$", message, re.MULTILINE))
    if option := re.search(r"Could not load '([^']+)'", message):
        return f"there is no file {option.group(1)}.yaml in the folder of configs; see --help for the choices"
    if ambiguous := re.search(r"Ambiguous value for argument '([^=']+)=([^']+)'", message):
        key, values = ambiguous.groups()
        return f"{key}={values} holds several values: write {key}=[{values}] for a list, or add -m to sweep over them"
    return " ".join(message.split())


def unknown_key(key: str, program: str, arguments: Sequence[str]) -> str:
    """Return a sentence that names what ``key`` may have meant in this program.

    Args:
        key: a key that the composed config does not have.
        program: name of the program's root config.
        arguments: the command line; the groups that it chooses decide which keys there are.
    """
    keys = composed_keys(program, arguments)
    start = f"there is no config key '{key}'"
    if aliases := [name for name in _ALIASES.get(key, ()) if name.partition("=")[0] in keys]:
        return f"{start}: did you mean {aliases[0]}?"
    if options := keys_of_options(key, program):
        group = key.partition(".")[0]
        choices = [f"{group}={option}" for option in options[:_MAX_HINTS]]
        return f"{start} with this {group}: choose {' or '.join(choices)}, which {_have(choices)} it"
    close = _close_keys(key, keys)
    return f"{start}: did you mean {' or '.join(close)}?" if close else f"{start}: see --help for the keys"


def unread_argument(arguments: Sequence[str], program: str) -> str:
    """Return a sentence about the first argument that nothing would read; "" if there is none.

    That is a setting written like a flag (``--lr 1``), or a key added at the top of the config (``+lr=1``).

    Args:
        arguments: the command line.
        program: name of the program's root config.
    """
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name.startswith("--") and name not in _FLAGS:
            following = arguments[position + 1] if position + 1 < len(arguments) else ""
            is_value = following and "=" not in following and not following.startswith("-")
            return _flag(name, value or (following if is_value else "..."), program)
        key = name.lstrip("+").partition("@")[0]
        if name.startswith("+") and "." not in key and "/" not in key and key not in root_keys(program):
            return unknown_key(key, program, arguments)
    return ""


def _flag(flag: str, value: str, program: str) -> str:
    key, keys = flag.lstrip("-").replace("-", "_"), composed_keys(program, [])
    names = [name for name in _ALIASES.get(key, ()) if name.partition("=")[0] in keys]
    names += [name for name in (key, *_close_keys(key, keys)) if name in keys]
    setting = names[0] if names else key
    return f"{flag}: settings are written without dashes: {setting if '=' in setting else f'{setting}={value}'}"


def _have(choices: Sequence[str]) -> str:
    return "has" if len(choices) == 1 else "have"


def _close_keys(key: str, keys: Sequence[str]) -> list[str]:
    """Return keys with the same last part, else keys that are spelt alike; the best ones first."""
    last = key.rpartition(".")[2]
    same = [name for name in keys if name.rpartition(".")[2] == last and not name.startswith("callbacks.")]
    if same:
        return same[:_MAX_HINTS]
    if "." in key:  # then a whole group does not match
        return difflib.get_close_matches(key, [name for name in keys if "." in name], n=_MAX_HINTS)
    if close := difflib.get_close_matches(key, keys, n=_MAX_HINTS):
        return close
    by_last_part = {name.rpartition(".")[2]: name for name in reversed(keys)}
    return [by_last_part[name] for name in difflib.get_close_matches(key, by_last_part, n=1, cutoff=0.75)]


def unknown_option(path: str, options: list[str]) -> str:
    """Return a sentence that names the option that was meant.

    Args:
        path: group and option, such as ``optimizer/adam``.
        options: those that the group has; where it is empty, they are looked up.
    """
    group, _, option = path.rpartition("/")
    if not group.startswith("hydra/"):  # an option of ours may have a slash in it, as experiment=study/clip has
        group, _, option = path.partition("/")
    options = options or options_of(group)
    alike = [name for name in options if normalized(name) == normalized(option)]
    close = alike or difflib.get_close_matches(option.lower(), options, n=1)
    start = f"there is no {group}={option}"
    if group == "model" and not alike:  # the options are the common ones; open_clip knows many more
        any_other = f"model=vit_b_32 model.name={option}"
        if close:
            return f"{start}: did you mean model={close[0]}, or {any_other}?"
        return f"{start}: choose one of {', '.join(options)}, or {any_other}"
    if close:
        return f"{start}: did you mean {group}={close[0]}?"
    return f"{start}: choose one of {', '.join(options)}"


def _unreadable(error: OverrideParseException) -> str:
    override = str(error.override)
    if "=" not in override:
        hint = f"did you mean experiment={override}?" if override in options_of("experiment") else "write key=value"
        return f"'{override}' is not a setting: {hint}"
    reason = str(error).strip().splitlines()[0]
    file = f"; is '{Path(override.partition('=')[2]).name}' a path? then quote it" if "/" in override else ""
    return f"'{override}' cannot be read as key=value (quote it for the shell and for Hydra){file}: {reason}"
