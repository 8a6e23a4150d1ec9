"""The model in a distributed checkpoint, ours or plain Megatron-LM's: its parameters by the names of the mapping table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megatron_lmt.conversion.torch_dist_reader import StoredTensor, TorchDistReader
from megatron_lmt.errors import CheckpointError
from megatron_lmt.model.bits import BITS
from megatron_lmt.model.hf_mapping import EMBEDDING_PARAMETER, HEAD_PARAMETER, hf_tensor_shapes, mappings
from megatron_lmt.model.shape import ModelShape

LAYERS = "decoder.layers."
OPTIMIZER = "optimizer."
NO_WEIGHTS = (OPTIMIZER, "rng_state", "rerun_state_machine_state")
"""What Megatron saves beside the weights."""


class McoreModel:
    """Reads rows of whole parameters, whatever parallel layout wrote them.

    megatron-core stacks the layers of a parameter in one tensor; where layers differ it saves each under its number.

    Raises:
        CheckpointError: parameters are missing, of another shape than the model's or of different dtypes, or there are
            some that the model has not (all of them are listed).
    """

    def __init__(self, folder: Path, shape: ModelShape):
        self._reader = TorchDistReader(folder)
        self._place: dict[str, tuple[str, int | None]] = {}
        self._check(shape)

    @property
    def dtype(self) -> str:
        return next(self._reader.tensors[key].dtype for key, _ in self._place.values())

    def rows(self, parameter: str, start: int, stop: int) -> np.ndarray:
        """The bits of rows of a parameter. The output layer of a tied model is its embedding."""
        if parameter not in self._place:
            parameter = {HEAD_PARAMETER: EMBEDDING_PARAMETER}[parameter]
        key, layer = self._place[parameter]
        row = self._reader.tensors[key].shape[1 if layer is None else 2 :]
        offsets, shape = (start, *(0 for _ in row)), (stop - start, *row)
        if layer is None:
            return self._reader.block(key, offsets, shape)
        return self._reader.block(key, (layer, *offsets), (1, *shape))[0]

    def _check(self, shape: ModelShape) -> None:
        tensors = {key: stored for key, stored in self._reader.tensors.items() if not key.startswith(NO_WEIGHTS)}
        unused = dict(tensors)
        folder, problems = self._reader.folder, []
        for name, wanted in parameter_shapes(shape).items():
            key, layer = _place(name, tensors)
            if key is None:
                problems.append(f"{folder}: {name} is missing")
                continue
            unused.pop(key, None)
            self._place[name] = (key, layer)
            problems += _wrong_shape(f"{folder}: {name}", tensors[key], wanted, layer, shape)
        problems += [f"{folder}: {key} is not part of this {shape.architecture}" for key in unused]
        dtypes = {tensors[key].dtype for key, _ in self._place.values()}
        if len(dtypes) > 1 or not dtypes <= BITS.keys():
            problems.append(f"{folder}: parameters are {sorted(dtypes)}; all must be float32, or all bfloat16")
        if problems:
            raise CheckpointError(problems)


def parameter_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """The whole parameters of a model, with the vocabulary not padded."""
    sizes = hf_tensor_shapes(shape)
    return {m.megatron: (sum(sizes[name][0] for name in m.hf), *sizes[m.hf[0]][1:]) for m in mappings(shape)}


def _place(name: str, tensors: dict[str, StoredTensor]) -> tuple[str | None, int | None]:
    """The tensor that holds a parameter, and which of its layers it is, where they are stacked."""
    if name in tensors:
        return name, None
    if name.startswith(LAYERS):
        layer, rest = name.removeprefix(LAYERS).split(".", 1)
        if LAYERS + rest in tensors:
            return LAYERS + rest, int(layer)
    return None, None


def _wrong_shape(
    name: str, stored: StoredTensor, wanted: tuple[int, ...], layer: int | None, shape: ModelShape
) -> list[str]:
    found = stored.shape
    if layer is not None:
        if found[0] != shape.num_hidden_layers:
            return [f"{name}: {found[0]} layers, but num_hidden_layers = {shape.num_hidden_layers} in config.json"]
        found = found[1:]
    is_padded = name.endswith((EMBEDDING_PARAMETER, HEAD_PARAMETER)) and found[0] >= wanted[0] and found[1:] == wanted[1:]
    if found == wanted or is_padded:
        return []
    return [f"{name} has shape {found}, but {wanted} by config.json"]
