"""The index of a folder of images for ``degla-search``: features, a graph for fast search, and a manifest.

Importing the package imports no torch. With a model of ``degla-export to=onnx`` nothing else does either.
"""
