"""The small program that stands for the interpreter: it asks the fork service for a process and waits for its end.

It runs without ``site`` and imports little, because it is started for every process.
"""

import json
import os
import resource
import signal
import socket
import sys

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
LIMITS = ("RLIMIT_FSIZE", "RLIMIT_AS", "RLIMIT_NOFILE", "RLIMIT_CORE")


def main() -> None:
    folder, interpreter, executable, *arguments = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"{folder}/socket")
    except OSError:  # the service has ended
        run_interpreter(interpreter, arguments)
    request = {
        "executable": executable,
        "arguments": arguments,
        "cwd": os.getcwd(),  # noqa: PTH109  pathlib takes longer to import than all the rest
        "environment": dict(os.environ),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
        "umask": _umask(),
        "client": os.getpid(),
    }
    socket.send_fds(connection, [b"\0"], [0, 1, 2])
    connection.sendall(json.dumps(request).encode() + b"\n")
    answers = connection.makefile("r")
    child = int(answers.readline() or 0)
    if child == 0:  # the service cannot do it
        run_interpreter(interpreter, arguments)
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    code = int(answers.readline())
    if code < 0:  # it was ended by a signal
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


def run_interpreter(interpreter: str, arguments: list[str]) -> None:
    """Become a real interpreter."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    os.execv(interpreter, [interpreter, *arguments])


def _umask() -> int:
    before = os.umask(0o077)
    os.umask(before)
    return before


if __name__ == "__main__":
    main()
