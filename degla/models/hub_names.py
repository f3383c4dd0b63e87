"""Names of models on the Hugging Face hub: ``hf-hub:org/name``, ``hf://org/name`` and ``hf://org/name/file.pt``."""

from pathlib import Path

from huggingface_hub import hf_hub_download
from open_clip.factory import HF_HUB_PREFIX

from degla.errors import ConfigError
from degla.hub import reachable_hub
from degla.models.checkpoints import first_line

HUB_PREFIXES = (HF_HUB_PREFIX, "hf://")


def is_on_hub(text: str | None) -> bool:
    """Return whether a text names a repository of the hub, or a file in one."""
    return text is not None and text.startswith(HUB_PREFIXES)


def hub_name(text: str) -> str:
    """Return a name in open_clip's form, ``hf-hub:org/name``; other texts are returned unchanged."""
    for prefix in HUB_PREFIXES:
        if text.startswith(prefix):
            return f"{HF_HUB_PREFIX}{text.removeprefix(prefix).strip('/')}"
    return text


def hub_file(text: str) -> tuple[str, str] | None:
    """Return repository and file of a name such as ``hf://org/name/file.pt``; None for any other name."""
    parts = hub_name(text).removeprefix(HF_HUB_PREFIX).split("/", 2)
    return ("/".join(parts[:2]), parts[2]) if is_on_hub(text) and len(parts) == 3 else None


def download_hub_file(repository: str, file: str, cache_dir: str | None = None) -> Path:
    """Download a file of a repository, or find it in the local cache.

    Args:
        repository: such as ``org/name``.
        file: its path in the repository.
        cache_dir: folder for downloads; None is the Hugging Face default.

    Raises:
        ConfigError: there is no such file, or the hub cannot be reached.
    """
    try:
        with reachable_hub():
            return Path(hf_hub_download(repository, file, cache_dir=cache_dir))
    except Exception as error:
        raise ConfigError(
            f"{file} of hf://{repository} could not be downloaded ({first_line(error)}): check the name, run once with "
            "internet access, or set the key to a local file"
        ) from error
