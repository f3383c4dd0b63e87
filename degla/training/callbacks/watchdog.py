"""Naming the rank for which all others wait."""

import itertools
import json
import logging
import os
import signal
import socket
import threading
import time

import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)


class Watchdog(Callback):
    """Ends a run of several processes that has stood still too long, and says who was the last to move.

    A thread in each process tells the others how far it is; a rank that is dead, stopped, or waits for its disk is
    behind those that wait for it in a collective. They tell it by way of rank 0, whose silence a second thread notices.

    Args:
        timeout_seconds: longer than the longest validation, evaluation, checkpoint or compilation.
    """

    def __init__(self, timeout_seconds: float = 1800.0):
        self.timeout_seconds = timeout_seconds
        self._count = 0
        self._place = "the start"
        self._over = threading.Event()
        self._last_talk = 0.0  # when rank 0 last answered

    def on_train_start(self, trainer, pl_module) -> None:
        """Begin to watch."""
        if trainer.world_size > 1:
            store = dist.distributed_c10d._get_default_store().clone()  # a connection of its own: calls may block
            self._last_talk = time.monotonic()
            threading.Thread(target=self._talk, args=(store, trainer), daemon=True).start()  # may block in the store
            threading.Thread(target=self._listen, args=(trainer,), daemon=True).start()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Its rows are there."""
        self._mark(f"the forward pass of batch {batch_idx}")

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        """The loss is there, so the ranks have exchanged their features."""
        self._mark(f"the backward pass of step {trainer.global_step}")

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        """The gradient is there."""
        self._mark(f"the optimizer's step {trainer.global_step}")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """The next rows are waited for."""
        self._mark(f"the rows of batch {batch_idx + 1}, a validation or a checkpoint")

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        """Validation moves on too."""
        self._mark(f"batch {batch_idx} of the validation")

    def on_exception(self, trainer, pl_module, exception: BaseException) -> None:
        """Watch no more: a sweep may go on with its next job."""
        self._over.set()

    def teardown(self, trainer, pl_module, stage: str) -> None:
        """Watch no more."""
        self._over.set()

    def _mark(self, place: str) -> None:
        self._count, self._place = self._count + 1, place

    def _pause(self) -> bool:
        return self._over.wait(min(10.0, self.timeout_seconds / 10))

    def _talk(self, store, trainer) -> None:
        here = f"{socket.gethostname()}, process {os.getpid()}"
        keys = [f"degla/alive/{rank}" for rank in range(trainer.world_size)]
        known: dict[int, tuple[int, str]] = {}
        beats: dict[int, tuple[int, float]] = {}  # of each rank, and when it came
        changed = time.monotonic()
        for beat in itertools.takewhile(lambda _: not self._pause(), itertools.count()):
            try:
                store.set(keys[trainer.global_rank], json.dumps([self._count, f"{self._place} ({here})", beat]))
                if store.check(["degla/verdict"]):
                    self._end(trainer)
                heard = {rank: json.loads(store.get(key)) for rank, key in enumerate(keys) if store.check([key])}
                self._last_talk = time.monotonic()
                for rank, (_, _, number) in heard.items():
                    if number != beats.get(rank, (None,))[0]:
                        beats[rank] = number, self._last_talk
                now = {rank: (count, place) for rank, (count, place, _) in heard.items()}
                if now != known:
                    known, changed = now, time.monotonic()
                elif time.monotonic() - changed > self.timeout_seconds * (1 + trainer.global_rank / 100):
                    store.set("degla/verdict", "over")
                    still = time.monotonic() - self.timeout_seconds / 2
                    silent = [rank for rank, (_, when) in beats.items() if when < still]
                    self._say(self._verdict(known, silent, trainer.world_size))
                    time.sleep(0.5)
                    self._end(trainer)
            except RuntimeError:  # rank 0, which holds the store, is gone
                return

    def _listen(self, trainer) -> None:
        while not self._pause():
            if time.monotonic() - self._last_talk > self.timeout_seconds:
                self._say("rank 0 does not answer")
                self._end(trainer)

    def _verdict(self, known: dict[int, tuple[int, str]], silent: list[int], world_size: int) -> str:
        least = min(count for count, _ in known.values())
        late = silent or [rank for rank, (count, _) in known.items() if count == least]
        behind = [f"rank {rank} in {known[rank][1]}" for rank in late]
        behind += [f"rank {rank}, never heard of" for rank in range(world_size) if rank not in known]
        who = "all ranks alike: " if len(behind) == world_size else "the others wait for "
        return f"{who}{'; '.join(behind[:8])}"

    def _say(self, what: str) -> None:
        log.error(
            f"nothing has moved for {self.timeout_seconds:g} s (callbacks.watchdog.timeout_seconds): {what}; "
            "the run ends here, ckpt_path=last goes on"
        )

    def _end(self, trainer) -> None:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
        os._exit(1)
