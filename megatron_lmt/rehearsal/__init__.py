"""A run file rehearsed on a laptop: `tiny_run.py` makes a tiny run of it, `rehearse.py` plays its life."""
