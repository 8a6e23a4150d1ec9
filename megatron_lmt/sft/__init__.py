"""From pairs to chats for fine-tuning: Strategic Downsampling and Parallel Multilingual Prompting.

Reading order: config, corpus, prompts; `supervision.py` proves what is learned of the tokens.
"""
