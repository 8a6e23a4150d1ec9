"""Prompts word for word, and the chat turn around them: never a rendered answer."""

import json
import shutil

import pytest

from megatron_lmt.errors import ConfigError
from megatron_lmt.sft.prompts import ChatTurn, render_prompt

# what matters of Qwen3's: a think block in rendered answers, none in the generation prompt unless thinking is switched off
QWEN3_LIKE = """
{%- for message in messages %}
    {%- if message.role == "assistant" %}
        {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message.content + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


@pytest.fixture
def bare_tokenizer(tmp_path, tiny_tokenizer):
    """A tokenizer without a chat template, to which a test may add one."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny_tokenizer, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize(
    ("template", "source", "target", "prompt"),
    [
        ("release", "en", "ky", "Translate the following text from English into Kirghiz:\nEnglish: x\nKirghiz:"),
        (
            "release",
            "zh",
            "mvf",
            "Translate the following text from Chinese into Inner Mongolian:\nChinese: x\nInner Mongolian:",
        ),
        ("paper", "en", "ky", "Translate this from English to Kirghiz:\nEnglish: x\nKirghiz:"),
        ("paper", "nb", "zh", "Translate this from Norwegian Bokmål to Chinese:\nNorwegian Bokmål: x\nChinese:"),
        ("first_release", "en", "ky", "Translate the following text from English into Kirghiz.\nEnglish: x\nKirghiz:"),
        (
            "alpaca",
            "en",
            "ky",
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n### Instruction:\nTranslate the following "
            "sentences from English to Kirghiz.\n### Input:\nx\n### Response:",
        ),
    ],
)
def test_templates(template, source, target, prompt):
    assert render_prompt(template, source, target, "x") == prompt


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("paper", "Translate this from English to Russian and Kirghiz:\nEnglish: x\nRussian: y\nKirghiz:"),
        ("release", "Translate the following text from English into Russian and Kirghiz:\nEnglish: x\nRussian: y\nKirghiz:"),
        (
            "first_release",
            "Translate the following text from English into Russian and Kirghiz.\nEnglish: x\nRussian: y\nKirghiz:",
        ),
    ],
)
def test_templates_with_an_auxiliary_sentence(template, prompt):
    assert render_prompt(template, "en", "ky", "x", ("ru", "y")) == prompt


def test_a_template_without_such_a_wording_says_so():
    with pytest.raises(ConfigError, match="'alpaca' has no wording with an auxiliary sentence"):
        render_prompt("alpaca", "en", "ky", "x", ("ru", "y"))


def test_the_text_of_a_prompt_is_not_altered():
    text = "{source} {} ᠠ\u202f\u180e\u200d\u2028 {{ 1 }} <b>&\\n "
    assert render_prompt("release", "mvf", "en", text).split("Inner Mongolian: ")[1] == f"{text}\nEnglish:"


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_turn_ends_where_the_answer_begins(bare_tokenizer, place):
    if place == "chat_template.jinja":
        (bare_tokenizer / place).write_text(QWEN3_LIKE)
    else:
        settings = json.loads((bare_tokenizer / place).read_text())
        (bare_tokenizer / place).write_text(json.dumps({**settings, "chat_template": QWEN3_LIKE}))
    text = "{{ 1 }} ᠠ\u202f\u180e\u200d\u2028 <b>& "
    assert ChatTurn(bare_tokenizer).render(text) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def test_a_folder_without_tokenizer_or_template_is_named(tmp_path, bare_tokenizer):
    with pytest.raises(ConfigError, match="tokenizer: this tokenizer has no chat template"):
        ChatTurn(bare_tokenizer)
    with pytest.raises(ConfigError, match="absent: no such folder"):
        ChatTurn(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty: transformers finds no tokenizer in it"):
        ChatTurn(tmp_path / "empty")
