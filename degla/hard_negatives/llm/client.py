"""A client for any server that speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama, hosted ones."""

import asyncio
import email.utils
import json
import os
import random
import re
import time
from typing import Any, NamedTuple

import aiohttp

from degla.errors import ConfigError

_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
_MISTAKES = {
    402: "the account has no credit left",
    401: "the key in ${env} is not accepted",
    403: "access is forbidden",
    404: "there is no such model or path",
}


class Reply(NamedTuple):
    """One completion."""

    text: str | None
    finish_reason: str | None
    refusal: str | None
    input_tokens: int
    output_tokens: int


class Refused(Exception):
    """The server will never answer this request: not a matter of time."""


class NoCompletion(Exception):
    """What came back is none."""


class Unavailable(Exception):
    """The server did not answer, however often it was asked."""


class ChatClient:
    """Asks, waits and asks again.

    Args:
        base_url: such as ``http://localhost:8000/v1``.
        api_key_env: environment variable that holds the key; unset sends none, as local servers want it.
        concurrency: connections at once.
        timeout_seconds: for one request, all of it.
        max_retries: after the first try. Waits double from half a second to ``max_wait_seconds``, each drawn at
            random from nothing to its bound, and are never shorter than the server asks for.
        max_wait_seconds: longest wait of our own; a server may ask for a longer one.
    """

    def __init__(
        self,
        base_url: str,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 32,
        timeout_seconds: float = 120.0,
        max_retries: int = 8,
        max_wait_seconds: float = 60.0,
    ):
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self.api_key_env = api_key_env
        self.concurrency = concurrency
        self.timeout_seconds = timeout_seconds
        self.max_retries = max_retries
        self.max_wait_seconds = max_wait_seconds
        self.num_retries = 0
        self.has_answered = False  # so key, path and model are right
        self._open_at = 0.0  # monotonic seconds before which nobody asks: the server said so
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "ChatClient":
        """Open the connections."""
        key = os.environ.get(self.api_key_env)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.concurrency),
            timeout=aiohttp.ClientTimeout(total=self.timeout_seconds),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        return self

    async def __aexit__(self, *_) -> None:
        """Close them."""
        await self._session.close()

    async def ask(self, body: dict[str, Any]) -> Reply:
        """One completion.

        Raises:
            Refused: this request will never be answered.
            Unavailable: retries are used up.
            ConfigError: no request will ever be answered: key, path or model are wrong.
        """
        reason = ""
        for attempt in range(self.max_retries + 1):
            await self._gate()
            try:
                async with self._session.post(self.url, json=body) as response:
                    content = await response.read()
                    self._heed(response)
                if response.status == 200:
                    reply = parse_completion(_decoded(content))
                    self.has_answered = True
                    return reply
                reason = f"HTTP {response.status}: {_message(content)}"
                if response.status == 403 and self.has_answered:  # of this request alone: moderation
                    raise Refused(reason)
                if response.status in _MISTAKES:
                    what = _MISTAKES[response.status].format(env=self.api_key_env).replace("$", "")
                    raise ConfigError(
                        f"negatives.base_url={self.url.removesuffix('/chat/completions')}: {what} ({reason})"
                    )
                if response.status not in _AGAIN:
                    raise Refused(reason)
            except TimeoutError:
                reason = f"no answer within {self.timeout_seconds:g} s"
            except (aiohttp.ClientError, ConnectionError) as error:
                reason = f"{type(error).__name__}: {error}"
            except NoCompletion:  # a proxy's page, or JSON cut short
                reason = f"no completion: {content[:60]!r}"
            if attempt < self.max_retries:
                self.num_retries += 1
                await asyncio.sleep(random.uniform(0, min(self.max_wait_seconds, 0.5 * 2**attempt)))
        raise Unavailable(reason[:300])

    async def _gate(self) -> None:
        while (wait := self._open_at - time.monotonic()) > 0:
            await asyncio.sleep(wait + random.uniform(0, 0.1))

    def _heed(self, response: aiohttp.ClientResponse) -> None:
        """A server that says when to come back is believed, for all requests."""
        wait = 0.0
        if response.status in (429, 503):
            wait = _retry_after(response.headers)
        if response.headers.get("x-ratelimit-remaining-requests") == "0":
            wait = max(wait, _duration(response.headers.get("x-ratelimit-reset-requests", "")))
        if response.headers.get("x-ratelimit-remaining-tokens") == "0":
            wait = max(wait, _duration(response.headers.get("x-ratelimit-reset-tokens", "")))
        if wait:
            self._open_at = max(self._open_at, time.monotonic() + wait)


def parse_completion(answer: Any) -> Reply:
    """Read a decoded chat completion.

    Raises:
        NoCompletion: it is none.
    """
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        usage = answer.get("usage") or {}
        return Reply(
            message.get("content"),
            choice.get("finish_reason"),
            message.get("refusal"),
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise NoCompletion(f"no completion: {str(answer)[:80]}") from error


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _message(content: bytes) -> str:
    try:
        error = json.loads(content)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:200]
    except (ValueError, KeyError, TypeError):
        return content[:100].decode("utf-8", "replace")


def _retry_after(headers) -> float:
    """Seconds, from ``retry-after-ms`` or from ``Retry-After`` as seconds or as a date."""
    if (value := headers.get("retry-after-ms", "")).replace(".", "", 1).isdigit():
        return float(value) / 1000
    value = headers.get("Retry-After", "").strip()
    if value.replace(".", "", 1).isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _duration(text: str) -> float:
    """Seconds, from the likes of ``6m0s``, ``1.5s``, ``20ms``."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|h|m|s)", text))
