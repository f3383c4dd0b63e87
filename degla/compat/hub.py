"""Private names of huggingface_hub, read in version 2.4.0.

Imports no torch.
"""

import contextlib
from collections.abc import Iterator

from huggingface_hub import constants


@contextlib.contextmanager
def hub_offline(offline: bool) -> Iterator[None]:
    """Let the hub's client read its local cache only, until the block ends.

    The constant ``huggingface_hub.constants.HF_HUB_OFFLINE`` is assigned; the public way is an environment variable,
    which is read once, at the first import.
    Source: https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/constants.py

    Args:
        offline: False leaves the constant as it is.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
