"""Preflight of a job on all of its nodes: what one machine can see (`node.py`), and what must be equal (`job.py`)."""
