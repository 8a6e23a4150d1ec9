"""Qwen3 on megatron-core, and the table that maps it to Hugging Face names.

Reading order: qwen3, hf_mapping, hf_folder, hf_slices, hf_io.
"""
