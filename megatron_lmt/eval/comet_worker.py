"""Scores segments with COMET, in a Python of its own: `comet.py` starts it, as a file, with nothing of megatron_lmt around.

unbabel-comet wants numpy<2 and transformers<5 (docs/decisions.md), which the environment of everything else need not have.

The output's first line says what scored: versions, precision, the checkpoint. Then a line for each chunk of segments. A
worker that is started again on the same input and checkpoint goes on after the last whole line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("unbabel-comet", "torch", "transformers", "pytorch-lightning", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True, help="jsonl with src, mt and perhaps ref")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--chunk", type=int, required=True, help="segments between two lines of the output")
    arguments = parser.parse_args()
    segments = [json.loads(line) for line in arguments.input.read_text(encoding="utf-8").split("\n")[:-1]]
    work = {"input_sha256": _hash(arguments.input), "checkpoint_sha256": _hash(arguments.checkpoint)}
    done = _read_done(arguments.output, work, len(segments))
    if done == len(segments):
        return
    model, header = _load(arguments.checkpoint)
    if "ref" not in segments[0] and model.requires_references():
        sys.exit(f"{header['class']} of {arguments.checkpoint} needs references; take a model without, such as CometKiwi")
    with open(arguments.output, "a" if done else "w", encoding="utf-8") as file:
        if not done:
            _write(file, {**work, **header})
        for start in range(done, len(segments), arguments.chunk):
            chunk = segments[start : start + arguments.chunk]
            predicted = model.predict(chunk, batch_size=arguments.batch_size, gpus=header["gpus"], progress_bar=False)
            scores = [float(score) for score in predicted.scores]
            _write(file, {"start": start, "scores": scores})
            print(f"COMET: {start + len(chunk):,} of {len(segments):,} segments", file=sys.stderr, flush=True)


def _hash(path: Path) -> str:
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def _read_done(path: Path, work: dict, segments: int) -> int:
    """How many segments of this very work are scored; what is behind them is cut off."""
    if not path.is_file():
        return 0
    text = path.read_text(encoding="utf-8")
    text = text[: text.rfind("\n") + 1]  # a killed worker may have left half a line
    header, *chunks = [json.loads(line) for line in text.split("\n")[:-1]] or [{}]
    if any(header.get(key) != value for key, value in work.items()):
        return 0
    os.truncate(path, len(text.encode("utf-8")))
    return min(sum(len(chunk["scores"]) for chunk in chunks), segments)


def _load(checkpoint: Path) -> tuple:
    """The model, and what is recorded about it."""
    import torch
    from comet import load_from_checkpoint

    model = load_from_checkpoint(str(checkpoint), local_files_only=True)
    return model, {
        "checkpoint": str(checkpoint),
        "class": type(model).__name__,
        "encoder": model.hparams.pretrained_model,
        "precision": str(next(model.parameters()).dtype).removeprefix("torch."),
        "gpus": int(torch.cuda.is_available()),
        "python": sys.version.split()[0],
        "versions": {package: version(package) for package in PACKAGES},
    }


def _write(file, record: dict) -> None:
    file.write(json.dumps(record) + "\n")
    file.flush()


if __name__ == "__main__":
    main()
