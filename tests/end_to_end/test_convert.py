"""Hugging Face models in and out: bit-equal weights, equal logits, and an export that transformers uses as it is."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from megatron_lmt.eval.translate import Translator
from tests.conftest import REPOSITORY, TINY_MODEL
from tests.end_to_end.processes import launch, tool, train

CONVERT = "checkpoint/convert.py"
TEXT = "The house is small but warm. 房子很小，但很暖和。"


def make_hf_model(folder, tokenizer, **changes):
    """A random model as transformers saves it, with norms that are not all one."""
    torch.manual_seed(1)
    dtype = changes.pop("dtype", torch.float32)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**TINY_MODEL, **changes})).to(dtype)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return model.eval()


LLAMA = {
    "model_type": "llama",
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
MODELS = {"tied": {}, "untied": {"tie_word_embeddings": False}, "llama": LLAMA}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_round_trip_is_bit_equal(tmp_path, quickstart_tokenizer, model, dtype):
    make_hf_model(tmp_path / "hf", quickstart_tokenizer, dtype=dtype, **MODELS[model])
    tool(CONVERT, "--loader", "hf", "--saver", "mcore", "--load-dir", tmp_path / "hf", "--save-dir", tmp_path / "mcore")
    tool(CONVERT, "--loader", "mcore", "--saver", "hf", "--load-dir", tmp_path / "mcore", "--save-dir", tmp_path / "back")
    before, after = load_file(tmp_path / "hf/model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype and torch.equal(tensor, after[name]), name
    original, exported = (json.loads((tmp_path / d / "config.json").read_text()) for d in ("hf", "back"))
    assert exported == original


@pytest.mark.parametrize("layout", ["TP1-PP1", "TP2-PP2"])
@pytest.mark.parametrize("model", MODELS)
def test_logits_equal_transformers(tmp_path, quickstart_tokenizer, layout, model):
    model = make_hf_model(tmp_path / "hf", quickstart_tokenizer, **MODELS[model])
    tokens = AutoTokenizer.from_pretrained(quickstart_tokenizer)(TEXT * 6, return_tensors="pt")["input_ids"]
    tokens = tokens[:, : min(256, tokens.shape[1] // 4 * 4)]
    torch.save(tokens, tmp_path / "tokens.pt")
    with torch.inference_mode():
        expected = model(tokens).logits
    size = int(layout[2])
    script = REPOSITORY / "tests" / "end_to_end" / "forward.py"
    launch(size * size, str(script), str(tmp_path), str(size))
    found = torch.load(tmp_path / "logits.pt")
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4


def test_export_of_a_trained_model_is_used_by_transformers(tiny_run, quickstart_tokenizer):
    folder = tiny_run.parent
    pp2 = "parallel.pipeline_model_parallel_size=2"
    train(tiny_run, 2, "train.train_iters=4", "train.bf16=true", pp2)
    arguments = ("--loader", "mcore", "--saver", "hf", "--load-dir", folder / "run", "--save-dir")
    tool(CONVERT, *arguments, folder / "export")
    model = AutoModelForCausalLM.from_pretrained(folder / "export")
    tokenizer = AutoTokenizer.from_pretrained(folder / "export")
    assert model.dtype == torch.bfloat16
    assert tokenizer(TEXT)["input_ids"] == AutoTokenizer.from_pretrained(quickstart_tokenizer)(TEXT)["input_ids"]
    inputs = tokenizer(TEXT, return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=5, do_sample=False).shape[1] == inputs["input_ids"].shape[1] + 5
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert model.generation_config.eos_token_id == ends
    translations = Translator(folder / "export").translate(["One.", "Two\u2028two."], "en", "de", max_new_tokens=4)
    assert len(translations) == 2 and not any("\n" in line for line in translations)
    # an existing folder is left alone
    before = (folder / "export/model.safetensors").stat().st_mtime_ns
    assert "not written over" in tool(CONVERT, *arguments, folder / "export", code=2)
    assert (folder / "export/model.safetensors").stat().st_mtime_ns == before


def test_training_starts_from_hf_folder_and_from_checkpoint_with_the_same_loss(tiny_run, quickstart_tokenizer):
    folder = tiny_run.parent
    make_hf_model(folder / "hf", quickstart_tokenizer)
    tool(CONVERT, "--loader", "hf", "--saver", "mcore", "--load-dir", folder / "hf", "--save-dir", folder / "mcore")
    losses = []
    for start, layout in (("hf", "tensor"), ("mcore", "pipeline")):
        overrides = (f"model.pretrained_checkpoint={start}", f"output_dir=from-{start}", "train.train_iters=3")
        train(tiny_run, 2, *overrides, f"parallel.{layout}_model_parallel_size=2")
        lines = (folder / f"from-{start}" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["lm_loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # a finished run, with its optimizer state, is a start as well: its weights are taken, its optimizer is not
    train(tiny_run, 1, "model.pretrained_checkpoint=from-hf", "output_dir=second", "train.train_iters=1", "seed=9")
    (step,) = (folder / "second" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(step)["lm_loss"] < losses[0][0]


def test_weights_that_do_not_fit_are_listed(tmp_path, quickstart_tokenizer):
    make_hf_model(tmp_path / "hf", quickstart_tokenizer)
    tensors = load_file(tmp_path / "hf/model.safetensors")
    del tensors["model.layers.1.self_attn.q_norm.weight"]
    tensors["model.norm.weight"] = torch.ones(31)
    tensors["model.extra"] = torch.ones(1)
    save_file(tensors, tmp_path / "hf/model.safetensors")
    output = tool(
        CONVERT,
        "--loader",
        "hf",
        "--saver",
        "mcore",
        "--load-dir",
        tmp_path / "hf",
        "--save-dir",
        tmp_path / "mcore",
        code=2,
    )
    assert "model.layers.1.self_attn.q_norm.weight is missing" in output
    assert "model.norm.weight has shape (31,), but its config.json says (32,)" in output
    assert "model.extra is not part of this Qwen3ForCausalLM" in output
    assert not (tmp_path / "mcore").exists()
