"""Sentences to translations with an exported model, in the ways of LMT (arXiv 2511.07003 v2, section 3).

`stp` asks plainly. `pmp-oracle` and `pmp-self` (Parallel Multilingual Prompting) show an auxiliary sentence, a translation
into a related language, which is given or made by the model first. `pivot` translates twice, through a third language.

megatron-core is not imported. `generate.py` decodes, `journal.py` remembers what is done.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.eval.generate import Generator, open_generator
from megatron_lmt.eval.journal import Journal
from megatron_lmt.languages import auxiliary_language, check_languages, split_direction
from megatron_lmt.progress import progress
from megatron_lmt.sft.prompts import TEMPLATES, render_prompt

PROMPTS = ("stp", "pmp-self", "pmp-oracle", "pivot")
# all that some reader takes for the end of a line (str.splitlines)
_LINE_ENDS = re.compile("[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]+")


@dataclass(frozen=True)
class Method:
    """How a sentence is put to the model.

    `through` is the language of the auxiliary sentence, or the pivot. None: LMT's auxiliary, and English as the pivot.
    """

    prompt: str = "stp"
    template: str = "release"
    through: str | None = None

    def third_language(self, source: str, target: str) -> str | None:
        """The language of the auxiliary sentence or the pivot; None for stp.

        Raises:
            ConfigError: there is none, or it is the source or the target.
        """
        direction = f"{source}-{target}"
        split_direction(direction)
        if self.prompt not in PROMPTS:
            raise ConfigError(f"unknown prompt {self.prompt!r}: one of {', '.join(PROMPTS)}")
        if self.prompt == "stp":
            return None
        if self.prompt != "pivot" and TEMPLATES[self.template].pmp is None:
            raise ConfigError(f"template {self.template!r} has no wording with an auxiliary sentence: take another, or stp")
        third = self.through or ("en" if self.prompt == "pivot" else auxiliary_language(source, target))
        if third is None:
            raise ConfigError(f"{direction}: LMT names no auxiliary language for it; use stp, or name one")
        check_languages([third])
        if third in (source, target):
            raise ConfigError(f"{direction}: {third} cannot be the language in between, it is the source or the target")
        return third


class Translator:
    """An exported model, ready to translate.

    Args:
        model: folder with config.json, safetensors and a tokenizer with a chat template.
        engine: "transformers" or "vllm".
        dtype: see `open_generator`.
    """

    def __init__(self, model: Path, engine: str = "transformers", dtype: str = "auto"):
        self.generator: Generator = open_generator(model, engine, dtype)

    def check_new_tokens(self, max_new_tokens: int) -> None:
        """
        Raises:
            ConfigError: with so many new tokens there is no room for a prompt.
        """
        if max_new_tokens >= self.generator.max_length:
            raise ConfigError(
                f"{max_new_tokens} new tokens: the model takes {self.generator.max_length} with the prompt; ask for fewer"
            )

    def translate(
        self,
        texts: list[str],
        source: str,
        target: str,
        template: str = "release",
        num_beams: int = 5,
        batch_size: int = 32,
        max_new_tokens: int = 512,
        prompt: str = "stp",
        through: str | None = None,
        auxiliaries: list[str] | None = None,
        journal: Path | None = None,
    ) -> list[str]:
        """One translation for each text, in their order, each without line ends.

        Texts of similar length share a batch. An empty text has an empty translation. A text whose auxiliary sentence is
        empty is translated plainly.

        Args:
            prompt, template, through: see `Method`.
            auxiliaries: for pmp-oracle, the auxiliary sentence of each text.
            journal: a file to remember finished lines in; it is deleted at the end.
        Raises:
            ConfigError: this cannot be asked of this direction.
            DataError: texts, or their number, do not fit; names the lines.
        """
        self.check_new_tokens(max_new_tokens)
        method = Method(prompt, template, through)
        third = method.third_language(source, target)
        if (auxiliaries is not None) != (prompt == "pmp-oracle"):
            raise ConfigError("auxiliary sentences are given for pmp-oracle, and only for it")
        if auxiliaries is not None and len(auxiliaries) != len(texts):
            raise DataError(f"{len(auxiliaries)} auxiliary sentences for {len(texts)} texts: they must be line by line")
        work = _Work(self.generator, template, num_beams, batch_size, max_new_tokens)
        if journal is not None:
            given = {"direction": f"{source}-{target}", "texts": _digest(texts), "auxiliaries": _digest(auxiliaries or [])}
            work.open_journal(journal, {**given, **asdict(method), "through": third})
        if prompt == "pivot":
            texts = work.plain("pivot", texts, source, third)
            source = third
        elif prompt == "pmp-self":
            auxiliaries = work.plain("auxiliary", texts, source, third)
        if prompt.startswith("pmp"):
            translations = work.with_auxiliaries(texts, auxiliaries, source, third, target)
        else:
            translations = work.plain("translation", texts, source, target)
        if work.journal:
            work.journal.delete()
        return translations

    def check_longest(self, texts: list[str], source: str, target: str, template: str, max_new_tokens: int) -> None:
        """Whether the text with the most bytes fits into the model: cheap, for many directions before the first one.

        Raises:
            DataError: it does not.
        """
        self.check_new_tokens(max_new_tokens)
        prompt = render_prompt(template, source, target, max(texts, key=lambda text: len(text.encode("utf-8"))))
        tokens, most = len(self.generator.encode(prompt)), self.generator.max_length - max_new_tokens
        if tokens > most:
            raise DataError(f"{source}-{target}, its longest line: {too_long(tokens, max_new_tokens, most)}")


def one_line(text: str) -> str:
    """The text without line ends of any kind, and without spaces around it."""
    return _LINE_ENDS.sub(" ", text).strip(" \t")


def _digest(texts: list[str]) -> str:
    return sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


class _Work:
    """One call of `translate`: its settings, and where it remembers what is done."""

    def __init__(self, generator: Generator, template: str, num_beams: int, batch_size: int, max_new_tokens: int):
        self._generator = generator
        self._template = template
        self._num_beams, self._batch_size, self._max_new_tokens = num_beams, batch_size, max_new_tokens
        self.journal: Journal | None = None

    def open_journal(self, path: Path, given: dict[str, Any]) -> None:
        decoding = {"num_beams": self._num_beams, "max_new_tokens": self._max_new_tokens}
        self.journal = Journal(path, {**given, **decoding, **self._generator.identity})

    def plain(self, step: str, texts: list[str], source: str, target: str) -> list[str]:
        prompts = [render_prompt(self._template, source, target, t) if t.strip() else None for t in texts]
        return self._answers(step, f"{source}-{target}", prompts)

    def with_auxiliaries(self, texts: list[str], auxiliaries: list[str], source: str, third: str, target: str) -> list[str]:
        prompts: list[str | None] = []
        for text, auxiliary in zip(texts, auxiliaries, strict=True):
            if not text.strip():
                prompts.append(None)
            elif not auxiliary.strip():
                prompts.append(render_prompt(self._template, source, target, text))
            else:
                prompts.append(render_prompt(self._template, source, target, text, (third, auxiliary)))
        return self._answers("translation", f"{source}-{target}", prompts)

    def _answers(self, step: str, direction: str, prompts: list[str | None]) -> list[str]:
        """One answer for each prompt; none for None."""
        done = self.journal.done(step) if self.journal else {}
        answers = [done.get(i, "") for i in range(len(prompts))]
        encoded = {i: self._generator.encode(p) for i, p in enumerate(prompts) if p is not None and i not in done}
        self._check_lengths(direction, encoded)
        order = sorted(encoded, key=lambda i: len(encoded[i]))
        with progress(len(prompts), f"{step} {direction}", " sentences") as bar:
            bar.update(len(prompts) - len(order))
            for start in range(0, len(order), self._batch_size):
                batch = order[start : start + self._batch_size]
                found = self._generator.generate([encoded[i] for i in batch], self._num_beams, self._max_new_tokens)
                texts = {i: one_line(text) for i, text in zip(batch, found, strict=True)}
                for i, text in texts.items():
                    answers[i] = text
                if self.journal:
                    self.journal.add(step, texts)
                bar.update(len(batch))
        return answers

    def _check_lengths(self, direction: str, encoded: dict[int, list[int]]) -> None:
        most = self._generator.max_length - self._max_new_tokens
        problems = [
            f"{direction}, line {i + 1}: {too_long(len(ids), self._max_new_tokens, most)}"
            for i, ids in encoded.items()
            if len(ids) > most
        ]
        if problems:
            raise DataError(problems)


def too_long(tokens: int, max_new_tokens: int, most: int) -> str:
    return (
        f"a prompt of {tokens} tokens; with {max_new_tokens} new tokens this model takes {most}: split the line, or lower "
        "the number of new tokens"
    )
