"""Errors that are meant for the user.

The programs print the message of a ``DeglaError`` as one sentence, without a traceback, and exit with code 2.
Any other exception is a bug of ours or of a library: it keeps its traceback and ends with exit code 1. A run
that a signal stopped ends with 128 plus the signal's number (143 for SIGTERM), so that schedulers restart it.
"""


class DeglaError(Exception):
    """Base class of all errors that a user can mend.

    The message is one sentence that says what is wrong, with the value, and then what to do, with the config key.
    """


class ConfigError(DeglaError):
    """A setting, file name or combination of settings that cannot work."""


class DataError(DeglaError):
    """Samples that cannot be used, beyond what the run allows. The message names one of them."""


class CheckpointError(DeglaError):
    """A checkpoint or a file of weights that is damaged, unsafe, or does not fit the model."""


class NonFiniteError(DeglaError):
    """The loss or the gradient is not finite, and the run is set to stop there."""


class MissingDependencyError(DeglaError):
    """An optional package is not installed. The message says how to install it."""

    @classmethod
    def for_extra(cls, what: str, extra: str) -> "MissingDependencyError":
        """Name the extra of this package that brings a missing dependency.

        Args:
            what: the setting or command, and what it needs, such as ``"negatives=rules needs HanTa"``.
            extra: name of the extra in ``pyproject.toml``.
        """
        return cls(f"{what}: pip install 'degla[{extra}]'")
