"""A loss that is not a number: the step is skipped, its samples are named, and the weights stay as they were."""

import math
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_lmt.config import load_run
from megatron_lmt.preflight import check_run
from megatron_lmt.replay import replay_step
from tests.conftest import TINY_MODEL, make_run
from tests.end_to_end.processes import metrics, run, tool, train, training_command
from tests.end_to_end.test_convert import make_hf_model

START = ("model.hf_config=poisoned", "model.pretrained_checkpoint=poisoned")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    """A run file beside a model whose embedding of one token is not a number."""
    folder = tmp_path_factory.mktemp("faults")
    run_file = make_run(folder, quickstart_tokenizer, tiny_tokens)
    make_hf_model(folder / "poisoned", quickstart_tokenizer, tie_word_embeddings=False)
    return run_file


def tokens_of_steps(run_file):
    """The tokens that each sample of each step of the run puts into the model."""
    ready = check_run(load_run(run_file, list(START)), 1)
    readers = [ready.readers[source.name] for source in ready.plan.sources]

    def tokens(sample):
        return {
            int(token)
            for document, start, stop in sample.pieces.tolist()
            for token in readers[sample.source].document(document)[start:stop]
        }

    return [[tokens(sample) for sample in replay_step(ready, step).samples] for step in range(1, 21)]


def poison(run_file, token, value):
    file = run_file.parent / "poisoned" / "model.safetensors"
    weights = load_file(file)
    weights["model.embed_tokens.weight"] = torch.full((TINY_MODEL["vocab_size"], TINY_MODEL["hidden_size"]), 0.02)
    weights["model.embed_tokens.weight"][token] = value
    save_file(weights, file, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def poisoned_steps(run_file):
    """Poison a token that is in few steps; returns these steps, each with the numbers of its samples with the token."""
    steps = tokens_of_steps(run_file)
    present = np.zeros((20, TINY_MODEL["vocab_size"]), dtype=int)
    for step, samples in enumerate(steps):
        for tokens in samples:
            present[step, sorted(tokens)] = 1
    # not 0, which fills the padding
    token = next(t for t in range(1, TINY_MODEL["vocab_size"]) if 2 <= present[:, t].sum() <= 3 and not present[9, t])
    poison(run_file, token, math.nan)
    return {
        step + 1: {8 * step + i for i, tokens in enumerate(samples) if token in tokens}
        for step, samples in enumerate(steps)
        if present[step, token]
    }


@pytest.mark.parametrize("layout", [(1,), (2, "parallel.pipeline_model_parallel_size=2")], ids=["alone", "PP2"])
def test_steps_with_a_bad_loss_are_skipped_and_their_samples_named(run_file, poisoned_steps, layout):
    processes, *overrides = layout
    name = f"skips-{processes}-{len(overrides)}"
    output = train(run_file, processes, *START, f"output_dir={name}", *overrides)
    steps = metrics(run_file.parent / name)
    assert [step["iteration"] for step in steps if step["lm_loss"] is None] == list(poisoned_steps)
    assert steps[-1]["skipped_iterations"] == len(poisoned_steps) and len(steps) == 20
    named = set(map(int, re.findall(r"sample (\d+) \| \S+ \| loss nan", output)))
    assert named == set.union(*poisoned_steps.values())
    assert all(math.isfinite(step["grad_norm"]) for step in steps if step["iteration"] not in poisoned_steps)
    first = next(iter(poisoned_steps))
    assert f"iteration {first} is skipped: the loss is nan" in output
    assert output.count("is skipped: ") == len(poisoned_steps)  # one process speaks for all
    # the command that the log offers shows the documents that it names
    command = re.search(rf"tools/(inspect_data.py) (step) (\S+) ({first})\n", output).groups()
    shown = tool(*command, *START, f"output_dir={name}")
    for number, documents in re.findall(r"sample (\d+) \| \S+ \| loss nan \| documents ([\d, ]+)", output):
        if int(number) in poisoned_steps[first]:
            block = shown.split(f"\nsample {number}")[1].split("\nsample ")[0]
            assert set(re.findall(r"document (\d+),", block)) == set(documents.split(", "))


def test_a_skipped_step_leaves_the_weights_as_they_were(run_file, poisoned_steps):
    skipped = next(iter(poisoned_steps))
    overrides = ("output_dir=saved", f"train.train_iters={skipped}", f"checkpoint.save_interval={skipped - 1}")
    train(run_file, 1, *START, *overrides)
    folder, exported = run_file.parent, []
    arguments = ("--allow-nan", "--loader", "mcore", "--saver", "hf")
    for iteration in (skipped - 1, skipped):
        source, target = folder / f"saved/checkpoints/iter_{iteration:07}", folder / f"export-{iteration}"
        tool("checkpoint/convert.py", *arguments, "--load-dir", source, "--save-dir", target)
        exported.append(load_file(target / "model.safetensors"))
    before, after = exported
    assert all(torch.equal(before[name].nan_to_num(7.0), after[name].nan_to_num(7.0)) for name in before)


def test_what_was_skipped_is_counted_on_after_a_resume(run_file, poisoned_steps):
    first, run_dir = next(iter(poisoned_steps)), run_file.parent / "resumed"
    overrides = (*START, "output_dir=resumed", f"checkpoint.save_interval={first}")
    train(run_file, 1, *overrides)
    whole = metrics(run_dir)
    (run_dir / "DONE").unlink()
    for later in sorted((run_dir / "checkpoints").glob("iter_*"))[1:]:
        shutil.rmtree(later)
    assert f"resumed from {run_dir}/checkpoints/iter_{first:07}" in train(run_file, 1, *overrides)
    for key in ("skipped_iterations", "lm_loss"):
        assert [step[key] for step in metrics(run_dir)] == [step[key] for step in whole]


def test_too_many_in_a_row_end_the_run(run_file, poisoned_steps):
    everywhere = TINY_MODEL["vocab_size"]
    poison(run_file, slice(0, everywhere), math.inf)
    saving = ("checkpoint.save_interval=2", "checkpoint.async_save=true")
    overrides = (*START, "output_dir=stopped", "train.max_skipped_iterations=3", *saving)
    output = run(training_command(run_file, 2, *overrides), code=1)
    assert output.count("iteration 3: 3 iterations in a row were skipped (train.max_skipped_iterations)") == 1
    checkpoints = run_file.parent / "stopped/checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["iter_0000002"]  # what was being written is not lost
    assert [step["skipped_iterations"] for step in metrics(run_file.parent / "stopped")] == [1, 2, 3]
    # without a step of the optimizer until then: it can be loaded, too
    output = run(training_command(run_file, 1, *overrides[:-1]), code=2)
    assert "resumed from" in output and "iteration 3: 3 iterations in a row were skipped" in output


def test_a_gradient_that_is_not_finite_is_not_applied(run_file):
    """The token of the padding: it has no loss, but its gradient reaches every weight."""
    poison(run_file, 0, math.nan)
    output = train(run_file, 1, *START, "output_dir=gradient", "train.max_skipped_iterations=2", code=2)
    assert "is skipped: the gradient norm is nan" in output
