"""A real HTTP server that speaks OpenAI's chat completions, well or badly."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import web

from degla.hard_negatives.companions import PARAPHRASE, UNIT_FOIL, UnitRules
from degla.hard_negatives.kinds import ALL_KINDS
from degla.hard_negatives.language.tagger import load_tagger
from degla.hard_negatives.llm.prompts import load_prompts
from degla.hard_negatives.rules import NoNegative, Rules

MODES = ("good", "streamed", "slow", "chatter", "junk", "refusal", "cut", "same", "429", "500", "page", "hang", "reset")


# A handler answers by itself, in place of a named mode.
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def mode_good(caption: str, kind: str, nth: int) -> str:
    return "good"


class LlmServer:
    """Serves from a thread of its own.

    Args:
        mode: takes caption, kind, and the number of the request for both; returns a mode or a handler.
        delay: seconds before each answer.

    Attributes:
        asked: number of requests by (caption, kind, seed).
    """

    def __init__(self, mode: Callable[[str, str, int], str | Handler] = mode_good, delay: float = 0.0):
        self.mode = mode
        self.delay = delay
        self.retry_after = "0.05"
        self._times: Counter = Counter()
        self.asked: Counter = Counter()
        self.log: list[tuple[str, str, int]] = []
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.in_flight = self.most_in_flight = 0
        self._rules = Rules("lexicon")
        self._units = UnitRules(self._rules, load_tagger("lexicon"))
        self._kinds = {prompt.rule: kind for kind, prompt in load_prompts(ALL_KINDS).items()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "LlmServer":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        caption = body["messages"][-1]["content"]
        kind = next(kind for rule, kind in self._kinds.items() if rule in body["messages"][0]["content"])
        asked = (caption, kind, body["seed"])
        self.asked[asked] += 1
        self._times[caption, kind] += 1
        self.log.append(asked)
        self.bodies = [*self.bodies[-5:], body]
        self.headers = [*self.headers[-5:], dict(request.headers)]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.delay)
            mode = self.mode(caption, kind, self._times[caption, kind])
            if not isinstance(mode, str):
                return await mode(request)
            return await self._behave(request, mode, caption, kind)
        finally:
            self.in_flight -= 1

    async def _behave(self, request: web.Request, mode: str, caption: str, kind: str) -> web.StreamResponse:
        if mode in ("429", "500", "401", "400", "403"):
            headers = {"Retry-After": self.retry_after} if mode == "429" else {}
            return web.json_response({"error": {"message": f"made-up {mode}"}}, status=int(mode), headers=headers)
        if mode == "page":
            return web.Response(text="<html>a proxy says hello</html>")
        if mode == "hang":
            await asyncio.sleep(60)
        if mode == "reset":
            request.transport.abort()
            return web.Response()
        text = {
            "chatter": json.dumps({"negatives": ["Sure! Here is a hard negative:"]}),
            "junk": "I think the caption is very nice.",
            "cut": '{"negatives": ["A man rid',
            "same": json.dumps({"negatives": [caption]}),
        }.get(mode)
        message = {"role": "assistant", "content": text if text is not None else self._good(caption, kind)}
        if mode == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
        finish = "length" if mode == "cut" else "stop"
        answer = {
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        }
        if mode == "streamed":  # chunked, a little at a time
            response = web.StreamResponse()
            await response.prepare(request)
            data = json.dumps(answer).encode()
            for start in range(0, len(data), 40):
                await response.write(data[start : start + 40])
            await response.write_eof()
            return response
        if mode == "slow":
            await asyncio.sleep(0.1)
        return web.json_response(answer)

    def _good(self, caption: str, kind: str) -> str:
        if kind == PARAPHRASE:
            return json.dumps({"negatives": [f"there is {caption}"]})
        try:
            if kind == UNIT_FOIL:
                return json.dumps({"negatives": self._units.write(caption, 1)})
            return json.dumps({"negatives": self._rules.write(caption, kind, 1)})
        except NoNegative:
            return json.dumps({"negatives": []})
