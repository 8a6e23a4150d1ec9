"""Evaluate a translator: translate a test set in many directions, score, and look for what scores do not show.

The output folder has `translations/<direction>.txt`, `scores.jsonl` (a JSON object for each direction), `evaluation.json`
(what was evaluated, and with what) and the files of `report.py`. Started again, an evaluation goes on: finished translations
stay, and so do scored chunks of COMET. Directions may be added.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from megatron_lmt.errors import ConfigError, DataError, Problems
from megatron_lmt.eval.comet import Comet
from megatron_lmt.eval.rates import off_target_rates, output_rates
from megatron_lmt.eval.score import COMET_UNCOVERED, Scorer
from megatron_lmt.eval.test_set import TestSet
from megatron_lmt.eval.translate import Method, Translator
from megatron_lmt.files import write_json_atomically, write_text_atomically
from megatron_lmt.language_id import identify

SCORES, EVALUATION, TRANSLATIONS = "scores.jsonl", "evaluation.json", "translations"

Translate = Callable[[str, dict[str, list[str]]], list[str]]
"""From a direction and the sentences of all languages to its translations."""


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated on what.

    Args:
        directions: from `TestSet.directions`.
        max_sentences: take only the first ones of the test set; None takes all.
        comet: None for no COMET scores.
    """

    test_set: TestSet
    directions: list[str]
    output: Path
    max_sentences: int | None = None
    spbleu_model: Path | None = None
    comet: Comet | None = None

    def read(self, extra: set[str] = frozenset()) -> dict[str, list[str]]:
        """Language → sentences, of all languages of the directions and of `extra` where the test set has them."""
        codes = {code for direction in self.directions for code in direction.split("-")}
        return self.test_set.read(sorted(codes | (extra & self.test_set.files.keys())), self.max_sentences)


def model_translator(
    model: Path, engine: str, dtype: str, options: dict[str, Any], output: Path, directions: list[str]
) -> Translate:
    """Translations by an exported model, kept in the output folder.

    Directions for which `method_of` finds no other way are translated plainly.

    Args:
        options: keyword arguments of `Translator.translate`.
        directions: all that will be asked for; their longest sentences are tried before the first is translated.
    """
    folder = output / TRANSLATIONS
    translator: list[Translator] = []  # opened when it is needed: a finished evaluation needs none

    def translate(direction: str, texts: dict[str, list[str]]) -> list[str]:
        file = folder / f"{direction}.txt"
        source, target = direction.split("-")
        if not file.is_file():
            if not translator:
                translator.append(Translator(model, engine, dtype))
                _check_lengths(translator[0], directions, texts, options)
            method = method_of(direction, options, texts.keys())
            asked = {**options, "prompt": method.prompt, "through": method.through}
            if method.prompt == "pmp-oracle":
                asked["auxiliaries"] = texts[method.third_language(source, target)]
            journal = folder / f".{direction}.unfinished"
            found = translator[0].translate(texts[source], source, target, **asked, journal=journal)
            write_text_atomically(file, "".join(f"{line}\n" for line in found))
        return _read_translations(file, len(texts[source]))

    return translate


def _check_lengths(translator: Translator, directions: list[str], texts: dict[str, list[str]], options: dict) -> None:
    problems = Problems()
    for direction in directions:
        source, target = direction.split("-")
        asked = (options["template"], options["max_new_tokens"])
        problems.of(translator.check_longest, texts[source], source, target, *asked)
    problems.raise_if_any()


def method_of(direction: str, options: dict[str, Any], known: Collection[str]) -> Method:
    """How a direction is translated: as asked, or plainly where it has no third language.

    Args:
        known: languages of which there are texts, for pmp-oracle.
    """
    method = Method(options["prompt"], options["template"], options["through"])
    plain = Method("stp", method.template)
    try:
        third = method.third_language(*direction.split("-"))
    except ConfigError:
        return plain
    return plain if method.prompt == "pmp-oracle" and third not in known else method


def folder_translator(folder: Path) -> Translate:
    """Translations that are there already, as `<direction>.txt`."""
    return lambda direction, texts: _read_translations(folder / f"{direction}.txt", len(texts[direction.split("-")[0]]))


