"""What a run imports, early or late; the process that `ranks.py` forks its processes from imports it once."""

from importlib import import_module

from megatron_lmt.runtime.device import open_device

open_device()  # before megatron-core, as in a run
for name in ("megatron_lmt.loop", "torch._dynamo", "tokenizers", "matplotlib.figure", "matplotlib.backends.backend_agg"):
    import_module(name)
