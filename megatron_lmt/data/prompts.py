"""Prompts of supervised fine-tuning and translation, word for word, and their wrapping as a chat turn."""

from __future__ import annotations

from pathlib import Path

from megatron_lmt.errors import ConfigError
from megatron_lmt.languages import languages

TEMPLATES = {
    # the released models' (NiuTrans/LMT, src/utils.py)
    "release": "Translate the following text from {source} into {target}:\n{source}: {text}\n{target}:",
    # arXiv 2511.07003 v2, figure 4
    "paper": "Translate this from {source} to {target}:\n{source}: {text}\n{target}:",
}
END_OF_TURN = "<|im_end|>"
CONTROL_TOKENS = ("<|im_start|>", END_OF_TURN, "<|endoftext|>")
"""Of Qwen3's chat format. In a rendered chat they are recognised, so a sentence must not contain one."""


def render_prompt(template: str, source: str, target: str, text: str) -> str:
    """The prompt for one sentence.

    Args:
        template: "release" or "paper".
        source: language codes, as is `target`; the prompt has their English names.
    """
    names = languages()
    return TEMPLATES[template].format(source=names[source].name, target=names[target].name, text=text)


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

    def render(self, prompt: str) -> str:
        turn = [{"role": "user", "content": prompt}]
        return self._tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
