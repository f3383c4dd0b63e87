"""A client for any server that speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama, hosted ones."""

import asyncio
import email.utils
import math
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from degla.errors import ConfigError
from degla.hard_negatives.llm.body import ACCEPTED_ENCODINGS, MAX_BODY_BYTES, OversizedBody, UnreadableBody, read_body
from degla.hard_negatives.llm.completion import NoCompletion, Reply, decode_json, error_message, parse_completion
from degla.hard_negatives.llm.redact import Redactor, without_user_info

_RETRIED_STATUSES = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
_FATAL_STATUSES = {
    401: "the key in {api_key_env} is not accepted",
    402: "the account has no credit left",
    403: "access is forbidden",
    404: "there is no such model or path",
}
_REDIRECTS = {301, 302, 303, 307, 308}
_ANNOUNCED_WAIT_SECONDS = 5.0  # shorter waits are not printed
_MAX_REASON = 300  # characters of a reason


class Refused(Exception):
    """The server will never answer this request, however often it is sent."""


class Unavailable(Exception):
    """The server did not answer, and all retries are used."""


class ChatClient:
    """Sends requests, retries them, and respects the limits that the server announces.

    Nothing that the server sends is trusted: bodies have a limit of size, redirects are not followed, waits are
    bounded, and secrets are removed from every message.

    Args:
        base_url: such as ``http://localhost:8000/v1``.
        api_key_env: environment variable that holds the key. Where it is not set, no key is sent.
        concurrency: number of connections.
        timeout_seconds: limit of one request, from the connection to the last byte.
        max_retries: retries after the first request. The bound of the wait doubles from half a second to
            ``max_wait_seconds``; each wait is drawn at random below its bound.
        max_wait_seconds: longest wait of our own between two retries.
        max_server_wait_seconds: longest wait that a server may ask for. A longer one ends the run.
        announce: prints a line for the user.

    Raises:
        ConfigError: ``base_url`` is not an HTTP address.
    """

    def __init__(
        self,
        base_url: str,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 32,
        timeout_seconds: float = 120.0,
        max_retries: int = 8,
        max_wait_seconds: float = 60.0,
        max_server_wait_seconds: float = 600.0,
        announce: Callable[[str], None] = print,
    ):
        self.redact = Redactor(api_key_env, _checked_url(base_url))
        self.shown_url = without_user_info(base_url.rstrip("/"))
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self.api_key_env = api_key_env
        self.concurrency = concurrency
        self.timeout_seconds = timeout_seconds
        self.max_retries = max_retries
        self.max_wait_seconds = max_wait_seconds
        self.max_server_wait_seconds = max_server_wait_seconds
        self.announce = announce
        self.num_retries = 0
        self.has_answered = False  # True shows that key, path and model are right
        self._open_at = 0.0  # monotonic time in seconds before which the server accepts no request
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "ChatClient":
        """Open the session."""
        key = os.environ.get(self.api_key_env, "").strip()
        headers = {"Accept-Encoding": ACCEPTED_ENCODINGS}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.concurrency),
            timeout=aiohttp.ClientTimeout(total=self.timeout_seconds),
            headers=headers | ({"Authorization": f"Bearer {key}"} if key else {}),
            auto_decompress=False,  # read_body decompresses, with a limit
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, body: dict[str, Any]) -> Reply:
        """Return one completion.

        Args:
            body: a chat completion request.

        Raises:
            Refused: this request will never be answered.
            Unavailable: all retries are used.
            ConfigError: no request will be answered, because key, path or model are wrong.
        """
        reason = ""
        for attempt in range(self.max_retries + 1):
            await self._wait_until_open()
            try:
                status, content = await self._post(body)
                if status == 200:
                    reply = parse_completion(_decode_or_none(content))
                    self.has_answered = True
                    return reply
                reason = self._reason(f"HTTP {status}: {_error_message(content)}")
                self._raise_if_final(status, reason)
            except TimeoutError:
                reason = f"no answer within {self.timeout_seconds:g} s"
            except (aiohttp.ClientError, ConnectionError) as error:
                reason = self._reason(f"{type(error).__name__}: {error}")
            except NoCompletion:  # a proxy's page, or truncated JSON
                reason = self._reason(f"no completion: {_error_message(content)!r}", 80)
            except UnreadableBody as error:
                reason = f"no completion: {error}"
            if attempt < self.max_retries:
                self.num_retries += 1
                await asyncio.sleep(random.uniform(0, min(self.max_wait_seconds, 0.5 * 2**attempt)))
        raise Unavailable(reason)

    async def _post(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Send one request. Returns status and decoded body."""
        if self._session is None:
            raise RuntimeError("the client is used outside of its context")
        try:
            async with self._session.post(self.url, json=body, allow_redirects=False) as response:
                if response.status in _REDIRECTS:
                    raise ConfigError(self._redirect_message(response.headers.get("Location", "")))
                content = await read_body(response)
                self._note_rate_limits(response.status, response.headers)
                return response.status, content
        except OversizedBody as error:
            raise Refused(f"the response is larger than {MAX_BODY_BYTES // 2**20} MiB") from error

    def _raise_if_final(self, status: int, reason: str) -> None:
        """Raise where a retry cannot help."""
        if status == 403 and self.has_answered:  # moderation of this one request
            raise Refused(reason)
        if status in _FATAL_STATUSES:
            cause = _FATAL_STATUSES[status].format(api_key_env=self.api_key_env)
            raise ConfigError(f"negatives.base_url={self.shown_url}: {cause} ({reason})")
        if status not in _RETRIED_STATUSES:
            raise Refused(reason)

    def _redirect_message(self, location: str) -> str:
        target = self._reason(without_user_info(location), 120)
        return (
            f"negatives.base_url={self.shown_url}: the server redirects to {target!r}, and captions are not sent to "
            "another address; set negatives.base_url to the right one"
        )

    def _reason(self, text: str, max_length: int = _MAX_REASON) -> str:
        """Return a text from the server for a message: without secrets, on one line, not too long."""
        return " ".join(self.redact(text).split())[:max_length]

    async def _wait_until_open(self) -> None:
        while (wait := self._open_at - time.monotonic()) > 0:
            if wait > self.max_server_wait_seconds:
                raise ConfigError(
                    f"negatives.base_url={self.shown_url}: the server asks to wait {_readable(wait)}, longer than "
                    f"negatives.max_server_wait_seconds={self.max_server_wait_seconds:g}; the answers so far are kept, "
                    "and the same command resumes later"
                )
            await asyncio.sleep(wait + random.uniform(0, 0.1))

    def _note_rate_limits(self, status: int, headers: Mapping[str, str]) -> None:
        """Delay all requests where the server asks for it."""
        wait = 0.0
        if status in (429, 503):
            wait = _retry_after(headers)
        if headers.get("x-ratelimit-remaining-requests") == "0":
            wait = max(wait, _duration(headers.get("x-ratelimit-reset-requests", "")))
        if headers.get("x-ratelimit-remaining-tokens") == "0":
            wait = max(wait, _duration(headers.get("x-ratelimit-reset-tokens", "")))
        open_at = time.monotonic() + wait
        if wait and open_at > self._open_at:
            if open_at - max(self._open_at, time.monotonic()) >= _ANNOUNCED_WAIT_SECONDS:
                self.announce(f"the server asks to wait {_readable(wait)}")
            self._open_at = open_at


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_http = False
    if not is_http:
        shown = without_user_info(url) if "@" in url and "//" in url else url
        raise ConfigError(
            f"negatives.base_url={shown} is not an HTTP address; set it to one such as http://localhost:8000/v1"
        )
    return url


def _decode_or_none(content: bytes) -> Any:
    try:
        return decode_json(content)
    except ValueError:
        return None


def _as_text(content: bytes, max_bytes: int = 2000) -> str:
    """Return the beginning of a body as text. It is longer than any message, so that no secret is cut in two."""
    return content[:max_bytes].decode("utf-8", "replace")


def _error_message(content: bytes) -> str:
    # Decoded first: the escapes of JSON could hide a secret from the redactor.
    answer = _decode_or_none(content)
    return _as_text(content) if answer is None else error_message(answer)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return seconds from ``retry-after-ms``, or from ``Retry-After`` in seconds or as a date."""
    if (milliseconds := _number(headers.get("retry-after-ms", ""))) is not None:
        return milliseconds / 1000
    value = headers.get("Retry-After", "").strip()
    if (seconds := _number(value)) is not None:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else None


def _duration(text: str) -> float:
    """Return seconds from a duration such as ``6m0s``, ``1.5s`` or ``20ms``."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|h|m|s)", text)
    return sum(float(number) * units[unit] for number, unit in parts)


def _readable(seconds: float) -> str:
    """Return a duration in the largest unit of which it has at least two."""
    for name, length in (("years", 31_536_000), ("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if math.isinf(seconds):
            return "forever"
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} s"
