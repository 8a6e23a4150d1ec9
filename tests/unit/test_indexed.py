"""Token files: the bytes of megatron-core, and nothing damaged or half written is ever read."""

from __future__ import annotations

import os
import resource

import numpy as np
import pytest
import xxhash

from megatron_lmt.data import indexed_writer
from megatron_lmt.data.indexed import (
    CONTEXT,
    LOSS,
    IndexedReader,
    best_dtype,
    bin_path,
    idx_path,
    manifest_path,
    read_manifest,
    write_manifest,
)
from megatron_lmt.data.indexed_writer import IndexedWriter, TokensFile
from megatron_lmt.data.sources import open_source
from megatron_lmt.errors import DataError
from megatron_lmt.runtime.device import open_device

DOCUMENTS = [[[5, 6, 7], [8]], [[1], []], [[40000, 2]], [[3, 3], [4], [65000]]]
MODES = [[CONTEXT, LOSS], [CONTEXT, LOSS], [LOSS], [CONTEXT, LOSS, LOSS]]


@pytest.fixture(scope="module", autouse=True)
def device_before_megatron_core():
    """Another test of this process may open the device, which must come before megatron-core is imported."""
    open_device()


def write(prefix, dtype=np.uint16, with_modes=False) -> dict:
    with IndexedWriter(prefix, dtype, with_modes) as writer:
        for document, modes in zip(DOCUMENTS, MODES, strict=True):
            writer.add_document(document, modes if with_modes else None)
        return writer.close()


def write_with_megatron(prefix, dtype, with_modes) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype, multimodal=with_modes)
    for document, modes in zip(DOCUMENTS, MODES, strict=True):
        tokens = torch.tensor([token for sequence in document for token in sequence])
        builder.add_document(tokens, [len(sequence) for sequence in document], modes if with_modes else None)
    builder.finalize(f"{prefix}.idx")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
@pytest.mark.parametrize("with_modes", [False, True])
def test_files_are_those_of_megatron_core(tmp_path, dtype, with_modes):
    write_with_megatron(tmp_path / "theirs", dtype, with_modes)
    write(tmp_path / "ours", dtype, with_modes)
    assert bin_path(tmp_path / "ours").read_bytes() == bin_path(tmp_path / "theirs").read_bytes()
    assert idx_path(tmp_path / "ours").read_bytes() == idx_path(tmp_path / "theirs").read_bytes()


def test_megatron_core_reads_our_files(tmp_path):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    write(tmp_path / "x", with_modes=True)
    theirs = IndexedDataset(str(tmp_path / "x"), multimodal=True)
    assert [(tokens.tolist(), mode) for tokens, mode in (theirs[i] for i in range(len(theirs)))] == [
        (sequence, mode)
        for document, modes in zip(DOCUMENTS, MODES, strict=True)
        for sequence, mode in zip(document, modes, strict=True)
    ]


@pytest.mark.parametrize("vocab_size", [100, 65499, 65500, 151936])
def test_dtype_is_the_one_megatron_core_chooses(vocab_size):
    from megatron.core.datasets.indexed_dataset import DType

    assert best_dtype(vocab_size) == DType.optimal_dtype(vocab_size)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_what_was_written_is_read(tmp_path, dtype):
    counts = write(tmp_path / "x", dtype)
    reader = IndexedReader(tmp_path / "x")
    assert [reader.document(i).tolist() for i in range(reader.num_documents)] == [sum(d, []) for d in DOCUMENTS]
    assert reader.document_lengths(np.array([3, 0, 1, 3])).tolist() == [4, 4, 1, 4]
    assert reader.document_lengths(np.array([2])).dtype == np.int64
    assert (reader.num_documents, reader.num_sequences, reader.num_tokens) == (4, 8, 11)
    assert (counts["documents"], counts["sequences"], counts["tokens"]) == (4, 8, 11)
    assert "loss_tokens" not in counts and reader.document_loss_mask(0) is None
    with pytest.raises(IndexError):
        reader.document(4)


