"""Convert between Hugging Face folders and megatron_lmt checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_lmt.conversion.hf_to_mcore import import_from_hf
from megatron_lmt.conversion.mcore_to_hf import export_to_hf
from megatron_lmt.conversion.options import Options
from megatron_lmt.errors import ConfigError, run_command

CONVERSIONS = {("hf", "mcore"): import_from_hf, ("mcore", "hf"): export_to_hf}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loader", choices=("hf", "mcore"), required=True, help="format of --load-dir")
    parser.add_argument("--saver", choices=("hf", "mcore"), required=True, help="format of --save-dir")
    parser.add_argument("--load-dir", type=Path, required=True, help="Hugging Face folder, checkpoint or run directory")
    parser.add_argument("--save-dir", type=Path, required=True, help="new folder; it is there whole or not at all")
    parser.add_argument("--overwrite", action="store_true", help="replace the model or checkpoint that is at --save-dir")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the work (default 1)")
    parser.add_argument("--untie", action="store_true", help="give a model with a tied output layer one of its own")
    parser.add_argument("--max-shard-size", type=float, default=5, metavar="GB", help="of one safetensors file (default 5)")
    parser.add_argument("--allow-nan", action="store_true", help="convert NaN and infinity like other numbers")
    arguments = parser.parse_args()
    convert = CONVERSIONS.get((arguments.loader, arguments.saver))
    if convert is None:
        raise ConfigError(f"--loader {arguments.loader} --saver {arguments.saver}: nothing to convert")
    options = Options(
        workers=arguments.workers,
        overwrite=arguments.overwrite,
        allow_nan=arguments.allow_nan,
        untie=arguments.untie,
        max_shard_bytes=int(arguments.max_shard_size * 10**9),
    )
    convert(arguments.load_dir, arguments.save_dir, options)
    print(f"wrote {arguments.save_dir}")


if __name__ == "__main__":
    run_command(main)
