"""Remove secrets from texts before they are shown or written.

A server can repeat the request in its answer, the API key included. Everything that comes from a server passes
``Redactor`` before it reaches the console or a file.
"""

import os
import re
from urllib.parse import unquote, urlsplit

REDACTED = "[secret removed]"

# Environment variables whose values count as secrets, beside the one that `negatives.api_key_env` names.
_SECRET_NAME = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_MIN_LENGTH = 8  # shorter values of those variables are common words or flags
_MIN_LENGTH_OF_API_KEY = 4


class Redactor:
    """Replaces every known secret in a text.

    Args:
        api_key_env: name of the environment variable that holds the API key; "" where there is none.
        url: an address whose user name and password are secrets as well.
    """

    def __init__(self, api_key_env: str = "", url: str = ""):
        secrets = {
            value
            for name, value in os.environ.items()
            if _SECRET_NAME.search(name) and len(value) >= _MIN_LENGTH and not os.path.isabs(value)  # noqa: PTH117
        }
        api_key = os.environ.get(api_key_env, "").strip()
        if len(api_key) >= _MIN_LENGTH_OF_API_KEY:
            secrets.add(api_key)
        secrets |= {unquote(part) for part in _user_info(url) if part}
        # The longest first: a secret can contain another.
        self._secrets = sorted(secrets, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return text


def without_user_info(url: str) -> str:
    """Return an address without user name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _user_info(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.username or "", parts.password or ""
