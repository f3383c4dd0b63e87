"""Every use of a private API of another package, one small function each.

A private name may change in any release, so each one is called from here only. A function's docstring says which
version its name was read in and where its source is; ``tests/test_compat.py`` fails when the name, its signature or
its behaviour changes, and ``pyproject.toml`` bounds the versions of those packages.

There is one module per package, so that a caller imports no more than it needs: ``degla.compat.hub`` and
``degla.compat.datasets`` import no torch.
"""
