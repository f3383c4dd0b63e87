"""End a run that makes no progress, and name the rank that all others wait for."""

import itertools
import json
import logging
import os
import socket
import threading
import time
from typing import Annotated, Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch.distributed import Store

from degla.bounds import above, bounded
from degla.compat.lightning import kill_children
from degla.compat.torch import default_store

log = logging.getLogger(__name__)

_VERDICT_KEY = "degla/verdict"  # set in the store by the rank that ends the run


class Watchdog(Callback):
    """Ends a run that has made no progress for too long, and logs its stage and the rank that is behind.

    A single process watches itself: it names its stage, such as a batch that the data-loading workers do not deliver.
    With several, each rank counts its progress. A thread in each rank sends the count as a heartbeat to rank 0's store
    and reads those of the others. A rank that is dead, stopped or waiting for its disk has a lower count than the ranks
    that wait for it in a collective. A second thread detects a silent rank 0.

    Args:
        timeout_seconds: longer than the longest validation, evaluation, checkpoint or compilation.
    """

    @bounded("callbacks.watchdog")
    def __init__(self, timeout_seconds: Annotated[float, above(0)] = 1800.0):
        self.timeout_seconds = timeout_seconds
        self._count = 0
        self._stage = "the start"
        self._is_over = threading.Event()
        self._last_answer = 0.0  # time at which rank 0 last answered

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the threads."""
        self._mark("loading the first batch")
        if trainer.world_size == 1:
            threading.Thread(target=self._watch_this_process, args=(trainer,), daemon=True).start()
        else:
            store = default_store().clone()  # a connection of its own, because calls may block
            self._last_answer = time.monotonic()
            threading.Thread(target=self._exchange_heartbeats, args=(store, trainer), daemon=True).start()
            threading.Thread(target=self._watch_rank_0, args=(trainer,), daemon=True).start()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record that the samples of the batch have been loaded."""
        self._mark(f"the forward pass of batch {batch_idx}")

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Any) -> None:
        """Record that the loss is computed, which means that the ranks have exchanged features."""
        self._mark(f"the backward pass of step {trainer.global_step}")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Record that the gradient is computed."""
        self._mark(f"the optimizer's step {trainer.global_step}")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record that the step is done."""
        self._mark(f"loading batch {batch_idx + 1}, a validation or a checkpoint")

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Record that a validation makes progress."""
        self._mark(f"batch {batch_idx} of the validation")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """End the threads; a sweep may start its next job in this process."""
        self._is_over.set()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """End the threads."""
        self._is_over.set()

    def _mark(self, stage: str) -> None:
        self._count, self._stage = self._count + 1, stage

    def _pause(self) -> bool:
        return self._is_over.wait(min(10.0, self.timeout_seconds / 10))

    def _watch_this_process(self, trainer: L.Trainer) -> None:
        count, last_change = self._count, time.monotonic()
        while not self._pause():
            if self._count != count:
                count, last_change = self._count, time.monotonic()
            elif time.monotonic() - last_change > self.timeout_seconds:
                self._log_verdict(f"the process is in {self._stage}")
                self._end(trainer)

    def _exchange_heartbeats(self, store: Store, trainer: L.Trainer) -> None:
        host_and_process = f"{socket.gethostname()}, process {os.getpid()}"
        keys = [f"degla/alive/{rank}" for rank in range(trainer.world_size)]
        progress: dict[int, tuple[int, str]] = {}  # rank -> its count and stage
        heartbeats: dict[int, tuple[int, float]] = {}  # rank -> number and arrival time of its newest heartbeat
        last_change = time.monotonic()
        for number in itertools.takewhile(lambda _: not self._pause(), itertools.count()):
            try:
                message = [self._count, f"{self._stage} ({host_and_process})", number]
                store.set(keys[trainer.global_rank], json.dumps(message))
                if store.check([_VERDICT_KEY]):
                    self._end(trainer)
                messages = {rank: json.loads(store.get(key)) for rank, key in enumerate(keys) if store.check([key])}
                self._last_answer = time.monotonic()
                for rank, (_, _, newest) in messages.items():
                    if rank not in heartbeats or newest != heartbeats[rank][0]:
                        heartbeats[rank] = newest, self._last_answer
                new_progress = {rank: (count, stage) for rank, (count, stage, _) in messages.items()}
                if new_progress != progress:
                    progress, last_change = new_progress, time.monotonic()
                elif time.monotonic() - last_change > self.timeout_seconds * (1 + trainer.global_rank / 100):
                    store.set(_VERDICT_KEY, "over")
                    limit = time.monotonic() - self.timeout_seconds / 2
                    silent = [rank for rank, (_, arrival) in heartbeats.items() if arrival < limit]
                    self._log_verdict(self._verdict(progress, silent, trainer.world_size))
                    time.sleep(0.5)  # the other ranks see the verdict and end by themselves
                    self._end(trainer)
            except RuntimeError:  # rank 0, which holds the store, has ended
                return

    def _watch_rank_0(self, trainer: L.Trainer) -> None:
        while not self._pause():
            if time.monotonic() - self._last_answer > self.timeout_seconds:
                self._log_verdict("rank 0 does not answer")
                self._end(trainer)

    def _verdict(self, progress: dict[int, tuple[int, str]], silent: list[int], world_size: int) -> str:
        lowest = min(count for count, _ in progress.values())
        late = silent or [rank for rank, (count, _) in progress.items() if count == lowest]
        behind = [f"rank {rank} in {progress[rank][1]}" for rank in late]
        behind += [f"rank {rank}, which never sent a heartbeat" for rank in range(world_size) if rank not in progress]
        prefix = "all ranks alike: " if len(behind) == world_size else "the others wait for "
        return f"{prefix}{'; '.join(behind[:8])}"

    def _log_verdict(self, verdict: str) -> None:
        log.error(
            f"no progress for {self.timeout_seconds:g} s (callbacks.watchdog.timeout_seconds): {verdict}; "
            "the run ends here, ckpt_path=last resumes it (if it was loading a batch, check the storage of the data, "
            "or try loader.num_workers=0)"
        )

    def _end(self, trainer: L.Trainer) -> None:
        kill_children(trainer)
        os._exit(1)
