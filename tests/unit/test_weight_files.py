"""Our readers and writers of the two formats against torch's and safetensors' own, and against files that do harm."""

import json
import os
import pickle
import re
import zipfile

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.torch import save_file

from megatron_lmt.conversion.pieces import Segment
from megatron_lmt.conversion.safetensors_writer import ShardWriter, create_shards, plan_shards
from megatron_lmt.conversion.torch_dist_reader import TorchDistReader
from megatron_lmt.conversion.torch_dist_writer import NewChunk, finish, plan_files, write_file
from megatron_lmt.errors import CheckpointError
from megatron_lmt.model.hf_folder import SafetensorsFolder
from megatron_lmt.model.hf_io import FolderTensors, bits_of_tensor, tensor_of_bits
from megatron_lmt.model.hf_mapping import Layout, hf_tensor_shapes, mappings
from megatron_lmt.model.hf_slices import shard_from_hf
from megatron_lmt.model.safetensors_file import SafetensorsFile
from megatron_lmt.model.shape import read_shape
from tests.conftest import TINY_MODEL

DTYPES = [torch.float32, torch.bfloat16]


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def equal(bits, tensor):
    return torch.equal(tensor_of_bits(bits), tensor)


def numbers(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float32).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_files_of_the_package_are_read(tmp_path, dtype):
    tensors = {
        "matrix": numbers(300, 7, dtype=dtype),
        "vector": numbers(5, dtype=dtype),
        "empty": numbers(0, 3, dtype=dtype),
    }
    save_file(tensors, tmp_path / "file", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "file")
    assert file.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert equal(file.rows(name, 0, len(tensor)), tensor)
    assert equal(file.rows("matrix", 11, 250), tensors["matrix"][11:250])
    assert equal(file.columns("matrix", 2, 5), tensors["matrix"][:, 2:5])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_package_reads_what_is_written_in_any_order(tmp_path, dtype):
    tensors = {"b": numbers(10, 3, dtype=dtype), "a": numbers(8, dtype=dtype), "c": numbers(4, 6, dtype=dtype)}
    plan = plan_shards({name: tuple(tensor.shape) for name, tensor in tensors.items()}, name_of(dtype), 10**6)
    create_shards(tmp_path, plan)
    for name, start, stop in (("c", 1, 4), ("a", 0, 8), ("b", 5, 10), ("c", 0, 1), ("b", 0, 5)):
        with ShardWriter(tmp_path, plan) as writer:
            writer.write(Segment(name, start, stop), bits_of_tensor(tensors[name][start:stop]))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"} and set(file.keys()) == set(tensors)
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


CUTS = {
    # tensor: its shape, and where each dimension is cut
    "vector": ((11,), ([0, 4, 11],)),
    "matrix": ((9, 10), ([0, 2, 9], [0, 3, 4, 10])),
    "stack": ((3, 6, 8), ([0, 1, 2, 3], [0, 5, 6], [0, 4, 8])),
    "layers_together": ((4, 5), ([0, 3, 4], [0, 5])),
}


def chunks_of(name, dtype):
    shape, cuts = CUTS[name]
    edges = [list(zip(cut, cut[1:], strict=False)) for cut in cuts]
    for box in torch.cartesian_prod(*(torch.arange(len(e)) for e in edges)).reshape(-1, len(edges)).tolist():
        begin, end = zip(*(edges[d][i] for d, i in enumerate(box)), strict=True)
        yield NewChunk(name, shape, name_of(dtype), begin, tuple(e - b for b, e in zip(begin, end, strict=True)))


def part(tensor, offsets, shape):
    return tensor[tuple(slice(o, o + n) for o, n in zip(offsets, shape, strict=True))]


@pytest.fixture(params=DTYPES, ids=["fp32", "bf16"])
def checkpoint(request, tmp_path):
    """Tensors, and a folder in which they are cut in odd ways and spread over three files."""
    tensors = {name: numbers(*shape, dtype=request.param) for name, (shape, _) in CUTS.items()}
    chunks = [chunk for name in CUTS for chunk in chunks_of(name, request.param)]
    files = plan_files(chunks, 3)
    assert len(files) == 3

    def make(chunk):
        return bits_of_tensor(part(tensors[chunk.name], chunk.offsets, chunk.shape).contiguous())

    finish(tmp_path, [write_file(tmp_path, number, file, make) for number, file in enumerate(files)])
    return tensors, tmp_path


def test_torch_reads_what_is_written(checkpoint):
    tensors, folder = checkpoint
    loaded = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    dcp.load(loaded, checkpoint_id=folder, no_dist=True)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("offsets, shape", [((0, 0, 0), (1, 6, 8)), ((2, 1, 3), (1, 5, 2)), ((1, 5, 0), (1, 1, 8))])
