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
            ConfigError: the checkpoint, its encoder or the interpreter is not there, or has no unbabel-comet.
        """
        hparams = self.checkpoint_file.absolute().parent.parent / "hparams.yaml"
        absent = [str(file) for file in (self.checkpoint_file, hparams) if not file.is_file()]
        problems = []
        if absent:
            problems.append(
                f"COMET checkpoint {self.checkpoint}: no file {' and no '.join(absent)}; name the folder of a COMET model, "
                "as 'hf download Unbabel/NAME --local-dir FOLDER' makes it (CometKiwi's terms must be accepted before)"
            )
        if hparams.is_file():
            problems += _encoder_problems(hparams)
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
            segments: each with `src` and `mt`, and with `ref` unless the model is to score without references.
            folder: for the input, the scores of finished chunks, and the worker's log; a second call on the same segments
                goes on where the first one was stopped.
        Raises:
            UserError: the worker failed, or the model needs references; names its log.
        """
        folder.mkdir(parents=True, exist_ok=True)
        segments_file, scores_file, log = folder / "segments.jsonl", folder / "scores.jsonl", folder / "worker.log"
        lines = (json.dumps({key: segment[key] for key in ("src", "mt", "ref") if key in segment}) for segment in segments)
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


def _encoder_problems(hparams: Path) -> list[str]:
    """COMET takes the shape and the tokenizer of its encoder from a model of its own, whose weights it does not need."""
    import yaml
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        encoder = yaml.safe_load(hparams.read_text(encoding="utf-8"))["pretrained_model"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        return [f"{hparams}: not that of a COMET model ({type(error).__name__}: {error}); download it again"]
    try:
        is_there = Path(encoder).is_dir() or isinstance(try_to_load_from_cache(encoder, "config.json"), str)
    except HFValidationError:  # a folder on another machine
        is_there = False
    fix = f"hf download {encoder} --exclude '*.bin' '*.safetensors' '*.h5' '*.msgpack'"
    return [] if is_there else [f"{hparams}: its encoder {encoder} is no folder and not in the Hugging Face cache: {fix}"]
