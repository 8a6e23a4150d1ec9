"""What an export holds beside exact weights: what transformers, vLLM and people look for."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, LlamaConfig, Qwen3Config

from megatron_lmt.conversion.hf_to_mcore import import_from_hf
from megatron_lmt.conversion.mcore_to_hf import export_to_hf
from megatron_lmt.conversion.options import Options
from megatron_lmt.conversion.pieces import model_pieces
from megatron_lmt.conversion.safetensors_writer import ShardWriter, create_shards, plan_shards
from megatron_lmt.errors import UserError
from megatron_lmt.model.hf_io import bits_of_tensor
from megatron_lmt.model.hf_mapping import hf_tensor_shapes
from megatron_lmt.model.shape import read_shape
from tests.conftest import TINY_MODEL
from tests.end_to_end.trained import tensors_of_hf

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def make_folder(folder, tokenizer, config):
    """Random weights written by the converter's own writer, with a chat template and generation settings."""
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 509, "temperature": 0.6, "do_sample": True}))
    (folder / "config.json").write_text(json.dumps(config))
    shape = read_shape(folder)
    plan = plan_shards(hf_tensor_shapes(shape), "bfloat16", 10**9)
    create_shards(folder, plan)
    with ShardWriter(folder, plan) as writer:
        for piece in model_pieces(shape, 2):
            for segment, rows in piece.to_hf(bits_of_tensor(torch.randn(piece.shape, dtype=torch.bfloat16))):
                writer.write(segment, rows)
    return folder


@pytest.fixture
def export(request, tmp_path, tiny_tokenizer):
    source = make_folder(tmp_path / "source", tiny_tokenizer, {**TINY_MODEL, **request.param})
    import_from_hf(source, tmp_path / "run" / "checkpoints" / "iter_0000000", Options())
    (tmp_path / "run" / "run_card.md").write_text("# Run\n\nthree steps\n")
    export_to_hf(tmp_path / "run", tmp_path / "export", Options(max_shard_bytes=50_000))
    return tmp_path / "export"


CONFIGS = [{}, {"tie_word_embeddings": False}, LLAMA]


def what_vllm_loads(config: dict) -> dict[str, tuple[int, ...]]:
    """vLLM's loaders of Qwen3 and Llama, written down by hand: the tensors they put into their fused parameters.

    qkv_proj is filled from q_proj, k_proj and v_proj, gate_up_proj from gate_proj and up_proj; the embedding must have
    exactly vocab_size rows; lm_head is skipped where it is tied, and must be there where it is not; any other name is an
    error.
    """
    hidden, ffn, heads, groups = (
        config[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    )
    head_dim = config["head_dim"]
    layer = {
        "self_attn.q_proj": (heads * head_dim, hidden),
        "self_attn.k_proj": (groups * head_dim, hidden),
        "self_attn.v_proj": (groups * head_dim, hidden),
        "self_attn.o_proj": (hidden, heads * head_dim),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    if config["model_type"] == "qwen3":
        layer |= {"self_attn.q_norm": (head_dim,), "self_attn.k_norm": (head_dim,)}
    expected = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for number in range(config["num_hidden_layers"]):
        expected |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    if not config["tie_word_embeddings"]:
        expected["lm_head.weight"] = (config["vocab_size"], hidden)
    return expected


@pytest.mark.parametrize("export", CONFIGS, indirect=True, ids=["tied", "untied", "llama"])
def test_names_and_shapes_are_what_vllm_loads(export):
    config = json.loads((export / "config.json").read_text())
    tensors = {name: tuple(tensor.shape) for name, tensor in tensors_of_hf(export).items()}
    assert tensors == what_vllm_loads(config)
    assert config["architectures"] == [{"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}[config["model_type"]]]
    index = json.loads((export / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    sizes = {file: (export / file).stat().st_size for file in set(index["weight_map"].values())}
    assert len(sizes) > 2 and max(sizes.values()) < 55_000
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors_of_hf(export).values())


@pytest.mark.parametrize("export", [{}], indirect=True, ids=["qwen3"])
def test_companions(export):
    source = export.parent / "source"
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        assert (export / name).read_bytes() == (source / name).read_bytes()
    text = AutoTokenizer.from_pretrained(export).apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text == "<|im_start|>Hi<|im_end|>"
    assert AutoConfig.from_pretrained(export).dtype == torch.bfloat16
    generation = GenerationConfig.from_pretrained(export)
    tokenizer = AutoTokenizer.from_pretrained(export)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert set(generation.eos_token_id) == {509, *ends} and generation.temperature == 0.6
    card = (export / "README.md").read_text()
    assert "# export\n" in card and "Qwen3ForCausalLM" in card and "output layer tied to the embedding" in card
    assert card.endswith("## Training run\n\n## Run\n\nthree steps\n")


def test_an_end_token_that_the_model_has_not(tmp_path, tiny_tokenizer):
    source = make_folder(tmp_path / "source", tiny_tokenizer, TINY_MODEL)
    (source / "generation_config.json").write_text('{"eos_token_id": [151645]}')
    import_from_hf(source, tmp_path / "mcore", Options())
    with pytest.raises(UserError, match="eos_token_id \\[151645\\]: the model has 701 tokens"):
        export_to_hf(tmp_path / "mcore", tmp_path / "export", Options())
    assert not list(tmp_path.glob("export*"))


QWEN3 = {
    # hidden, ffn, layers, heads, tied; the four sizes of LMT, and two above
    "0.6B": (1024, 3072, 28, 16, True),
    "1.7B": (2048, 6144, 28, 16, True),
    "4B": (2560, 9728, 36, 32, True),
    "8B": (4096, 12288, 36, 32, False),
    "14B": (5120, 17408, 40, 40, False),
    "32B": (5120, 25600, 64, 64, False),
}


def real_configs():
    for size, (hidden, ffn, layers, heads, tied) in QWEN3.items():
        config = Qwen3Config(
            hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=8, head_dim=128, vocab_size=151936, tie_word_embeddings=tied,
        )  # fmt: skip
        yield pytest.param(config, id=size)
    llama = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256,
    )  # fmt: skip
    yield pytest.param(llama, id="Llama-3.1-8B")


@pytest.mark.parametrize("config", list(real_configs()))
def test_pieces_cover_every_row_of_both_sides_once(config, tmp_path):
    config.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    rows = {name: [] for name in hf_tensor_shapes(shape)}
    end = {}
    for piece in model_pieces(shape, itemsize=4):
        assert piece.numel * 4 <= 2**25 and piece.start == end.get(piece.parameter, 0)
        end[piece.parameter] = piece.stop
        assert sum(segment.stop - segment.start for segment in piece.segments) == piece.stop - piece.start
        for segment in piece.segments:
            rows[segment.tensor].append((segment.start, segment.stop))
    for name, size in hf_tensor_shapes(shape).items():
        starts, stops = zip(*rows[name], strict=True)
        assert (0, *stops) == (*starts, size[0]), name
