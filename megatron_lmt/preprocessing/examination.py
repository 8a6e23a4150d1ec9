"""What a run needs to know before its work: is everything in order, what is the tokenizer, and which engine may be used.

Cost: gigatoken takes a quarter of a second to open, Hugging Face's library too, and the hash of the tokenizer a tenth of
one; processes beside this one do the latter two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from megatron_lmt.data.indexed import existing_files
from megatron_lmt.data.tokenizer import Tokenizer, load_tokenizer
from megatron_lmt.errors import Problems
from megatron_lmt.pool import process_pool
from megatron_lmt.preprocessing.engines import Trial, choose_engine, forget_engines, may_be_gigatoken, open_early, trial
from megatron_lmt.preprocessing.inputs import Input, input_problems
from megatron_lmt.preprocessing.manifest import description
from megatron_lmt.preprocessing.recipe import Recipe
from megatron_lmt.preprocessing.resume import resume_problems, unasked_shards
from megatron_lmt.preprocessing.tokenising import first_texts


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
    may_be_tried = not problems.found and may_be_gigatoken(engine, recipe)
    with _beside(workers) as beside:
        description = beside(describe, recipe)
        right = beside(right_ids, recipe, list(outputs.values())) if may_be_tried else None
        open_early(engine, recipe)
        described = problems.of(description)
        right = problems.of(right) if described and right else None
    sound = not problems.found  # only then is it known what the outputs should be
    for prefix, inputs in outputs.items():
        if not resume:
            problems.found += existing_files(prefix) + unasked_shards(prefix)
        elif sound:
            problems.found += resume_problems(prefix, inputs, described)
    problems.raise_if_any()
    return described, choose_engine(engine, recipe, right)


def describe(recipe: Recipe) -> dict:
    """What manifest.py says of recipe and tokenizer.

    Raises:
        UserError: the tokenizer is not there, not of this type, or has no end-of-document token and needs one.
    """
    return description(recipe, _tokenizer(recipe))


def right_ids(recipe: Recipe, sources: list[list[Input]]) -> Trial:
    """What an engine must make of some texts, among them some of these sources.

    Raises:
        UserError: as `describe`.
    """
    return trial(_tokenizer(recipe), recipe.recognises_special, first_texts(recipe, sources))


@cache
def _tokenizer(recipe: Recipe) -> Tokenizer:
    return load_tokenizer(recipe.tokenizer_type, recipe.tokenizer_model)


@contextmanager
def _beside(workers: int) -> Iterator[Callable]:
    """A function that begins a call and gives what waits for its result.

    Up to two processes beside this one do the calls; with one worker this one does, when the result is asked for.
    """
    if workers <= 1:
        yield partial
        _tokenizer.cache_clear()
        return
    died = "the process that opens the tokenizer died (out of memory?)"
    with process_pool(min(2, workers - 1), died, one_thread_each=False) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result