def test_modes_mark_the_tokens_to_predict(tmp_path):
    counts = write(tmp_path / "x", with_modes=True)
    reader = IndexedReader(tmp_path / "x")
    masks = [reader.document_loss_mask(i).astype(int).tolist() for i in range(4)]
    assert masks == [[0, 0, 0, 1], [0], [1, 1], [0, 0, 1, 1]]
    assert counts["loss_tokens"] == 5


def test_many_documents_at_once_are_the_same_as_one_after_the_other(tmp_path):
    lengths = np.array([[2, 1], [0, 3], [1, 1]])
    tokens = np.arange(8, dtype=np.uint16)
    with IndexedWriter(tmp_path / "many", np.uint16, with_modes=True) as writer:
        writer.add_documents(tokens, lengths, [CONTEXT, LOSS])
    with IndexedWriter(tmp_path / "single", np.uint16, with_modes=True) as writer:
        for document in ([[0, 1], [2]], [[], [3, 4, 5]], [[6], [7]]):
            writer.add_document(document, [CONTEXT, LOSS])
    assert bin_path(tmp_path / "many").read_bytes() == bin_path(tmp_path / "single").read_bytes()
    assert idx_path(tmp_path / "many").read_bytes() == idx_path(tmp_path / "single").read_bytes()


def test_an_exception_leaves_no_file(tmp_path):
    with pytest.raises(KeyError), IndexedWriter(tmp_path / "x", np.uint16) as writer:
        writer.add_document([[1, 2]])
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_nothing_has_its_final_name_before_close(tmp_path):
    with IndexedWriter(tmp_path / "x", np.uint16) as writer:
        writer.add_document([[1, 2]])
        assert not {"x.bin", "x.idx"} & set(os.listdir(tmp_path))
    assert set(os.listdir(tmp_path)) == {"x.bin", "x.idx"}


@pytest.mark.parametrize("path", [bin_path, idx_path, manifest_path])
def test_existing_files_are_refused_and_untouched(tmp_path, path):
    path(tmp_path / "x").write_text("precious")
    with pytest.raises(DataError, match=r"x\..* exists already"):
        IndexedWriter(tmp_path / "x", np.uint16)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("tokens", [[1, 65536], [-1, 1]])
def test_a_token_that_does_not_fit_is_refused(tmp_path, tokens):
    with IndexedWriter(tmp_path / "x", np.uint16) as writer, pytest.raises(ValueError, match="do not fit uint16"):
        writer.add_document([tokens])


@pytest.mark.parametrize(("with_modes", "modes"), [(True, None), (True, [LOSS]), (False, [CONTEXT, LOSS])])
def test_modes_that_do_not_fit_the_file_are_refused(tmp_path, with_modes, modes):
    with IndexedWriter(tmp_path / "x", np.uint16, with_modes) as writer, pytest.raises(ValueError, match="modes"):
        writer.add_document([[1], [2]], modes)


@pytest.mark.parametrize(
    ("damaged", "damage", "reason"),
    [
        (bin_path, lambda content: content[:-1], "21 bytes, but its index counts 22"),
        (bin_path, lambda content: content + b"\0\0", "24 bytes, but its index counts 22"),
        (bin_path, lambda content: b"", "0 bytes, but its index counts 22"),
        (idx_path, lambda content: content[:-1], "make the files again"),
        (idx_path, lambda content: content + b"\0", "make the files again"),
        (idx_path, lambda content: content[:20], "too short for an index"),
        (idx_path, lambda content: b"", "empty"),
        (idx_path, lambda content: b"XX" + content[2:], "not an index"),
        (idx_path, lambda content: content[:9] + b"\2" + content[10:], "version 2"),
        (idx_path, lambda content: content[:17] + b"\7" + content[18:], "dtype code 7"),
    ],
)
def test_damaged_files_are_refused(tmp_path, damaged, damage, reason):
    write(tmp_path / "x")
    file = damaged(tmp_path / "x")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=reason) as error:
        IndexedReader(tmp_path / "x")
    assert str(file) in str(error.value)


