"""The one error a user is meant to read."""


class ConfigError(ValueError):
    """A setting, file or combination that cannot work.

    The message is one sentence that names the config key and the fix; the programs print it without a
    traceback and exit with code 2.
    """


class DataError(ConfigError):
    """Rows that cannot be used, beyond what the run allows; the message names a row."""
