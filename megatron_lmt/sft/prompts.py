"""Prompts of supervised fine-tuning and translation, word for word, and their wrapping as a chat turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_lmt.errors import ConfigError
from megatron_lmt.languages import languages


@dataclass(frozen=True)
class Template:
    """Wording of a prompt: `plain`, and `pmp` with an auxiliary sentence (None where there is no such wording)."""

    plain: str
    pmp: str | None


_SENTENCE, _ANSWER = "\n{source}: {text}", "\n{target}:"
_AUXILIARY = "\n{auxiliary}: {auxiliary_text}"

TEMPLATES = {
    # the released models' (NiuTrans/LMT, src/utils.py since May 2026); PMP in the same words is this project's
    "release": Template(
        "Translate the following text from {source} into {target}:" + _SENTENCE + _ANSWER,
        "Translate the following text from {source} into {auxiliary} and {target}:" + _SENTENCE + _AUXILIARY + _ANSWER,
    ),
    # arXiv 2511.07003 v2, figure 4
    "paper": Template(
        "Translate this from {source} to {target}:" + _SENTENCE + _ANSWER,
        "Translate this from {source} to {auxiliary} and {target}:" + _SENTENCE + _AUXILIARY + _ANSWER,
    ),
    # NiuTrans/LMT, src/inference.py from November 2025 to May 2026: a full stop instead of the first colon
    "first_release": Template(
        "Translate the following text from {source} into {target}." + _SENTENCE + _ANSWER,
        "Translate the following text from {source} into {auxiliary} and {target}." + _SENTENCE + _AUXILIARY + _ANSWER,
    ),
    # LLaMAX's use of Alpaca's prompt (its model card; arXiv 2407.05975)
    "alpaca": Template(
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n"
        "### Instruction:\nTranslate the following sentences from {source} to {target}.\n"
        "### Input:\n{text}\n### Response:",
        None,
    ),
}
END_OF_TURN = "<|im_end|>"
CONTROL_TOKENS = ("<|im_start|>", END_OF_TURN, "<|endoftext|>")
"""Of Qwen3's chat format. In a rendered chat they are recognised, so a sentence must not contain one."""

_PLACE_OF_PROMPT = "Place of the prompt:"


def render_prompt(template: str, source: str, target: str, text: str, auxiliary: tuple[str, str] | None = None) -> str:
    """The prompt for one sentence.

    Args:
        template: a name in `TEMPLATES`.
        source: language codes, as is `target`; the prompt has their English names.
        auxiliary: language code and text of the third sentence, for Parallel Multilingual Prompting.
    Raises:
        ConfigError: this template has no wording for PMP.
    """
    names = languages()
    fields = {"source": names[source].name, "target": names[target].name, "text": text}
    if auxiliary is None:
        return TEMPLATES[template].plain.format(**fields)
    wording = TEMPLATES[template].pmp
    if wording is None:
        raise ConfigError(f"template {template!r} has no wording with an auxiliary sentence; take another, or no PMP")
    code, auxiliary_text = auxiliary
    return wording.format(**fields, auxiliary=names[code].name, auxiliary_text=auxiliary_text)


class ChatTurn:
    """Wraps a prompt as a user's turn, with the opening of the answer, by the chat template of a tokenizer.

    The answer itself is never rendered by the template: Qwen3's would put an empty think block before it. A training
    target is the text followed by `END_OF_TURN`.

    Raises:
        ConfigError: not a folder with a tokenizer and its chat template.
    """

    def __init__(self, tokenizer_folder: Path):
        from transformers import AutoTokenizer  # takes seconds to import

        if not tokenizer_folder.is_dir():
            raise ConfigError(f"{tokenizer_folder}: no such folder; name one with a tokenizer and its chat template")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
        except Exception as error:  # of many kinds, the tokenizers library's bare Exception among them
            reason = " ".join(str(error).split())
            raise ConfigError(f"{tokenizer_folder}: transformers finds no tokenizer in it ({reason})") from None
        if not self._tokenizer.chat_template:
            raise ConfigError(f"{tokenizer_folder}: this tokenizer has no chat template")
        # rendering takes longer than all else in building a corpus, so it is done once
        self._before, marker, self._after = self._rendered(_PLACE_OF_PROMPT).partition(_PLACE_OF_PROMPT)
        if not marker:
            raise ConfigError(f"{tokenizer_folder}: its chat template alters the text of a user's turn")

    def render(self, prompt: str) -> str:
        return self._before + prompt + self._after

    def _rendered(self, prompt: str) -> str:
        turn = [{"role": "user", "content": prompt}]
        return self._tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
