"""Start Python programs as copies of a process that has imported torch and Lightning already.

A start then takes a fraction of a second instead of several seconds. The copies come from Python's fork server, a
process that only imports. A copy of the test process would inherit the locks and thread pools of earlier tests, and
sometimes crash.

``start_forked`` and ``degla_forked`` start a program of degla. ``forked_python()`` is a file that stands for
``sys.executable``, for programs that a shell, torchrun or Lightning starts. A test of imports, of start-up or of what
is read while a module is imported takes ``sys.executable`` itself.
"""

import atexit
import json
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.helpers.fork_service import Request, become, serve

fork_server = multiprocessing.get_context("forkserver")
fork_server.set_forkserver_preload(
    [
        "degla.train",
        "degla.training.build",
        "degla.training.console",
        "degla.training.fit",
        "degla.training.memory_run",
        "degla.training.run_folder",
        "degla.hard_negatives.llm.online",
        "degla.report.model_card",
        "degla.report.run_report",
        "tests.helpers.llm_server",
        "tests.helpers.fork_service",
        "torch",
        "datasets",
        "pytest",
        "matplotlib.backends.backend_agg",
        "hydra._internal.core_plugins",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher",
        "tensorboard.plugins.hparams.metadata",
        "PIL.JpegImagePlugin",
    ]
)


def start_forked(*arguments: str, cwd: Path, program: str = "train", **environment: str) -> ForkServerProcess:
    """Start ``python -m degla.<program>`` with these arguments; its output is in ``cwd/stdout`` and ``stderr``."""
    request = Request(
        executable=forked_python(),
        arguments=["-m", f"degla.{program}", *arguments],
        cwd=str(cwd),
        environment={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        paths=_paths_of_the_interpreter(),
    )
    job = fork_server.Process(target=_become, args=(request,))
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


@cache
def forked_python() -> str:
    """Return the path of a file that runs its arguments as the interpreter does, in a copy of the fork server.

    It takes ``-m``, ``-c`` and a script; other options start the interpreter itself. Pipes, folder, environment, limits
    and exit code are those of the process that was started. Signals are passed on, and a SIGKILL ends the copy too. The
    copy has another process id: ``forked_pid`` returns it.
    """
    folder = Path(tempfile.mkdtemp(prefix="forked-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    service = fork_server.Process(
        target=serve, args=(str(folder), _paths_of_the_interpreter(), dict(os.environ)), daemon=True
    )
    service.start()
    client = Path(__file__).with_name("fork_client.py")
    command = shlex.join([sys.executable, "-IS", str(client), str(folder), sys.executable])
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec {command} "$0" "$@"\n')
    path.chmod(0o755)
    return str(path)


@cache
def _paths_of_the_interpreter() -> list[str]:
    """Return where a new interpreter finds modules, without its first entry and without ``PYTHONPATH``."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path[1:]))"]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)


def forked_pid(pid: int) -> int:
    """Return the process id of the copy that runs for the process ``pid``, which was started by ``forked_python()``."""
    return int((Path(forked_python()).parent / str(pid)).read_text())


def _become(request: Request) -> None:
    """Become the program in a child of the fork server; this function never returns."""
    files = [os.open(os.devnull, os.O_RDONLY)]
    for name in ("stdout", "stderr"):
        files.append(os.open(Path(request.cwd, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
    become(request, files)
