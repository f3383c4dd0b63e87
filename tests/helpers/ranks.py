"""Run a function on several gloo ranks, for tests of what happens between processes."""

import datetime
import io
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from tests.helpers.forked import fork_server


def run_on_ranks(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """Call ``function(rank, world_size, *arguments)`` in ``world_size`` processes, and return the results by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = fork_server.Queue()
    processes = [
        fork_server.Process(target=_run_rank, args=(function, rank, world_size, port, queue, arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    results = dict(_load(queue.get(timeout=240)) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    errors = [result for result in results.values() if isinstance(result, str) and result.startswith("Traceback")]
    assert not errors, "\n".join(errors)
    return [results[rank] for rank in range(world_size)]


def _run_rank(
    function: Callable[..., Any], rank: int, world_size: int, port: int, queue: Any, arguments: tuple[Any, ...]
) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=datetime.timedelta(seconds=120))
    try:
        result = function(rank, world_size, *arguments)
    except Exception:
        result = traceback.format_exc()
    finally:
        dist.destroy_process_group()
    buffer = io.BytesIO()  # a tensor in a queue is lost when its process ends; bytes are not
    torch.save((rank, result), buffer)
    queue.put(buffer.getvalue())


def _load(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)
