"""Errors that are meant for the user.

The programs print the message of a ``DeglaError`` as one sentence, without a traceback, and exit with code 2.
Any other exception is a bug of ours or of a library: it keeps its traceback, and the exit code is 1. A run that
was stopped by a signal has been saved, and exits with 128 plus the signal's number, so that schedulers restart it: 129
for SIGHUP, 130 for SIGINT (Ctrl-C), 143 for SIGTERM. SIGUSR1 and SIGUSR2 announce a SIGTERM and exit with 143 as well.
"""


class DeglaError(Exception):
    """Base class of all errors that the user can correct.

    The message is one sentence. It says what is wrong, with the value, and then what to do, with the config key.
    """


class ConfigError(DeglaError):
    """A setting, file name or combination of settings that cannot work."""


class DataError(DeglaError):
    """Data that are missing, damaged or unusable; the message names the first problem."""


class CheckpointError(DeglaError):
    """A checkpoint or a file of weights that is damaged, unsafe, or does not fit the model."""


class NonFiniteError(DeglaError):
    """The loss or the gradient is not finite, and the run is set to stop there."""


class MissingDependencyError(DeglaError):
    """An optional package that is not installed; the message says how to install it."""

    @classmethod
    def for_extra(cls, what: str, extra: str) -> "MissingDependencyError":
        """Return an error that names the extra of this package with the missing dependency.

        Args:
            what: the setting or command and the package it needs, such as ``"negatives=rules needs HanTa"``.
            extra: its name in ``pyproject.toml``.
        """
        return cls(f"{what}: pip install 'degla[{extra}]'")
