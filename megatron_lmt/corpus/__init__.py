"""From text as it comes to jsonl files of training records: LMT's pair format, and cleaning.

Reading order: files, cpt, cleaning.
"""