def test_blocks_across_chunks(checkpoint, offsets, shape):
    tensors, folder = checkpoint
    reader = TorchDistReader(folder)
    assert equal(reader.block("stack", offsets, shape), part(tensors["stack"], offsets, shape))
    for name, tensor in tensors.items():
        assert equal(reader.block(name, (0,) * tensor.dim(), tuple(tensor.shape)), tensor)
    assert equal(reader.block("matrix", (1, 2), (7, 5)), tensors["matrix"][1:8, 2:7])
    assert equal(reader.block("layers_together", (2, 1), (1, 3)), tensors["layers_together"][2:3, 1:4])


def test_what_torch_saves_is_read(tmp_path):
    """Also a transposed matrix, which it may save with its strides: refused, not read wrongly."""
    tensors = {"matrix": numbers(6, 4), "transposed": numbers(6, 4).t(), "parameter": torch.nn.Parameter(numbers(3))}
    dcp.save({name: tensor for name, tensor in tensors.items()}, checkpoint_id=tmp_path, no_dist=True)
    reader = TorchDistReader(tmp_path)
    assert equal(reader.block("matrix", (2, 1), (3, 2)), tensors["matrix"][2:5, 1:3])
    assert equal(reader.block("parameter", (0,), (3,)), tensors["parameter"])
    with pytest.raises(CheckpointError, match="transposed cannot be read"):
        reader.block("transposed", (0, 0), (4, 6))


def test_a_chunk_that_is_not_there(checkpoint):
    _, folder = checkpoint
    reader = TorchDistReader(folder)
    stored = reader.tensors["matrix"]
    reader.tensors["matrix"] = type(stored)(stored.dtype, stored.shape, stored.chunks[1:])
    with pytest.raises(CheckpointError, match="matrix: 6 of its numbers are in no chunk"):
        reader.block("matrix", (0, 0), (9, 10))


def test_files_that_are_cut_off(checkpoint):
    _, folder = checkpoint
    file = folder / "__2_0.distcp"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="__2_0.distcp: layers_together cannot be read"):
        TorchDistReader(folder).block("layers_together", (0, 0), (4, 5))
    metadata = folder / ".metadata"
    metadata.write_bytes(metadata.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="it is damaged"):
        TorchDistReader(folder)


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_pickle_is_executed(checkpoint):
    _, folder = checkpoint
    (folder / ".metadata").write_bytes(pickle.dumps({"harm": Harm(folder / "harm")}))
    with pytest.raises(CheckpointError, match="not the metadata of a distributed checkpoint"):
        TorchDistReader(folder)
    assert not (folder / "harm").exists()


def test_nor_that_of_a_chunk(tmp_path):
    dcp.save({"vector": torch.ones(3)}, checkpoint_id=tmp_path, no_dist=True)
    (file,) = tmp_path.glob("*.distcp")
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records.items():
            is_pickle = name.endswith("data.pkl")
            archive.writestr(name, pickle.dumps(Harm(tmp_path / "harm")) if is_pickle else content)
    reader = TorchDistReader(tmp_path)
    (chunk,) = reader.tensors["vector"].chunks
    whole = type(chunk)(chunk.offsets, chunk.shape, chunk.file, 0, file.stat().st_size)
    reader.tensors["vector"] = type(reader.tensors["vector"])("float32", (3,), (whole,))
    with pytest.raises(CheckpointError, match="not a tensor"):
        reader.block("vector", (0,), (3,))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("tensor, pipeline", [(1, 1), (2, 1), (4, 2)])
def test_a_rank_reads_only_its_own_rows(tmp_path, monkeypatch, tensor, pipeline):
    """Its columns come out of a memory map, whose other pages nobody touches."""
    config = {**TINY_MODEL, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 704}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = read_shape(tmp_path)
    tensors = {name: torch.randn(size) for name, size in hf_tensor_shapes(shape).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    counted = []
    preadv = os.preadv

    def count(file, buffers, offset):
        counted.append(sum(map(len, buffers)))
        return preadv(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", count)
    source = FolderTensors(SafetensorsFolder(tmp_path, shape))
    stage = [m for m in mappings(shape) if re.match(rf"decoder\.layers\.[0-{4 // pipeline - 1}]\.|embedding", m.megatron)]
    for mapping in stage:
        counted.clear()
        shard = shard_from_hf(mapping, shape, source, tensor - 1, tensor)
        whole = sum(tensors[name].nbytes for name in mapping.hf)
        by_columns = mapping.layout is Layout.COLUMNS
        assert sum(counted) == (0 if by_columns and tensor > 1 else shard.nbytes)
        assert shard.nbytes == (whole if mapping.layout is Layout.WHOLE else whole // tensor)
