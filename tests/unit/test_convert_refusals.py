"""Bad input of the converter: an error that names it, exit code 2, and nothing at the target, or what was there before."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_lmt.conversion import new_folder
from megatron_lmt.conversion.hf_to_mcore import import_from_hf
from megatron_lmt.conversion.mcore_to_hf import export_to_hf
from megatron_lmt.conversion.mcore_to_mcore import reshard
from megatron_lmt.conversion.options import Options
from megatron_lmt.conversion.safetensors_writer import ShardWriter
from megatron_lmt.conversion.workers import share
from megatron_lmt.errors import UserError
from megatron_lmt.model.hf_mapping import hf_tensor_shapes
from megatron_lmt.model.shape import read_shape
from tests.conftest import REPOSITORY, TINY_MODEL


@pytest.fixture
def hf(tmp_path, tiny_tokenizer):
    """A small Hugging Face folder of three shards."""
    folder = tmp_path / "hf"
    shutil.copytree(tiny_tokenizer, folder)
    (folder / "config.json").write_text(json.dumps(TINY_MODEL))
    generator = torch.Generator().manual_seed(1)
    shapes = hf_tensor_shapes(read_shape(folder))
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    names, weight_map = sorted(tensors), {}
    for number in range(3):
        file, part = f"model-{number + 1:05d}-of-00003.safetensors", names[number::3]
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture
def mcore(hf, tmp_path):
    import_from_hf(hf, tmp_path / "mcore", Options())
    return tmp_path / "mcore"


def refused(convert, source, target, options=None) -> str:
    """The problems, after making sure that nothing was left behind."""
    before = sorted(target.parent.iterdir())
    with pytest.raises(UserError) as caught:
        convert(source, target, options or Options())
    assert sorted(target.parent.iterdir()) == before
    return "\n".join(caught.value.problems)


def edit(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


SHARD = "model-00002-of-00003.safetensors"


def test_a_missing_shard_and_a_truncated_one_are_both_named(hf, tmp_path):
    (hf / SHARD).unlink()
    other = hf / "model-00003-of-00003.safetensors"
    other.write_bytes(other.read_bytes()[:-100])
    problems = refused(import_from_hf, hf, tmp_path / "target")
    assert f"{SHARD}: named in model.safetensors.index.json, but not there" in problems
    assert "model-00003-of-00003.safetensors" in problems and "cut off or damaged" in problems


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, (40).to_bytes(8, "little") + b"{" * 40])
def test_files_that_are_no_safetensors_are_named(hf, tmp_path, content):
    (hf / SHARD).write_bytes(content)
    assert f"{SHARD}: " in refused(import_from_hf, hf, tmp_path / "target")


def test_an_index_that_does_not_fit_its_files(hf, tmp_path):
    edit(hf / SHARD, lambda tensors: tensors.update(left_over=torch.ones(2)))
    assert f"{SHARD}: left_over is in it, against" in refused(import_from_hf, hf, tmp_path / "target")
    (hf / "model.safetensors.index.json").write_text("[]")
    assert "no index of safetensors files" in refused(import_from_hf, hf, tmp_path / "target")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_nan_is_named_in_both_directions_and_allowed_on_demand(hf, tmp_path, value):
    with_nan = []

    def spoil(tensors):
        name = next(name for name in tensors if name.endswith("k_proj.weight"))
        tensors[name][3, 5] = value
        with_nan.append(name)

    edit(hf / SHARD, spoil)
    problems = refused(import_from_hf, hf, tmp_path / "target")
    assert f"NaN or infinity in {hf}: {with_nan[0]}" in problems
    import_from_hf(hf, tmp_path / "mcore", Options(allow_nan=True))
    layer = with_nan[0].split(".")[2]
    problems = refused(export_to_hf, tmp_path / "mcore", tmp_path / "target")
    assert f"NaN or infinity in decoder.layers.{layer}.self_attention.linear_qkv.weight" in problems
    export_to_hf(tmp_path / "mcore", tmp_path / "back", Options(allow_nan=True))
    assert torch.equal(
        load_file(tmp_path / "back" / "model.safetensors")[with_nan[0]].isfinite(),
        load_file(hf / SHARD)[with_nan[0]].isfinite(),
    )


def test_a_tied_model_with_another_output_layer(hf, tmp_path):
    index = json.loads((hf / "model.safetensors.index.json").read_text())
    embedding = load_file(hf / index["weight_map"]["model.embed_tokens.weight"])["model.embed_tokens.weight"]
    index["weight_map"]["lm_head.weight"] = SHARD
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    edit(hf / SHARD, lambda tensors: tensors.update({"lm_head.weight": embedding.clone()}))
    import_from_hf(hf, tmp_path / "mcore", Options())
    edit(hf / SHARD, lambda tensors: tensors["lm_head.weight"].mul_(2))
    problems = refused(import_from_hf, hf, tmp_path / "target")
    assert "tie_word_embeddings = true in config.json, but lm_head.weight is not model.embed_tokens.weight" in problems


def test_a_tokenizer_of_another_model(hf, tmp_path):
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps({**config, "vocab_size": 500}))
    for file in hf.glob("*.safetensors"):
        edit(file, lambda tensors: tensors.update({n: t[:500] for n, t in tensors.items() if "embed" in n}))
    assert "the tokenizer has 512 tokens, but vocab_size = 500" in refused(import_from_hf, hf, tmp_path / "target")


def test_another_architecture(hf, tmp_path):
    (hf / "config.json").write_text(json.dumps({**TINY_MODEL, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}))
    assert "model_type = 'qwen2', but only" in refused(import_from_hf, hf, tmp_path / "target")


def test_checkpoints_that_are_not_whole(mcore, tmp_path):
    (mcore / "COMMITTED.json").rename(tmp_path / "marker")
    assert "no complete checkpoint here" in refused(export_to_hf, mcore, tmp_path / "target")
    (tmp_path / "marker").rename(mcore / "COMMITTED.json")
    data = mcore / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:-1])
    assert "__0_0.distcp" in refused(export_to_hf, mcore, tmp_path / "target")


@pytest.mark.parametrize("convert", [export_to_hf, reshard])
def test_a_byte_that_flipped_since_the_checkpoint_was_written(mcore, tmp_path, convert):
    """Of the numbers, so that nothing but the hash can tell."""
    data = bytearray((mcore / "__0_0.distcp").read_bytes())
    data[len(data) // 2] ^= 1
    (mcore / "__0_0.distcp").write_bytes(data)
    problems = refused(convert, mcore, tmp_path / "target", Options(check_hashes=True))
    assert "__0_0.distcp: its sha256 is" in problems and "damaged since" in problems
    convert(mcore, tmp_path / "target", Options())


def die(_task):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies():
    with pytest.raises(UserError, match="a process died .out of memory.*: use fewer --workers"):
        list(share(die, [1, 2, 3], 2))


def test_several_workers_write_what_one_writes(hf, mcore, tmp_path):
    import_from_hf(hf, tmp_path / "by_two", Options(workers=2))
    for checkpoint in (mcore, tmp_path / "by_two"):
        export_to_hf(checkpoint, tmp_path / f"of_{checkpoint.name}", Options(workers=2))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("of_mcore", "of_by_two"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_of_another_shape(mcore, tmp_path):
    shutil.copytree(mcore, tmp_path / "plain")
    for ours in ("COMMITTED.json", "run_state.json"):
        (tmp_path / "plain" / ours).unlink()
    config = {**TINY_MODEL, "num_hidden_layers": 5, "intermediate_size": 64, "tie_word_embeddings": False}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    problems = refused(export_to_hf, tmp_path / "plain", tmp_path / "target", Options(hf_config=tmp_path / "other"))
    assert "decoder.layers.0.mlp.linear_fc2.weight: 4 layers, but num_hidden_layers = 5" in problems
    assert "output_layer.weight is missing" in problems
    assert "--hf-config" in refused(export_to_hf, tmp_path / "plain", tmp_path / "target")


def test_an_existing_target_is_only_replaced_when_asked_and_when_it_is_a_model(hf, mcore, tmp_path):
    before = (mcore / "COMMITTED.json").stat().st_mtime_ns
    assert "not written over" in refused(import_from_hf, hf, mcore)
    assert (mcore / "COMMITTED.json").stat().st_mtime_ns == before
    (tmp_path / "home").mkdir()
    overwrite = Options(overwrite=True)
    assert "neither a Hugging Face model nor a checkpoint" in refused(import_from_hf, hf, tmp_path / "home", overwrite)
    import_from_hf(hf, mcore, overwrite)
    assert (mcore / "COMMITTED.json").stat().st_mtime_ns != before


@pytest.mark.parametrize("overwrite", [False, True])
def test_source_and_target_are_apart(mcore, tmp_path, overwrite):
    options, run = Options(overwrite=overwrite), tmp_path / "run"
    folder = run / "checkpoints" / "iter_0000005"
    folder.parent.mkdir(parents=True)
    mcore.rename(folder)
    (tmp_path / "link").symlink_to(run)
    for source, target in [(folder, folder), (folder, run), (tmp_path / "link", run), (run, tmp_path)]:
        assert "what is to be converted" in refused(export_to_hf, source, target, options)
    for source, target in [(folder, folder / "a"), (run, folder / "a"), (run, tmp_path / "link/checkpoints/iter_0000006")]:
        assert "which is to be converted and must stay as it is" in refused(reshard, source, target, options)
    export_to_hf(run, run / "hf_model", options)  # as slurm/convert.sh does
    (run / "hf_model").rename(run / "m.replaced")
    assert f"replaces {run}/m.replaced" in refused(import_from_hf, run / "m.replaced", run / "m", options)


def test_a_source_of_the_other_kind_or_of_none(hf, mcore, tmp_path):
    for convert, source in [(import_from_hf, mcore), (export_to_hf, hf), (reshard, hf)]:
        kind = "mcore" if source == mcore else "hf"
        assert f"format is {kind}" in refused(convert, source, tmp_path / "target")
    for convert in (import_from_hf, export_to_hf):
        assert "no such folder" in refused(convert, tmp_path / "absent", tmp_path / "target")
        assert "config.json: a file; name a" in refused(convert, hf / "config.json", tmp_path / "target")
    (hf / "config.json").unlink()
    assert f"{hf}: no Hugging Face model, no config.json in it" in refused(import_from_hf, hf, tmp_path / "target")


@pytest.mark.parametrize("convert", [import_from_hf, export_to_hf])
def test_a_proof_without_a_tokenizer_is_refused_before_the_work(hf, tmp_path, monkeypatch, convert):
    (hf / "tokenizer.json").unlink()
    import_from_hf(hf, tmp_path / "mcore", Options())
    source = hf if convert is import_from_hf else tmp_path / "mcore"
    monkeypatch.setattr(new_folder, "_check_space", None)  # which is called before anything is written
    told = refused(convert, source, tmp_path / "target", Options(verify="float32"))
    assert "no tokenizer.json; --verify compares logits on text and needs it" in told


def test_a_write_that_fails_in_the_middle(hf, tmp_path):
    """A limit on the size of files, as a quota's, in a process of its own."""
    command = [sys.executable, REPOSITORY / "tools" / "checkpoint" / "convert.py", "--loader", "hf", "--saver", "mcore"]
    command += ["--load-dir", hf, "--save-dir", tmp_path / "target"]
    done = subprocess.run(["bash", "-c", 'ulimit -f 50; "$@"', "-", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 2 and "File too large" in done.stderr and "as it was before" in done.stderr, done.stderr
    assert not list(tmp_path.glob("target*"))


def test_too_small_a_disk_is_seen_before_and_while_writing(hf, mcore, tmp_path, monkeypatch):
    monkeypatch.setattr(new_folder, "SPARE_BYTES", 10**18)
    assert "GB are needed" in refused(import_from_hf, hf, tmp_path / "target")
    monkeypatch.undo()

    def full(self, segment, rows):
        raise OSError(28, "No space left on device", str(tmp_path / "target.unfinished" / "model.safetensors"))

    monkeypatch.setattr(ShardWriter, "write", full)
    assert "No space left on device" in refused(export_to_hf, mcore, tmp_path / "target")
    (tmp_path / "target").mkdir()
    shutil.copytree(hf, tmp_path / "target", dirs_exist_ok=True)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "target").iterdir()}
    refused(export_to_hf, mcore, tmp_path / "target", Options(overwrite=True))
    assert kept == {path.name: path.read_bytes() for path in (tmp_path / "target").iterdir()}
