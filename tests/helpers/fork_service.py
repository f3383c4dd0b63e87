"""A process that copies itself on request, and what a copy does to behave as a new interpreter would."""

import atexit
import contextlib
import json
import multiprocessing.process
import multiprocessing.util
import os
import resource
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import types
from dataclasses import dataclass, field
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import NoReturn

# Variables that libraries read when they are imported. Where one of them differs, a copy would not notice.
_READ_AT_IMPORT = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "CUDA_", "PYTORCH_", "TORCH_HOME", "XDG_", "HOME", "PYTHON")
_READ_LATER = (
    *("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"),
    *("HF_TOKEN", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES"),
)


@dataclass
class Request:
    """What a new process gets.

    Args:
        executable: what the process finds in ``sys.executable``, and so what it starts further processes with.
        arguments: those of the interpreter: ``-m`` with a module, ``-c`` with code, or a script; then the program's.
        cwd: the folder it runs in.
        environment: all of its variables.
        paths: where an interpreter finds modules, without its first entry and ``PYTHONPATH``.
        limits: soft and hard limit by name, such as ``RLIMIT_FSIZE``.
        umask: for the files that it makes; None keeps the service's.
        client: process id of the client.
    """

    executable: str
    arguments: list[str]
    cwd: str
    environment: dict[str, str]
    paths: list[str]
    limits: dict[str, list[int]] = field(default_factory=dict)
    umask: int | None = None
    client: int = 0


def serve(folder: str, paths: list[str], environment: dict[str, str]) -> None:
    """Answer the clients of ``folder/socket`` until the process that started this one ends.

    Args:
        folder: an empty folder. While a copy runs, a file with the client's process id as its name holds the copy's.
        paths: those of ``Request``.
        environment: the variables that the fork server was started with.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/socket.part")
    listener.listen(64)
    Path(folder, "socket.part").rename(Path(folder, "socket"))
    parent = parent_process()
    assert parent is not None
    while parent.sentinel not in (ready := wait([listener, parent.sentinel])):
        assert ready
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _attend(connection, folder, paths, environment)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # remove those that have ended
                pass
    os._exit(0)


def _attend(connection: socket.socket, folder: str, paths: list[str], environment: dict[str, str]) -> NoReturn:
    """Start one process, and tell its client how it ended. Kill it where the client was killed."""
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    request = Request(**json.loads(connection.makefile("r").readline()), paths=paths)
    if not _can_run(request, environment):
        connection.sendall(b"0\n")
        os._exit(0)
    child = os.fork()
    if child == 0:
        connection.close()
        become(request, files)
    for number in files:
        os.close(number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    path = Path(folder, str(request.client))
    path.write_text(str(child))
    handle = os.pidfd_open(child)
    try:
        connection.sendall(f"{child}\n".encode())
        ready, _, _ = select.select([handle, connection], [], [])
        if handle not in ready:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.sendall(f"{code}\n".encode())
    except OSError:  # the client has ended
        pass
    path.unlink(missing_ok=True)
    os._exit(0)


def _can_run(request: Request, environment: dict[str, str]) -> bool:
    """Return whether a copy behaves as a new interpreter would."""
    first = next((argument for argument in request.arguments if argument != "-u"), "-")
    if first not in ("-m", "-c") and first.startswith("-"):
        return False
    if any(argument.startswith(("joblib.", "submitit.")) for argument in request.arguments):
        return False  # they inherit other files than standard input, output and error, or name their process
    read_at_import = {
        name
        for name in request.environment.keys() | environment.keys()
        if name.startswith(_READ_AT_IMPORT) and name not in _READ_LATER
    }
    # Some libraries set variables when they are imported, here and in the process that starts the new one.
    return all(
        request.environment.get(name) in (environment.get(name), os.environ.get(name)) for name in read_at_import
    )


def become(request: Request, files: list[int]) -> NoReturn:
    """Become the program; standard input, output and error are ``files``."""
    code = 1
    try:
        _take_over(request, files)
        code = _run(request.arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        _end(code)


def _take_over(request: Request, files: list[int]) -> None:
    """Give this process what belongs to the new one."""
    import torch

    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in files:
        if file > 2:
            os.close(file)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, (soft, hard) in request.limits.items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    if request.umask is not None:
        os.umask(request.umask)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ |= request.environment
    sys.executable = request.executable
    more = os.environ.get("PYTHONPATH")
    sys.path[:] = [*(more.split(os.pathsep) if more else []), *request.paths]
    _forget_the_fork_server()
    # torch read this variable when the fork server imported it.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        import datasets.config
        import huggingface_hub.constants

        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


class _MainProcess(multiprocessing.process.BaseProcess):
    """The object of a first process; multiprocessing deletes its own class after use."""

    def __init__(self) -> None:
        self._identity, self._name, self._parent_pid = (), "MainProcess", None
        self._popen, self._closed = None, False
        key = multiprocessing.process.AuthenticationString(os.urandom(32))  # type: ignore[attr-defined]
        self._config = {"authkey": key, "semprefix": "/mp"}

    def close(self) -> None:
        pass


def _forget_the_fork_server() -> None:
    """Be a first process in the eyes of multiprocessing, whose workers start as in a new interpreter."""
    process = multiprocessing.process
    process._current_process = _MainProcess()  # type: ignore[attr-defined]
    process._parent_process = None  # type: ignore[attr-defined]
    process._children = set()  # type: ignore[attr-defined]
    multiprocessing.util._finalizer_registry.clear()  # type: ignore[attr-defined]
    multiprocessing.set_start_method("fork", force=True)


def _run(arguments: list[str]) -> int:
    """Run a module, code or a script, and return the exit code."""
    kind, *rest = arguments
    if kind == "-u":
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        return _run(rest)
    try:
        if kind == "-m":
            module, *rest = rest
            sys.argv = [module, *rest]
            sys.path.insert(0, str(Path.cwd()))
            sys.modules.pop(module, None)  # it runs as __main__, and is imported anew where it is imported at all
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        elif kind == "-c":
            code, *rest = rest
            sys.argv = ["-c", *rest]
            sys.path.insert(0, "")
            sys.modules["__main__"] = module_of_code = types.ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), module_of_code.__dict__)
        else:
            sys.argv = [kind, *rest]
            sys.path.insert(0, str(Path(kind).resolve().parent))
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, int):
            return stop.code & 0xFF
        if stop.code is not None:
            print(stop.code, file=sys.stderr)
        return int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """End as an interpreter does, without the objects' destructors."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        os._exit(code or 120)
    os._exit(code)
