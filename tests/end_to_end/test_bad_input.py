"""Bad input: a clear error before any process group starts, an exit code that is not 0, nothing written over."""

import json
import shutil
import socket
import subprocess
import sys

import pytest

from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.tokenising import Recipe
from tests.conftest import REPOSITORY, TINY_MODEL
from tests.end_to_end.processes import environment, free_port, launcher, run, tool, train, training_command

ALL_IS_LEARNED = {"json_keys": ("target",), "loss_keys": ("target",), "append_eod": False}


def refused(run_file, *overrides, processes=1):
    """The errors of a run that must not start; the folder of its results must stay away."""
    if processes == 1:
        output = train(run_file, 1, *overrides, code=2)
    else:
        output = run(training_command(run_file, processes, *overrides), code=1)
    assert processes > 1 or "Traceback" not in output
    assert not (run_file.parent / "run").exists()
    assert "iteration" not in output
    return output


def change_model(folder, **changes):
    (folder / "config.json").write_text(json.dumps({**TINY_MODEL, **changes}))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.micro_batchsize=2", "train.micro_batchsize: unknown key; did you mean train.micro_batch_size?"),
        ("data.seq_length=many", "data.seq_length: input should be a valid integer; the value is 'many'"),
        ("data.mixture.mono.path=tokens/absent.{language}", "tokens/absent.zh.bin"),
        ("data.tokenizer_model=nowhere", "nowhere: no such file or folder"),
        ("data.seq_length=512", "data.seq_length = 512 is beyond max_position_embeddings = 256"),
        ("train.global_batch_size=7", "train.global_batch_size = 7 is not a multiple of"),
        ("model.pretrained_checkpoint=nothing", "nothing: no such folder"),
        ("output_dir=config.json", "config.json is a file; name an empty or new folder"),
        ("model.hf_config=absent.json", "absent.json: no such file"),
    ],
)
def test_a_wrong_run_file(tiny_run, override, message):
    assert message in refused(tiny_run, override)


def test_everything_wrong_is_reported_at_once(tiny_run):
    change_model(tiny_run.parent, num_key_value_heads=1, vocab_size=600)
    output = refused(
        tiny_run,
        "parallel.tensor_model_parallel_size=2",
        "parallel.pipeline_model_parallel_size=3",
        'data.mixture.parallel.directions=["en-fi"]',
    )
    assert "tensor_model_parallel_size = 2 does not divide num_key_value_heads = 1" in output
    assert "pipeline_model_parallel_size = 3 does not divide num_hidden_layers = 4" in output
    assert "1 processes cannot be divided into groups" in output
    assert "tokens/en-fi_text_document.bin" in output
    assert "data.tokenizer_model has 700 tokens, but vocab_size = 600" in output


def test_heads_that_cannot_be_divided_under_torchrun(tiny_run):
    change_model(tiny_run.parent, num_key_value_heads=1)
    output = refused(tiny_run, "parallel.tensor_model_parallel_size=2", processes=2)
    assert output.count("does not divide num_key_value_heads") == 1  # one process speaks for all


