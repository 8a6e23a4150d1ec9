"""The two sides of `train_step.py`, each in a process of its own: a step for every line on stdin, its figures on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

OPTIMIZER = {"lr": 1e-4, "weight_decay": 0.01}
BETAS, CLIP = (0.9, 0.999), 1.0


def main() -> None:
    side, folder, documents, seq_length = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    make = {"ours": _ours, "transformers": _transformers}[side.partition(",")[0]]
    step = make(folder, seq_length, *([side.endswith("fused AdamW")] if side != "ours" else []))
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    generator = torch.Generator().manual_seed(1)
    for _ in sys.stdin:
        tokens = torch.randint(vocab_size, (documents, seq_length + 1), generator=generator)
        wall, cpu = time.perf_counter(), time.process_time()
        loss = step(tokens[:, :-1], tokens[:, 1:])
        figures = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "loss": loss}
        print(json.dumps(figures), flush=True)


def _transformers(folder: Path, _seq_length: int, fused: bool) -> Callable[[torch.Tensor, torch.Tensor], float]:
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=BETAS, fused=fused or None, **OPTIMIZER)

    def step(tokens: torch.Tensor, labels: torch.Tensor) -> float:
        optimizer.zero_grad()
        logits = model(tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    return step


def _ours(folder: Path, seq_length: int) -> Callable[[torch.Tensor, torch.Tensor], float]:
    from megatron_lmt.config import RunConfig
    from megatron_lmt.data.batch import MicroBatch
    from megatron_lmt.log import silence_engine_warnings
    from megatron_lmt.model.hf_folder import SafetensorsFolder
    from megatron_lmt.model.hf_io import FolderTensors
    from megatron_lmt.model.shape import read_shape
    from megatron_lmt.runtime.device import open_device

    silence_engine_warnings()
    device, shape = open_device(), read_shape(folder)
    from megatron_lmt.model.qwen3 import build_model
    from megatron_lmt.model.weights import set_weights
    from megatron_lmt.runtime.optimizer import build_optimizer, build_scheduler, wrap_data_parallel
    from megatron_lmt.runtime.parallel import open_process_groups
    from megatron_lmt.step import Trainee

    run = RunConfig.model_validate(
        {
            "output_dir": ".",
            "model": {"hf_config": str(folder)},
            "data": {
                "tokenizer_type": "HuggingFaceTokenizer",
                "tokenizer_model": ".",
                "seq_length": seq_length,
                "mixture": {"random": {"weight": 1, "path": "."}},
            },
            "train": {"train_iters": 10**6, "micro_batch_size": 1, "global_batch_size": 1},
            "optimizer": {
                **OPTIMIZER,
                "adam_beta1": BETAS[0],
                "adam_beta2": BETAS[1],
                "clip_grad": CLIP,
                "lr_decay_style": "constant",
                "lr_warmup_fraction": 0.0,
            },
            "checkpoint": {"save_interval": 1},
        }
    )
    open_process_groups(run.parallel, device, seed=1)
    model = build_model(shape, run.parallel, device, False, True, True)
    set_weights(model, shape, FolderTensors(SafetensorsFolder(folder, shape)))
    chunks = wrap_data_parallel([model], run, device)
    optimizer = build_optimizer(chunks, run, bf16=False)
    trainee = Trainee(chunks, optimizer, build_scheduler(optimizer, run), device)

    def step(tokens: torch.Tensor, labels: torch.Tensor) -> float:
        documents, length = tokens.shape
        batch = MicroBatch(
            tokens=tokens.reshape(1, -1),
            labels=labels.reshape(1, -1),
            loss_mask=torch.ones(1, tokens.numel()),
            loss_slots=(2 * torch.arange(documents)).repeat_interleave(length)[None],
            cu_seqlens=torch.arange(documents + 1, dtype=torch.int32) * length,
            max_seqlen=length,
            num_samples=documents,
        )
        losses, _ = trainee.compute_gradients([batch], ())
        trainee.apply_gradients()
        trainee.scheduler.step(increment=1)
        return losses.mean

    return step


if __name__ == "__main__":
    main()
