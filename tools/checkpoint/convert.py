"""Convert between Hugging Face folders and megatron_lmt checkpoints."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from megatron_lmt.arguments import positive, too_small
from megatron_lmt.conversion.hf_to_mcore import import_from_hf
from megatron_lmt.conversion.mcore_to_hf import export_to_hf
from megatron_lmt.conversion.mcore_to_mcore import reshard
from megatron_lmt.conversion.options import Options
from megatron_lmt.errors import ConfigError, run_tool

CONVERSIONS = {("hf", "mcore"): import_from_hf, ("mcore", "hf"): export_to_hf, ("mcore", "mcore"): reshard}
ONLY_FOR = {
    # option: (its default, the conversions it belongs to)
    "hf_config": (None, [("mcore", "hf"), ("mcore", "mcore")]),
    "max_shard_size": (5, [("mcore", "hf")]),
    "target_tensor_parallel_size": (1, [("mcore", "mcore")]),
    "no_save_optim": (False, [("mcore", "mcore")]),
    "check_hashes": (False, [("mcore", "hf"), ("mcore", "mcore")]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loader", choices=("hf", "mcore"), required=True, help="format of --load-dir")
    parser.add_argument("--saver", choices=("hf", "mcore"), required=True, help="format of --save-dir")
    parser.add_argument("--load-dir", type=Path, required=True, help="Hugging Face folder, checkpoint or run directory")
    parser.add_argument("--save-dir", type=Path, required=True, help="new folder; it is there whole or not at all")
    parser.add_argument("--overwrite", action="store_true", help="replace the model or checkpoint that is at --save-dir")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the work (default 1)")
    parser.add_argument("--untie", action="store_true", help="give a model with a tied output layer one of its own")
    parser.add_argument("--max-shard-size", type=positive, default=5, metavar="GB", help="of a safetensors file (default 5)")
    parser.add_argument("--allow-nan", action="store_true", help="convert NaN and infinity like other numbers")
    parser.add_argument("--hf-config", type=Path, help="for plain Megatron-LM: folder of config.json and tokenizer")
    parser.add_argument("--target-tensor-parallel-size", type=int, default=1, help="to cut and pad a checkpoint for")
    parser.add_argument("--no-save-optim", action="store_true", help="leave the optimizer state out")
    parser.add_argument("--check-hashes", action="store_true", help="compare all files of the checkpoint with its manifest")
    parser.add_argument("--verify", action="store_true", help="prove it by hashes and by logits before --save-dir is there")
    parser.add_argument("--verify-dtype", choices=("float32", "bfloat16"), default="float32", help="to compute logits in")
    arguments = parser.parse_args()
    conversion = (arguments.loader, arguments.saver)
    _check(arguments, conversion)
    options = Options(
        workers=arguments.workers,
        overwrite=arguments.overwrite,
        allow_nan=arguments.allow_nan,
        untie=arguments.untie,
        max_shard_bytes=math.ceil(arguments.max_shard_size * 10**9),
        hf_config=arguments.hf_config,
        tensor_parallel=arguments.target_tensor_parallel_size,
        no_save_optim=arguments.no_save_optim,
        check_hashes=arguments.check_hashes or arguments.verify,
        verify=arguments.verify_dtype if arguments.verify else None,
    )
    CONVERSIONS[conversion](arguments.load_dir, arguments.save_dir, options)
    print(f"wrote {arguments.save_dir}")


def _check(arguments: argparse.Namespace, conversion: tuple[str, str]) -> None:
    problems = []
    if conversion not in CONVERSIONS:
        problems.append("--loader hf --saver hf: nothing to convert")
    for name, (default, belongs_to) in ONLY_FOR.items():
        if getattr(arguments, name) != default and conversion not in belongs_to:
            pairs = " or ".join(f"--loader {loader} --saver {saver}" for loader, saver in belongs_to)
            problems.append(f"--{name.replace('_', '-')} is for {pairs}")
    problems += too_small(arguments, "workers", "target_tensor_parallel_size")
    if problems:
        raise ConfigError(problems)


if __name__ == "__main__":
    run_tool(main)
