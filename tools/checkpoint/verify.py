"""Prove that a Hugging Face folder and a checkpoint hold the same model: hashes of all tensors, and logits on text."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_lmt.conversion.hf_source import check_hf_source
from megatron_lmt.conversion.mcore_source import find_mcore_source
from megatron_lmt.errors import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hf-dir", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--mcore-dir", type=Path, required=True, help="checkpoint or run directory")
    parser.add_argument("--hf-config", type=Path, help="for plain Megatron-LM: folder of config.json and tokenizer")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="to compute logits in")
    arguments = parser.parse_args()
    check_hf_source(arguments.hf_dir)
    checkpoint = find_mcore_source(arguments.mcore_dir, arguments.hf_config)
    from megatron_lmt.conversion.verify import prove  # takes seconds to import

    print("\n".join(prove(arguments.hf_dir, checkpoint.folder, checkpoint.shape, arguments.dtype)))


if __name__ == "__main__":
    run_tool(main)
