"""Download the data that recipes and benchmarks need: addresses, transfer, unpacking, and an inventory."""
