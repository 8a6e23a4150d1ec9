"""From tokens on disk to batches.

Reading order: indexed, sources, weights, mixture, stream, packing, loader.
"""
