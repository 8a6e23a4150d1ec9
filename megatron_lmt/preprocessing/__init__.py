"""From text to tokens on disk, without losing a record.

Reading order: preprocess, examination, inputs, text_files, parsing, tokenising, shards, merge; `engines.py` has what makes
the tokens.
"""