def test_what_only_one_process_finds_wrong_is_said_with_its_place_and_ends_all(tiny_run):
    """As on a node that lacks a file: rank 1 stands in another folder."""
    (tiny_run.parent / "elsewhere").mkdir()
    folders, place = (tiny_run.parent, tiny_run.parent / "elsewhere"), {"MASTER_ADDR": "localhost", "WORLD_SIZE": "2"}
    place["MASTER_PORT"] = str(free_port())
    processes = [
        subprocess.Popen(
            training_command("run.toml", 1),
            cwd=folder,
            env={**environment(), **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, folder in enumerate(folders)
    ]
    first, second = (process.communicate(timeout=120)[1] for process in processes)
    assert [process.returncode for process in processes] == [2, 2]
    assert first.startswith(f"error: rank 1 on {socket.gethostname()}: ") and "run.toml" in first
    assert second == "" and not (tiny_run.parent / "run").exists()


def test_the_doctor_says_what_all_find_once(tiny_run):
    command = launcher(2, str(REPOSITORY / "tools/doctor.py"), str(tiny_run), "model.hf_config=absent.json", "seed=many")
    assert run(command, code=1).count("error: ") == 1  # of the run file itself, which cannot be checked further
    output = run(command[:-1], code=1)
    assert output.count("absent.json: no such file") == 1 and "MEND" not in output


def test_fields_of_a_model_that_is_neither_qwen3_nor_llama(tiny_run):
    change_model(tiny_run.parent, model_type="qwen2", attention_bias=True, rope_scaling={"rope_type": "yarn"})
    output = refused(tiny_run)
    for field in ("model_type = 'qwen2'", "attention_bias = True", "rope_type = 'yarn'"):
        assert field in output


def test_fp8_without_a_gpu_is_refused_with_all_reasons_before_anything_starts(tiny_run):
    output = refused(tiny_run, "fp8={}", "train.bf16=false")
    for reason in ("train.bf16 = false", "there is no GPU here", "Transformer Engine is not installed"):
        assert reason in output
    assert not (tiny_run.parent / "run").exists()


def test_another_tokenizer_than_the_data_were_made_with(tiny_run, tiny_tokenizer):
    output = refused(tiny_run, f"data.tokenizer_model={tiny_tokenizer}")
    assert "tokens/mono.en_text_document was made with tokenizer HuggingFaceTokenizer:" in output


def test_unfinished_and_damaged_token_files(tiny_run, quickstart_tokenizer):
    folder = tiny_run.parent
    shutil.copytree(folder / "tokens", folder / "copy")
    (folder / "copy/mono.en_text_document.manifest.json").unlink()
    with open(folder / "copy/mono.zh_text_document.bin", "ab") as file:
        file.write(b"12")
    output = refused(tiny_run, "data.mixture.mono.path=copy/mono.{language}_text_document")
    assert "mono.en_text_document.manifest.json: no such file" in output
    assert "mono.zh_text_document.bin" in output and "its index counts" in output


def test_a_wrong_mask_that_the_first_process_alone_reads_ends_all(tiny_run, quickstart_tokenizer):
    folder = tiny_run.parent
    (folder / "all.jsonl").write_text('{"target": "what is learned"}\n')
    recipe = Recipe("HuggingFaceTokenizer", quickstart_tokenizer, **ALL_IS_LEARNED)
    preprocess(recipe, {folder / "all": [folder / "all.jsonl"]})
    output = refused(tiny_run, "data.mixture.mono={weight=1, path='all_text_document'}", processes=2)
    assert output.count("error: source mono: ") == 1


def test_processes_with_other_settings_do_not_start(tiny_run):
    """They would train apart, and wait for each other at the end."""
    place = {**environment(), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "megatron_lmt.train", str(tiny_run), f"train.train_iters={iters}"],
            env={**place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, iters in enumerate((2, 3))
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [2, 2]
    assert f"error: rank 1 on {socket.gethostname()}: other settings than rank 0; start all with the same" in errors[0]
    assert not (tiny_run.parent / "run").exists()


def test_a_source_with_nothing_to_predict(tiny_run, quickstart_tokenizer):
    folder = tiny_run.parent
    (folder / "short.jsonl").write_text('{"text": "a"}\n')
    recipe = Recipe("HuggingFaceTokenizer", quickstart_tokenizer, append_eod=False)
    preprocess(recipe, {folder / "short": [folder / "short.jsonl"]})
    output = refused(tiny_run, "data.mixture.mono={weight=1, path='short_text_document'}")
    assert "no document of two tokens" in output


def test_an_empty_corpus(tmp_path, quickstart_tokenizer):
    (tmp_path / "empty.jsonl").write_text("")
    tokenizer = ("--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", quickstart_tokenizer)
    inputs = ("--input", tmp_path / "empty.jsonl", "--output-prefix", tmp_path / "out")
    assert "no document in it" in tool("preprocess_data.py", *inputs, *tokenizer, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.jsonl"]


def test_checkpoint_of_another_model_and_folder_of_another_run(tiny_run):
    folder = tiny_run.parent
    train(tiny_run, 1, "train.train_iters=2", "output_dir=first")
    before = {path: path.stat().st_mtime_ns for path in (folder / "first").rglob("*")}

    change_model(folder, hidden_size=64, tie_word_embeddings=False, rope_theta=10000.0)
    output = refused(tiny_run, "model.pretrained_checkpoint=first")
    assert "is another model: hidden_size = 32, but 64 in model.hf_config" in output
    assert "tie_word_embeddings = True, but False" in output and "rope_theta = 1000000.0, but 10000.0" in output

    change_model(folder)
    output = refused(tiny_run, "output_dir=first", "data.seq_length=32", "optimizer.lr=0.5", "train.train_iters=2")
    assert "holds another run: seq_length = 64 before, 32 now" in output
    assert "optimizer.lr = 0.003 before, 0.5 now" in output
    assert {path: path.stat().st_mtime_ns for path in (folder / "first").rglob("*")} == before

    (folder / "documents").mkdir()
    (folder / "documents/thesis.tex").write_text("precious")
    assert "has files in it that are not of a run" in refused(tiny_run, "output_dir=documents")


def test_dry_run_shows_the_plan_and_writes_nothing(tiny_run):
    output = run([*training_command(tiny_run, 1), "--dry-run", "parallel.tensor_model_parallel_size=2"])
    assert "memory of each of 2 GPUs, estimated: 4 GB (parameters 0.0" in output
    assert "mono" in output and "50.00%" in output
    assert not (tiny_run.parent / "run").exists()


def test_a_folder_whose_run_has_no_checkpoint_yet_is_still_that_runs(tiny_run):
    train(tiny_run, 1, "train.train_iters=2", "output_dir=first")
    for path in (tiny_run.parent / "first/checkpoints/iter_0000002", tiny_run.parent / "first/DONE"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    output = refused(tiny_run, "train.train_iters=2", "output_dir=first", "data.mixture.mono.weight=3")
    assert "holds another run: phases.sample 0.mono/en.weight = 0.1666" in output
