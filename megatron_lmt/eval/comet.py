"""COMET scores, from a local checkpoint, by a process with its own Python (`comet_worker.py`)."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from megatron_lmt.errors import ConfigError, UserError
from megatron_lmt.files import write_text_atomically

SEGMENTS_IN_A_CHUNK = 2000
"""Between two states on disk: some seconds of a GPU."""


@dataclass(frozen=True)
class Comet:
    """A COMET model and the Python that can load it.

    Args:
        checkpoint: `checkpoints/model.ckpt` of a downloaded COMET model, with `hparams.yaml` two folders up; or its folder.
        python: an interpreter with unbabel-comet (`bash tools/setup_comet.sh` makes one).
    """

    checkpoint: Path
    python: Path
    batch_size: int = 16

    @property
    def checkpoint_file(self) -> Path:
        return self.checkpoint / "checkpoints" / "model.ckpt" if self.checkpoint.is_dir() else self.checkpoint

    def check(self) -> None:
        """
        Raises:
            ConfigError: the checkpoint or the interpreter is not there, or has no unbabel-comet.
        """
        problems = []
        hparams = self.checkpoint_file.absolute().parent.parent / "hparams.yaml"
        for file in (self.checkpoint_file, hparams):
            if not file.is_file():
                problems.append(f"COMET checkpoint {self.checkpoint}: no file {file}; name the folder of a COMET model")
        found = "from importlib.metadata import version; version('unbabel-comet')"
        try:
            done = subprocess.run([self.python, "-I", "-c", found], capture_output=True, text=True)
            reason = done.stderr.strip().splitlines()[-1] if done.returncode else None
        except OSError as error:
            reason = error.strerror
        if reason:
            problems.append(
                f"COMET needs a Python with unbabel-comet, and {self.python} has none ({reason}): "
                "bash tools/setup_comet.sh makes one; name its bin/python"
            )
        if problems:
            raise ConfigError(problems)

    def score(self, segments: list[dict[str, str]], folder: Path) -> tuple[list[float], dict]:
        """One score for each segment, and the record of what scored them.

        Args:
            segments: each with `src`, `mt` and `ref`.
            folder: for the input, the scores of finished chunks, and the worker's log; a second call on the same segments
                goes on where the first one was stopped.
        Raises:
            UserError: the worker failed; names its log.
        """
        folder.mkdir(parents=True, exist_ok=True)
        segments_file, scores_file, log = folder / "segments.jsonl", folder / "scores.jsonl", folder / "worker.log"
        lines = (json.dumps({key: segment[key] for key in ("src", "mt", "ref")}) for segment in segments)
        write_text_atomically(segments_file, "".join(f"{line}\n" for line in lines))
        # -I: the modules of this folder must not be taken for libraries, such as this one for unbabel-comet's
        command = [self.python, "-I", Path(__file__).with_name("comet_worker.py")]
        command += ["--checkpoint", self.checkpoint_file.absolute(), "--input", segments_file, "--output", scores_file]
        command += ["--batch-size", self.batch_size, "--chunk", SEGMENTS_IN_A_CHUNK]
        # inside a Slurm job, Lightning would take the job's tasks for processes of its own
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        environment["HF_HUB_OFFLINE"] = "1"
        with open(log, "w", encoding="utf-8") as file:
            done = subprocess.run(
                list(map(str, command)), env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
        if done.returncode:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise UserError(
                f"COMET ended with exit code {done.returncode}: {' '.join(last)}; see {log}. Nothing is downloaded here: "
                "the encoder named in its hparams.yaml must be a folder or in the Hugging Face cache. Scored chunks are kept"
            )
        record, *chunks = map(json.loads, scores_file.read_text(encoding="utf-8").split("\n")[:-1])
        return [score for chunk in chunks for score in chunk["scores"]], record
