"""From text to batches. Reading order: records, corpus, tokenizer, indexed, preprocess, mixture, loader."""
