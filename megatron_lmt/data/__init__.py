"""From text to batches.

Reading order: records, corpus, tokenizer, preprocess, text_files, tokenising, shards, indexed, mixture, loader.
"""
