"""Measure the cost of the client: thousands of requests to a local server in another process, which answers at once.

The baseline is the same number of requests by aiohttp alone, to the same server with the same concurrency. The memory
of the client is read at ten points of the run.

    python benchmarks/negatives.py --requests 20000 --concurrency 256
"""

import argparse
import asyncio
import gc
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from aiohttp import web
from record import save

from degla.hard_negatives.llm.online import OnlineWriter
from degla.hard_negatives.progress import Progress
from degla.hard_negatives.store import Store

_KIND = "replace_nouns"
_ANSWER = json.dumps(
    {
        "choices": [
            {
                "message": {
                    "role": "assistant",
                    "content": json.dumps({"negatives": ["A cat number one sits on a chair"]}),
                },
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 200, "completion_tokens": 20},
    }
)


def main() -> None:
    """Measure both clients and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=256)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    server = context.Process(target=_serve, args=(port,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}/v1"
    _plain(url, 500, arguments.concurrency)  # warm-up
    plain = _plain(url, arguments.requests, arguments.concurrency)
    ours = _ours(url, arguments.requests, arguments.concurrency)
    server.terminate()
    save(
        "negatives",
        {"requests": arguments.requests, "concurrency": arguments.concurrency, "checks": "lexicon tagger"},
        {
            "plain_aiohttp": plain,
            "ours": ours,
            "cpu_ms_per_request_above_plain": (ours["cpu_seconds"] - plain["cpu_seconds"]) / arguments.requests * 1e3,
        },
    )


def _serve(port: multiprocessing.Queue) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text=_ANSWER, content_type="application/json")

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.put(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


def _plain(url: str, count: int, concurrency: int) -> dict[str, float]:
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 2000}]}

    async def run() -> None:
        left = iter(range(count))
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def work() -> None:
                for _ in left:
                    async with session.post(f"{url}/chat/completions", json=body) as response:
                        json.loads(await response.read())

            await asyncio.gather(*(work() for _ in range(concurrency)))

    start, cpu = time.perf_counter(), time.process_time()
    asyncio.run(run())
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


def _ours(url: str, count: int, concurrency: int) -> dict[str, object]:
    memory: list[float] = []

    def tasks() -> Iterator[tuple[str, str]]:
        for i in range(count):
            if i % (count // 10) == 0:
                gc.collect()
                memory.append(_resident())
            yield f"A dog number one sits on a chair {i}", _KIND

    with tempfile.TemporaryDirectory() as folder:
        writer = OnlineWriter(
            [_KIND], 1, 0, model="m", base_url=url, tagger="lexicon", concurrency=concurrency, attempts=1
        )
        store = Store(Path(folder))
        progress = Progress(count, disable=True)
        start, cpu = time.perf_counter(), time.process_time()
        writer.write(tasks(), store, progress)
        store.close()
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "cpu_seconds": time.process_time() - cpu,
            "requests_per_second": count / seconds,
            "answered": len(store),
            "resident_mib": memory,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def _resident() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
