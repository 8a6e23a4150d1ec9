"""One optimizer step of a 29.4M Qwen3 on the CPU: this trainer against transformers with sdpa and AdamW.

    python -m benchmarks.train_step                        # sequence 512, one thread
    python -m benchmarks.train_step --threads 4 --seq-length 2048 --documents 1

Read ratios: both sides start from the same weights, see the same tokens, and take their steps in turn, each in a process of
its own, so that what else the machine does meets both. CPU time of one thread says more than wall time where it is busy.
The losses of both are compared: they are the same model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from megatron_lmt.errors import run_command
from megatron_lmt.files import write_json_atomically

MODEL = {
    "model_type": "qwen3",
    "vocab_size": 16384,
    "hidden_size": 384,
    "intermediate_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
}
SIDES = ("ours", "transformers", "transformers, fused AdamW")
WARM_UP = 2


def main() -> None:
    arguments = _parse_arguments()
    with tempfile.TemporaryDirectory(prefix="train_step.") as folder:
        _write_model(Path(folder), arguments)
        steps = _take_turns(Path(folder), arguments)
    result = {"setting": vars(arguments) | {"model": MODEL}, "sides": {name: _medians(done) for name, done in steps.items()}}
    ours = result["sides"]["ours"]
    tokens = arguments.documents * arguments.seq_length
    print("| | tokens/s | CPU time of a step, s | times as fast as transformers, by wall time | by CPU time |")
    print("|---|---|---|---|---|")
    for name, side in result["sides"].items():
        theirs = steps["transformers"]
        side["ratio_wall"] = _paired_ratio(theirs, steps[name], "wall_s")
        side["ratio_cpu"] = _paired_ratio(theirs, steps[name], "cpu_s")
        ratios = f"{side['ratio_wall']:.3f} | {side['ratio_cpu']:.3f}"
        print(f"| {name} | {tokens / side['wall_s']:,.0f} | {side['cpu_s']:.3f} | {ratios} |")
    gap = max(abs(a["loss"] - b["loss"]) for a, b in zip(steps["ours"], steps["transformers"], strict=True))
    result["largest_loss_gap"] = gap
    print(f"largest difference of the losses over {len(steps['ours'])} steps: {gap:.1e}; last loss {ours['loss']:.4f}")
    if arguments.output:
        write_json_atomically(arguments.output, {**result, "setting": {k: str(v) for k, v in result["setting"].items()}})


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=15, help=f"counted, after {WARM_UP} others (default: 15)")
    parser.add_argument("--documents", type=int, default=4, help="in a batch (default: 4)")
    parser.add_argument("--seq-length", type=int, default=512, help="tokens of a document (default: 512)")
    parser.add_argument("--layers", type=int, default=MODEL["num_hidden_layers"], help="(default: 6)")
    parser.add_argument("--threads", type=int, default=1, help="of each side (default: 1)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="all figures as JSON")
    return parser.parse_args()


def _write_model(folder: Path, arguments: argparse.Namespace) -> None:
    """The model that both sides start from."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(**{**MODEL, "num_hidden_layers": arguments.layers})).save_pretrained(folder)


def _take_turns(folder: Path, arguments: argparse.Namespace) -> dict[str, list[dict]]:
    """Each side's steps, taken in turn: `wall_s`, `cpu_s`, `loss`."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    shape = [str(folder), str(arguments.documents), str(arguments.seq_length)]
    workers = {
        name: subprocess.Popen(
            [sys.executable, "-m", "benchmarks.train_step_sides", name, *shape],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in SIDES
    }
    steps: dict[str, list[dict]] = {name: [] for name in SIDES}
    for number in range(WARM_UP + arguments.steps):
        # who goes first changes, so that none always has the other's heat
        for name in SIDES if number % 2 else reversed(SIDES):
            workers[name].stdin.write("step\n")
            workers[name].stdin.flush()
            steps[name].append(json.loads(workers[name].stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return {name: done[WARM_UP:] for name, done in steps.items()}


def _medians(steps: list[dict]) -> dict[str, float]:
    medians = {key: statistics.median(step[key] for step in steps) for key in ("wall_s", "cpu_s")}
    return {**medians, "loss": steps[-1]["loss"]}


def _paired_ratio(theirs: list[dict], ours: list[dict], key: str) -> float:
    """The median over pairs of steps that were taken one after the other."""
    return statistics.median(b[key] / a[key] for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    run_command(main)
