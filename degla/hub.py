"""Reach the Hugging Face hub, or use its local cache where it cannot be reached.

Imports no torch.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from huggingface_hub import constants

from degla.compat.hub import hub_offline

for _client in ("httpx", "httpx2"):  # HTTP clients of the hub's library 1 and 2, which log every request
    logging.getLogger(_client).setLevel(logging.WARNING)


@contextlib.contextmanager
def reachable_hub() -> Iterator[None]:
    """Use only the local cache of the hub in this block if the hub's name does not resolve.

    Without this, a machine without network spends 20 to 45 seconds on retries before it reads its cache.
    """
    with hub_offline(not (_has_proxy() or _resolves())):
        yield


def _has_proxy() -> bool:
    return bool(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"))


def _resolves() -> bool:
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True
