"""The command line: parse arguments with Hydra and build objects from the config.

Imports no torch, so that ``--help`` and shell completion answer at once.
"""
