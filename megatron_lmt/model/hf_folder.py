"""Hugging Face model folders: slices of their tensors, as bits (see `bits.py`), and what lies beside them. No torch.

`conversion/` writes such folders, `hf_io.py` makes tensors of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from megatron_lmt.errors import CheckpointError, Problems
from megatron_lmt.model.bits import as_bytes
from megatron_lmt.model.hf_mapping import EMBEDDING, HEAD, hf_tensor_shapes
from megatron_lmt.model.safetensors_file import DTYPES, SafetensorsFile
from megatron_lmt.model.shape import ModelShape

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
COMPARED_ROWS = 8192


def is_hf_folder(path: Path) -> bool:
    return (path / SINGLE_FILE).is_file() or (path / INDEX_FILE).is_file()


class SafetensorsFolder:
    """The tensors of a Hugging Face folder, one file or several.

    Args:
        read_once: as for `SafetensorsFile`.
    Raises:
        CheckpointError: no weights there, a file missing or cut off, or tensors missing, unexpected, of another shape
            than config.json says or of different dtypes (all of them are listed).
    """

    def __init__(self, folder: Path, shape: ModelShape, read_once: bool = False):
        self.folder = folder
        self._file_of = _open_files(folder, read_once)
        self._check(shape)
        self._is_tied = shape.tie_word_embeddings

    def _check(self, shape: ModelShape) -> None:
        folder = self.folder
        expected = hf_tensor_shapes(shape)
        found = {name: self.shape(name) for name in self._file_of}
        if shape.tie_word_embeddings:
            found.pop(HEAD, None)  # a copy of the embedding that some exports write
        problems = [f"{folder}: tensor {name} is missing" for name in expected if name not in found]
        problems += [
            f"{folder}: tensor {name} is not part of this {shape.architecture}" for name in found if name not in expected
        ]
        problems += [
            f"{folder}: tensor {name} has shape {found[name]}, but its config.json says {size}"
            for name, size in expected.items()
            if name in found and found[name] != size
        ]
        dtypes = sorted({file.tensors[name].dtype for name, file in self._file_of.items()})
        if len(dtypes) > 1 or not set(dtypes) <= DTYPES.keys():
            problems.append(f"{folder}: tensors are {dtypes}; all must be F32, or all BF16")
        if problems:
            raise CheckpointError(problems)

    @property
    def dtype(self) -> str:
        """float32 or bfloat16, the same for all."""
        return DTYPES[next(file.tensors[name].dtype for name, file in self._file_of.items())]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file_of[name].tensors[name].shape

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of a tensor. The output layer of a tied model is its embedding."""
        if name == HEAD and self._is_tied:
            name = EMBEDDING
        return self._file_of[name].rows(name, start, stop)

    def columns(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._file_of[name].columns(name, start, stop)

    def fingerprint(self) -> str:
        """A hash of each tensor's name, dtype, shape, and first, middle and last row: megabytes instead of the whole model.

        Another training of the same model has another fingerprint, and the same tensors in other files have the same. A
        change in a few other rows is not seen.
        """
        digest = hashlib.sha256()
        for name in sorted(self._file_of):
            if name == HEAD and self._is_tied:
                continue
            shape = self.shape(name)
            digest.update(f"{name} {self.dtype} {shape}".encode())
            for row in (0, shape[0] // 2, shape[0] - 1):
                digest.update(as_bytes(self.rows(name, row, row + 1)))
        return digest.hexdigest()

    def check_tied_copy(self) -> None:
        """
        Raises:
            CheckpointError: the model is tied by its config.json, and has an output layer that is not its embedding.
        """
        if not self._is_tied or HEAD not in self._file_of:
            return
        num_rows = self.shape(HEAD)[0]
        blocks = [(start, min(start + COMPARED_ROWS, num_rows)) for start in range(0, num_rows, COMPARED_ROWS)]
        if self.shape(EMBEDDING) != self.shape(HEAD) or not all(
            np.array_equal(self.rows(EMBEDDING, *block), self._file_of[HEAD].rows(HEAD, *block)) for block in blocks
        ):
            raise CheckpointError(
                f"{self.folder}: tie_word_embeddings = true in config.json, but {HEAD} is not {EMBEDDING}: "
                f"set it to false, or delete {HEAD}"
            )


def _open_files(folder: Path, read_once: bool) -> dict[str, SafetensorsFile]:
    """The file of each tensor."""
    if not is_hf_folder(folder):
        raise CheckpointError(f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} is there; no Hugging Face weights")
    if not (folder / INDEX_FILE).is_file():
        file = SafetensorsFile(folder / SINGLE_FILE, read_once)
        return dict.fromkeys(file.tensors, file)
    index = folder / INDEX_FILE
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index}: no index of safetensors files ({error!r})") from None
    problems = Problems()
    opened = {name: problems.of(_open_shard, folder / name, read_once) for name in sorted(set(weight_map.values()))}
    files = {name: file for name, file in opened.items() if file}
    for name, file in files.items():
        named = {tensor for tensor, place in weight_map.items() if place == name}
        problems.found += [
            f"{folder / name}: {t} is not in it, against {INDEX_FILE}" for t in sorted(named - set(file.tensors))
        ]
        problems.found += [f"{folder / name}: {t} is in it, against {INDEX_FILE}" for t in sorted(set(file.tensors) - named)]
    if problems.found:
        raise CheckpointError(problems.found)
    return {tensor: files[name] for tensor, name in weight_map.items()}


def _open_shard(path: Path, read_once: bool) -> SafetensorsFile:
    if not path.is_file():
        raise CheckpointError(f"{path}: named in {INDEX_FILE}, but not there")
    return SafetensorsFile(path, read_once)


def copy_companions(source: Path, target: Path) -> None:
    """Copy what belongs to a model beside its weights and config.json: tokenizer, chat template, generation settings."""
    for file in sorted(source.iterdir()):
        is_companion = file.suffix in (".json", ".jinja", ".model", ".txt") and file.name not in ("config.json", INDEX_FILE)
        if file.is_file() and is_companion:
            shutil.copyfile(file, target / file.name)
