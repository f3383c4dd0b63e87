"""Start ``degla`` programs as copies of a process that has imported torch and Lightning already.

A start then takes a fraction of a second. The copies come from Python's fork server, a process that only imports. A
copy of the test process would inherit the locks and thread pools of earlier tests, and sometimes crash.
"""

import importlib
import multiprocessing
import os
import subprocess
import sys
import traceback
from multiprocessing.context import ForkServerProcess
from pathlib import Path

fork_server = multiprocessing.get_context("forkserver")
fork_server.set_forkserver_preload(
    [
        "degla.train",
        "degla.training.build",
        "degla.hard_negatives.llm.online",
        "tests.helpers.llm_server",
        "torch",
        "datasets",
    ]
)


def start_forked(*arguments: str, cwd: Path, program: str = "train", **environment: str) -> ForkServerProcess:
    """Start ``python -m degla.<program>`` with these arguments; its output is in ``cwd/stdout`` and ``stderr``."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    job = fork_server.Process(target=_become_degla, args=(program, arguments, str(cwd), variables))
    job.start()
    return job


def degla_forked(
    *arguments: str, cwd: Path, program: str = "train", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m degla.<program>`` with these arguments to its end."""
    job = start_forked(*arguments, cwd=cwd, program=program, **environment)
    job.join(timeout=500)
    assert job.exitcode is not None, f"still running: {arguments}"
    return subprocess.CompletedProcess(
        arguments, job.exitcode, (cwd / "stdout").read_text(), (cwd / "stderr").read_text()
    )


def _become_degla(program: str, arguments: tuple[str, ...], cwd: str, environment: dict[str, str]) -> None:
    """Become the program in the child process; this function never returns."""
    import torch

    code = 1
    os.environ.clear()
    os.environ |= environment
    multiprocessing.set_start_method("fork", force=True)  # DataLoader workers start as in a normal process
    torch.set_num_threads(
        int(environment["OMP_NUM_THREADS"])
    )  # torch read this variable when the fork server imported it
    os.chdir(cwd)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    try:
        sys.argv = [f"degla-{program}", *arguments]
        importlib.import_module(f"degla.{program}").main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
