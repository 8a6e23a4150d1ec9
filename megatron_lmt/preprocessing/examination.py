"""What a run needs to know before its work: is everything in order, what is the tokenizer, and which engine may be used.

Cost: Hugging Face's library and gigatoken take half a second each to open; a process beside this one opens the former.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from megatron_lmt.data.indexed import existing_files
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import Problems
from megatron_lmt.pool import process_pool
from megatron_lmt.preprocessing.engines import Trial, choose_engine, forget_engines, may_be_gigatoken, open_early, trial
from megatron_lmt.preprocessing.inputs import Input, input_problems
from megatron_lmt.preprocessing.manifest import description
from megatron_lmt.preprocessing.recipe import Recipe
from megatron_lmt.preprocessing.resume import resume_problems, unasked_shards
from megatron_lmt.preprocessing.tokenising import first_texts


@dataclass(frozen=True)
class Examined:
    """`described` by manifest.py; `right` ids to try an engine with, if one may be tried."""

    described: dict
    right: Trial | None


def examine(
    recipe: Recipe, outputs: dict[Path, list[Input]], workers: int, max_bad_lines: int, resume: bool, engine: str
) -> tuple[dict, str]:
    """What manifest.py says of recipe and tokenizer, and the engine to use. Arguments are those of `preprocess`.

    Raises:
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
    tried = list(outputs.values()) if not problems.found and may_be_gigatoken(engine, recipe) else None
    with _beside(workers, examine_tokenizer, recipe, tried) as result:
        open_early(engine, recipe)
        examined = problems.of(result)
    sound = not problems.found  # only then is it known what the outputs should be
    for prefix, inputs in outputs.items():
        if not resume:
            problems.found += existing_files(prefix) + unasked_shards(prefix)
        elif sound:
            problems.found += resume_problems(prefix, inputs, examined.described)
    problems.raise_if_any()
    return examined.described, choose_engine(engine, recipe, examined.right)


def examine_tokenizer(recipe: Recipe, sources: list[list[Input]] | None) -> Examined:
    """
    Args:
        sources: those of the run; None where there is no engine to try.
    Raises:
        UserError: it is not there, not of this type, or has no end-of-document token and needs one.
    """
    tokenizer = load_tokenizer(recipe.tokenizer_type, recipe.tokenizer_model)
    described = description(recipe, tokenizer)
    if sources is None:
        return Examined(described, None)
    return Examined(described, trial(tokenizer, recipe.recognises_special, first_texts(recipe, sources)))


@contextmanager
def _beside(workers: int, function: Callable, *arguments) -> Iterator[Callable]:
    """What gives the result of a call, which a process of its own makes meanwhile; with one worker, this one when asked."""
    if workers <= 1:
        yield partial(function, *arguments)
        return
    with process_pool(1, "the process that opens the tokenizer died (out of memory?)") as pool:
        yield pool.submit(function, *arguments).result
