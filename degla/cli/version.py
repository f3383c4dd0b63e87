"""The text that ``--version`` prints."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("degla", "torch", "lightning", "open_clip_torch")


def version_text() -> str:
    """Return the versions that decide a result, and the device that this machine would use; imports torch."""
    lines = {name: _version(name) for name in _PACKAGES}
    lines |= {"python": platform.python_version(), "device": _device()}
    return "\n".join(f"{name:<16} {text}" for name, text in lines.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device() -> str:
    try:
        import torch
    except ImportError:
        return "unknown, torch cannot be imported"
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU, {torch.get_num_threads()} threads"
