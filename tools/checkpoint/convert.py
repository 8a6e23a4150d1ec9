"""Convert between Hugging Face folders and megatron_lmt checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_lmt.convert import export_to_hf, import_from_hf
from megatron_lmt.errors import ConfigError, run_command

CONVERSIONS = {("hf", "mcore"): import_from_hf, ("mcore", "hf"): export_to_hf}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loader", choices=("hf", "mcore"), required=True, help="format of --load-dir")
    parser.add_argument("--saver", choices=("hf", "mcore"), required=True, help="format of --save-dir")
    parser.add_argument("--load-dir", type=Path, required=True, help="Hugging Face folder, checkpoint or run directory")
    parser.add_argument("--save-dir", type=Path, required=True, help="new folder; an existing one is never written over")
    arguments = parser.parse_args()
    convert = CONVERSIONS.get((arguments.loader, arguments.saver))
    if convert is None:
        raise ConfigError(f"--loader {arguments.loader} --saver {arguments.saver}: nothing to convert")
    convert(arguments.load_dir, arguments.save_dir)
    print(f"wrote {arguments.save_dir}")


if __name__ == "__main__":
    run_command(main)
