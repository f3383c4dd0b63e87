"""The command line: from typed words through Hydra to objects.

Imports no torch, so that ``--help`` and shell completion answer at once.
"""
