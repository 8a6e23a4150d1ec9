"""Translate with an exported model through transformers, as anyone who has the exported folder could.

megatron-core is not imported: this runs wherever the exported model does.
"""

from __future__ import annotations

from pathlib import Path

from megatron_lmt.data.progress import progress
from megatron_lmt.data.prompts import render_prompt
from megatron_lmt.errors import ConfigError


class Translator:
    """An exported model, ready to translate.

    Args:
        model: folder with config.json, safetensors and a tokenizer with a chat template.
    """

    def __init__(self, model: Path):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not (model / "config.json").is_file():
            raise ConfigError(
                f"{model}: no config.json; this is not an exported model (tools/checkpoint/convert.py makes one)"
            )
        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(str(model), padding_side="left")
        if not self._tokenizer.chat_template:
            raise ConfigError(f"{model}: its tokenizer has no chat template")
        self._model = AutoModelForCausalLM.from_pretrained(str(model)).eval()
        if torch.cuda.is_available():
            self._model.cuda()

    def translate(
        self,
        texts: list[str],
        source: str,
        target: str,
        template: str = "release",
        num_beams: int = 5,
        batch_size: int = 32,
        max_new_tokens: int = 512,
    ) -> list[str]:
        """One translation for each text, in their order, each on one line.

        Texts of similar length share a batch. Line ends inside a translation become spaces.
        """
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        translations = [""] * len(texts)
        with progress(len(texts), f"translating {source}-{target}", "sentence") as bar:
            for batch in batches:
                prompts = [render_prompt(template, source, target, texts[i]) for i in batch]
                for i, translation in zip(batch, self._generate(prompts, num_beams, max_new_tokens), strict=True):
                    translations[i] = " ".join(translation.split("\n")).strip()
                bar.update(len(batch))
        return translations

    def _generate(self, prompts: list[str], num_beams: int, max_new_tokens: int) -> list[str]:
        chats = [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
        inputs = self._tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(self._model.device)
        with self._torch.inference_mode():
            output = self._model.generate(**inputs, num_beams=num_beams, do_sample=False, max_new_tokens=max_new_tokens)
        return self._tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
