"""Fetching the data that recipes and benchmarks need: addresses, transfer, unpacking, and what is there already."""
