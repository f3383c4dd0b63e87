"""The command line: Hydra, from the typed words to objects. Imports no torch."""
