"""Megatron-style training of Qwen3 models into translators for 60 languages and 234 directions.

The path of one document, in reading order: `preprocessing/records.py` → `corpus/cpt.py` → `preprocessing/preprocess.py` →
`data/mixture.py` → `data/loader.py` → `train.py`.
"""

__version__ = "0.1.0"
