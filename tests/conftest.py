"""Fixtures: real text where it is, a small tokenizer, tokens and run files made from the quickstart's corpus."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from megatron_lmt.corpus.cpt import build_cpt_corpus
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.recipe import Recipe
from megatron_lmt.preprocessing.train_tokenizer import train_tokenizer

REPOSITORY = Path(__file__).resolve().parents[1]
QUICKSTART = REPOSITORY / "examples" / "quickstart"


def pytest_configure() -> None:
    """A shell starts what it puts in the background with SIGINT ignored; every process of the tests would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


LINES = [
    "The committee of the whole house met on Thursday, and its members spoke for two hours about water and bread.",
    "The house by the river was sold; the members of the family spoke about it for a whole week.",
    "Der Ausschuss tagte am Donnerstag, und seine Mitglieder sprachen zwei Stunden über Wasser und Brot.",
    "Le comité s'est réuni jeudi, et ses membres ont parlé pendant deux heures de l'eau et du pain.",
    "Комитет собрался в четверг, и его члены два часа говорили о воде и хлебе.",
    "委员会星期四开会，成员们谈了两个小时的水和面包。委员会的成员星期四谈了水。",
    "委員会は木曜日に開かれ、委員たちは水とパンについて二時間話し合った。",
    "اجتمعت اللجنة يوم الخميس، وتحدث أعضاؤها ساعتين عن الماء والخبز.",
    "समिति की बैठक गुरुवार को हुई, और सदस्यों ने दो घंटे पानी और रोटी पर बात की।",
    "คณะกรรมการประชุมกันในวันพฤหัสบดี และพูดคุยเรื่องน้ำและขนมปังเป็นเวลาสองชั่วโมง",
    "위원회는 목요일에 모였고, 위원들은 두 시간 동안 물과 빵에 대해 이야기했다.",
]

TINY_MODEL = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 701,  # odd: needs padding under any tensor parallelism
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,  # not hidden_size / heads
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "initializer_range": 0.05,
    "tie_word_embeddings": True,
}

RUN_HEAD = """
output_dir = "run"
seed = 7

[model]
hf_config = "config.json"

[data]
tokenizer_type = "HuggingFaceTokenizer"
tokenizer_model = "tokenizer"
"""
"""The beginning of a run file; the keys of [data] go on behind it."""

TINY_RUN = f"""{RUN_HEAD}
seq_length = 64

[data.mixture.mono]
weight = 1
path = "tokens/mono.{{language}}_text_document"
languages = ["en", "zh", "ar"]

[data.mixture.parallel]
weight = 1
path = "tokens/{{direction}}_text_document"
directions = ["en-zh", "zh-en"]

[train]
train_iters = 20
micro_batch_size = 2
global_batch_size = 8

[optimizer]
lr = 3e-3

[validation]
eval_interval = 10
sources = {{ zh = "tokens/mono.zh_text_document" }}

[checkpoint]
save_interval = 10
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread_for_tokenizers():
    """Tests run side by side on few cores."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """Folder with real text in 60 languages; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("MEGATRON_LMT_SAMPLE_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "mono").is_dir():
        pytest.skip(f"no sample data in {folder}: name its folder in MEGATRON_LMT_SAMPLE_DATA")
    return folder


@pytest.fixture(scope="session")
def comet_python() -> Path:
    """An interpreter with unbabel-comet; tests that need it are skipped where it is absent."""
    python = Path(os.environ.get("MEGATRON_LMT_COMET_PYTHON") or REPOSITORY / ".venv-comet" / "bin" / "python")
    if not python.is_file():
        pytest.skip("no Python with unbabel-comet: bash tools/setup_comet.sh, or name one in MEGATRON_LMT_COMET_PYTHON")
    return python


@pytest.fixture(scope="session")
def tiny_comet(tmp_path_factory, comet_python) -> Path:
    """Folder of a COMET model that scores 1 where translation and reference are equal, see tiny_comet.py."""
    return make_comet(tmp_path_factory.mktemp("comet"), comet_python)


@pytest.fixture(scope="session")
def tiny_kiwi(tmp_path_factory, comet_python) -> Path:
    """Folder of a COMET model without references, see tiny_comet.py."""
    return make_comet(tmp_path_factory.mktemp("kiwi"), comet_python, "kiwi")


def make_comet(folder: Path, python: Path, *kind: str) -> Path:
    text = folder / "text.txt"
    text.write_text("\n".join(LINES), encoding="utf-8")
    script = REPOSITORY / "tests" / "tiny_comet.py"
    subprocess.run([python, "-I", script, folder / "model", text, *kind], check=True, capture_output=True)
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory) -> Path:
    """Folder of a byte-level BPE tokenizer of 512 tokens, with <|endoftext|>, <|im_start|> and <|im_end|> as the last."""
    folder = tmp_path_factory.mktemp("tokenizer")
    text = folder.with_name("tokenizer_text.txt")
    text.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    assert train_tokenizer([text], ["text"], 512, folder) == 512
    return folder


@pytest.fixture(scope="session")
def quickstart_tokenizer(tmp_path_factory) -> Path:
    """A tokenizer of 700 tokens, trained on the quickstart's corpus."""
    folder = tmp_path_factory.mktemp("quickstart") / "tokenizer"
    train_tokenizer(sorted(QUICKSTART.glob("corpus/??.txt")), ["text"], 700, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokens(tmp_path_factory, quickstart_tokenizer) -> Path:
    """Token files of the quickstart's CPT corpus."""
    folder = tmp_path_factory.mktemp("tokens")
    build_cpt_corpus(QUICKSTART / "cpt_corpus.toml", folder / "text")
    files = sorted(folder.glob("text/*.jsonl"))
    recipe = Recipe("HuggingFaceTokenizer", quickstart_tokenizer)
    preprocess(recipe, {folder / "tokens" / file.stem: [file] for file in files}, workers=1)
    return folder / "tokens"


@pytest.fixture
def pair_inputs(tmp_path) -> Path:
    """`tmp_path/inputs`: 2,000 pairs en-ky, and 1,000 aligned lines of en, zh and ky."""
    root = tmp_path / "inputs"
    root.mkdir()
    (root / "en-ky.tsv").write_text("".join(f"source {i}\tбулак {i}\n" for i in range(2000)), encoding="utf-8")
    for code in ("en", "zh", "ky"):
        (root / f"{code}.txt").write_text("".join(f"{code} {i}\n" for i in range(1000)), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def tiny_exported(tmp_path_factory, quickstart_tokenizer) -> Path:
    """A random Qwen3 with a tokenizer, as it is exported."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    qwen3 = Qwen3ForCausalLM(Qwen3Config(**{**TINY_MODEL, "max_position_embeddings": 4096}))
    tokenizer = AutoTokenizer.from_pretrained(quickstart_tokenizer)
    qwen3.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    qwen3.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_run(tmp_path, quickstart_tokenizer, tiny_tokens) -> Path:
    """A run file in a folder of its own, with all that it names."""
    return make_run(tmp_path, quickstart_tokenizer, tiny_tokens)


def make_run(folder: Path, tokenizer: Path, tokens: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(TINY_MODEL))
    (folder / "tokenizer").symlink_to(tokenizer)
    (folder / "tokens").symlink_to(tokens)
    (folder / "run.toml").write_text(TINY_RUN)
    return folder / "run.toml"