def _read_translations(file: Path, expected: int) -> list[str]:
    lines = file.read_text(encoding="utf-8").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    if len(lines) != expected:
        raise DataError(f"{file}: {len(lines)} lines for {expected} sentences of the test set")
    return [line.removesuffix("\r") for line in lines]


def evaluate(evaluation: Evaluation, translate: Translate, made_by: dict[str, Any], extra: set[str]) -> list[dict]:
    """One record of scores and rates for each direction, which are written to the output folder as well.

    Args:
        made_by: what makes the translations; an output folder is of one such thing only.
        extra: languages whose sentences the translator needs beside those of the directions.
    Raises:
        UserError: the output folder is of another evaluation, or the translations do not fit.
    """
    scorer = Scorer(evaluation.spbleu_model)
    scorer.check({direction.split("-")[1] for direction in evaluation.directions})
    texts = evaluation.read(extra)
    about = _open_output(evaluation, made_by)
    translations = {direction: translate(direction, texts) for direction in evaluation.directions}
    of_references: dict[str, list[str]] = {}
    records = []
    for direction, outputs in translations.items():
        source, target = direction.split("-")
        if target not in of_references:
            of_references[target] = [code for code, _ in identify(texts[target])]
        scores, signatures = scorer.scores(target, outputs, texts[target])
        identified = [code for code, _ in identify(outputs)]
        records.append(
            {
                "direction": direction,
                "sentences": len(outputs),
                **scores,
                **output_rates(texts[source], outputs, texts[target]),
                **off_target_rates(source, target, identified, of_references[target]),
                "comet_covered": not {source, target} & set(COMET_UNCOVERED),
                "signatures": signatures,
            }
        )
    if evaluation.comet:
        about["comet"] = _add_comet(evaluation, texts, translations, records)
    write_json_atomically(evaluation.output / EVALUATION, about)
    write_text_atomically(evaluation.output / SCORES, "".join(f"{json.dumps(record)}\n" for record in records))
    return records


def _open_output(evaluation: Evaluation, made_by: dict[str, Any]) -> dict[str, Any]:
    """Make the output folder, or see that it is of the same work, and say what that is."""
    files = {code: sha256(file.read_bytes()).hexdigest() for code, file in sorted(evaluation.test_set.files.items())}
    identity = {"made_by": made_by, "test_set_sha256": files, "max_sentences": evaluation.max_sentences}
    identity = json.loads(json.dumps(identity))
    file = evaluation.output / EVALUATION
    if file.is_file() and any((evaluation.output / TRANSLATIONS).glob("*.txt")):
        found = json.loads(file.read_text(encoding="utf-8"))
        differing = sorted(key for key in identity if found.get(key) != identity[key])
        if differing:
            raise ConfigError(
                f"{evaluation.output} is of another evaluation: {', '.join(differing)} differ; name a new folder"
            )
    (evaluation.output / TRANSLATIONS).mkdir(parents=True, exist_ok=True)
    versions = {package: version(package) for package in ("sacrebleu", "py3langid")}
    about = {"test_set": str(evaluation.test_set.folder.resolve()), **identity, "versions": versions}
    write_json_atomically(file, about)
    return about


def _add_comet(evaluation: Evaluation, texts: dict, translations: dict[str, list[str]], records: list[dict]) -> dict:
    """Put the mean COMET score, from 0 to 100, into the records; returns what scored."""
    segments = [
        {"src": source, "mt": output, "ref": reference}
        for direction, outputs in translations.items()
        for source, output, reference in zip(*_aligned(texts, direction, outputs), strict=True)
    ]
    scores, scored_by = evaluation.comet.score(segments, evaluation.output / "comet")
    start = 0
    for record in records:
        end = start + record["sentences"]
        record["comet"] = 100 * sum(scores[start:end]) / record["sentences"]
        versions = scored_by["versions"]["unbabel-comet"]
        record["signatures"]["comet"] = (
            f"unbabel-comet:{versions}|checkpoint:{scored_by['checkpoint_sha256'][:16]}|precision:{scored_by['precision']}"
        )
        start = end
    return scored_by


def _aligned(texts: dict[str, list[str]], direction: str, outputs: list[str]) -> tuple[list[str], list[str], list[str]]:
    source, target = direction.split("-")
    return texts[source], outputs, texts[target]
