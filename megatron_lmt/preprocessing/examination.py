"""What a run needs to know before its work: is everything in order, what is the tokenizer, and which engine may be used.

Cost: gigatoken takes a quarter of a second to open, Hugging Face's library too, and the hash of the tokenizer a tenth of
one; processes beside this one do the latter two, and tokenising does not wait for the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from megatron_lmt.data.indexed import existing_files
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import Problems
from megatron_lmt.pool import call_beside
from megatron_lmt.preprocessing.engines import (
    GIGATOKEN,
    STANDARD,
    Trial,
    choose_engine,
    forget_engines,
    may_be_gigatoken,
    open_early,
    open_engine_once,
    trial,
)
from megatron_lmt.preprocessing.inputs import Input, input_problems
from megatron_lmt.preprocessing.manifest import description
from megatron_lmt.preprocessing.recipe import Recipe
from megatron_lmt.preprocessing.resume import resume_problems, unasked_shards
from megatron_lmt.preprocessing.tokenising import first_texts


@dataclass(frozen=True)
class Examined:
    """A run that may begin: what manifest.py says of recipe and tokenizer, and the engine that is open. `prove` waits for
    the end of its trial and gives the engine to use; it is given what calls a function, as `Workers.call` does."""

    described: dict
    engine: str
    prove: Callable[[Callable], str]


@contextmanager
def examining(
    recipe: Recipe, outputs: dict[Path, list[Input]], workers: int, max_bad_lines: int, resume: bool, engine: str
) -> Iterator[Callable[[], Examined]]:
    """Begin to examine a run, and open its engine. Arguments are those of `preprocess`.

    Returns:
        what waits for the end, but not for the trial of the engine.
    Raises (when that is called):
        UserError: all that is wrong.
    """
    forget_engines()
    problems = Problems()
    problems.found += recipe.problems()
    if workers < 1:
        problems.found.append(f"--workers {workers}: at least 1")
    if max_bad_lines < 0:
        problems.found.append(f"--max-bad-lines {max_bad_lines}: at least 0")
    for inputs in outputs.values():
        problems.found += input_problems(inputs, recipe.json_keys)
    tried = problems.of(may_be_gigatoken, engine, recipe) and not problems.found

    def examined() -> Examined:
        described = problems.of(description)
        if described and not opened:
            problems.of(open_engine_once, recipe, STANDARD)
        sound = not problems.found  # only then is it known what the outputs should be
        for prefix, inputs in outputs.items():
            if not resume:
                problems.found += existing_files(prefix) + unasked_shards(prefix)
            elif sound:
                problems.found += resume_problems(prefix, inputs, described)
        problems.raise_if_any()
        return Examined(described, opened, lambda call: call(choose_engine, engine, recipe, right()) if tried else STANDARD)

    with (
        _beside(workers, describe, recipe) as description,
        _beside(workers, right_ids, recipe, list(outputs.values())) if tried else nullcontext() as right,
    ):
        opened = open_early((GIGATOKEN, STANDARD) if tried else (STANDARD,), recipe)
        yield examined


def describe(recipe: Recipe) -> dict:
    """What manifest.py says of recipe and tokenizer.

    Raises:
        UserError: the tokenizer is not there, not of this type, or has no end-of-document token and needs one.
    """
    return description(recipe, load_tokenizer(recipe.tokenizer_type, recipe.tokenizer_model, for_text=False))


def right_ids(recipe: Recipe, sources: list[list[Input]]) -> Trial:
    """What an engine must make of some texts, among them some of these sources.

    Raises:
        UserError: as `describe`.
    """
    return trial(recipe, first_texts(recipe, sources))


@contextmanager
def _beside(workers: int, function: Callable, *arguments) -> Iterator[Callable]:
    """What gives the result of a call, which a process of its own makes meanwhile; with one worker, this one when asked."""
    if workers <= 1:
        yield partial(function, *arguments)
        return
    with call_beside("the process that opens the tokenizer died (out of memory?)", function, *arguments) as result:
        yield result