def test_files_without_documents_are_refused(tmp_path):
    with IndexedWriter(tmp_path / "x", np.uint16):
        pass
    with pytest.raises(DataError, match="no document in it"):
        IndexedReader(tmp_path / "x")


def test_missing_files_are_both_named(tmp_path):
    with pytest.raises(DataError) as error:
        IndexedReader(tmp_path / "x")
    assert str(tmp_path / "x.bin") in str(error.value) and str(tmp_path / "x.idx") in str(error.value)


def test_too_many_open_files_are_explained(tmp_path):
    write(tmp_path / "x")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limits[1]))
    try:
        with pytest.raises(DataError, match="ulimit -n"):
            readers = []
            for _ in range(40):
                readers.append(IndexedReader(tmp_path / "x"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_manifest(tmp_path):
    prefix = tmp_path / "de_text_document"
    with pytest.raises(DataError, match=r"de_text_document\.manifest\.json: no such file"):
        read_manifest(prefix)
    write_manifest(prefix, {"documents": 3})
    assert read_manifest(prefix) == {"documents": 3}
    manifest_path(prefix).write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_manifest(prefix)


def test_token_files_of_an_earlier_version_are_named(tmp_path):
    counts = write(tmp_path / "x")
    write_manifest(tmp_path / "x", counts)
    assert open_source("en", tmp_path / "x", None).num_documents == 4
    write_manifest(tmp_path / "x", {key: value for key, value in counts.items() if key != "xxh128"} | {"sha256": "0" * 64})
    with pytest.raises(DataError, match=r"source en: .*x\.manifest\.json does not say xxh128.*tools/preprocess_data\.py"):
        open_source("en", tmp_path / "x", None)


@pytest.mark.parametrize("then", ["written", "brought to disk"])
def test_an_error_that_the_disk_tells_meanwhile_is_not_lost(tmp_path, monkeypatch, then):
    """A disk tells of it once: who asks again hears that all is well."""
    told = []

    def flush(file):
        if not told:
            told.append(file)
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(indexed_writer, "_flush_to_disk", flush)
    monkeypatch.setattr(indexed_writer, "FLUSHED_BYTES", 1000)
    tokens = TokensFile(tmp_path / "x.bin")
    tokens.write(np.zeros(250, np.int32))
    with pytest.raises(OSError, match="Input/output"):
        if then == "written":
            for _ in range(10_000):
                tokens.write(np.zeros(250, np.int32))
        tokens.flush_to_disk()
    tokens.close()


def test_what_is_on_disk_leaves_the_page_cache(tmp_path, monkeypatch):
    calls, flush, advise = [], os.fsync, os.posix_fadvise
    monkeypatch.setattr(os, "fsync", lambda file: (flush(file), calls.append("on disk")))
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: (advise(*arguments), calls.append(arguments[1:])))
    monkeypatch.setattr(indexed_writer, "FLUSHED_BYTES", 1000)
    tokens = TokensFile(tmp_path / "x.bin")
    tokens.write(np.arange(250, dtype=np.int32))
    tokens.close()
    assert calls == ["on disk", (0, 0, os.POSIX_FADV_DONTNEED)]  # before it is on disk, the advice would do nothing
    assert np.array_equal(np.fromfile(tmp_path / "x.bin", np.int32), np.arange(250))


def test_a_file_that_is_gone_on_with_is_read_for_its_hash_and_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(indexed_writer, "SILENT_SECONDS", 0)
    (tmp_path / "x.bin").write_bytes(bytes(range(100)))
    tokens = TokensFile(tmp_path / "x.bin", start=40)
    tokens.write(np.arange(3, dtype=np.uint8))
    assert tokens.xxh128() == xxhash.xxh3_128_hexdigest(bytes([*range(40), 0, 1, 2]))
    tokens.close()
    assert f"hash of {tmp_path / 'x.bin'}: 100 % of 43.0" in capsys.readouterr().err
