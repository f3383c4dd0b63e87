"""Whether the Hugging Face hub can be reached at all."""

import contextlib
import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from huggingface_hub import constants


@contextlib.contextmanager
def reachable_hub() -> Iterator[None]:
    """Where the hub's name does not resolve, look into the local cache only: else 20 to 45 s of retries."""
    offline = constants.HF_HUB_OFFLINE
    if not os.environ.get("HTTPS_PROXY") and not os.environ.get("https_proxy"):
        try:
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
