"""Started by test_convert: the logits of FOLDER/hf on FOLDER/tokens.pt under TP = PP = SIZE, written to FOLDER/logits.pt."""

import sys
from pathlib import Path

import torch

from megatron_lmt.config import ParallelSection
from megatron_lmt.model.hf_folder import SafetensorsFolder
from megatron_lmt.model.hf_io import FolderTensors
from megatron_lmt.model.shape import read_shape
from megatron_lmt.runtime.device import open_device

folder, size = Path(sys.argv[1]), int(sys.argv[2])
device = open_device()

import torch.distributed as dist  # noqa: E402
from megatron.core import parallel_state  # noqa: E402
from megatron.core.pipeline_parallel import get_forward_backward_func  # noqa: E402

from megatron_lmt.model.qwen3 import build_model, packed_seq_params  # noqa: E402
from megatron_lmt.model.weights import set_weights  # noqa: E402
from megatron_lmt.runtime.parallel import is_first_stage, is_last_stage, open_process_groups  # noqa: E402

parallel = ParallelSection(tensor_model_parallel_size=size, pipeline_model_parallel_size=size, sequence_parallel=size > 1)
open_process_groups(parallel, device, seed=1)
shape = read_shape(folder / "hf")
model = build_model(shape, parallel, device, False, is_first_stage(), is_last_stage())
set_weights(model, shape, FolderTensors(SafetensorsFolder(folder / "hf", shape)))
tokens = torch.load(folder / "tokens.pt")
length = tokens.shape[1]


def forward(_, model):
    boundaries = torch.tensor([0, length], dtype=torch.int32)
    output = model(tokens, None, None, packed_seq_params=packed_seq_params(boundaries, length))
    return output, lambda logits: (logits.sum(), torch.tensor(length), {"logits": logits})


with torch.no_grad():
    results = get_forward_backward_func()(
        forward_step_func=forward,
        data_iterator=iter([None]),
        model=[model],
        num_microbatches=1,
        seq_length=length,
        micro_batch_size=1,
        forward_only=True,
    )
if results:
    mine = results[0]["logits"].contiguous()
    parts = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(parts, mine, group=parallel_state.get_tensor_model_parallel_group())
    if parallel_state.get_tensor_model_parallel_rank() == 0:
        torch.save(torch.cat(parts, dim=-1)[..., : shape.vocab_size], folder / "logits.pt")
dist.barrier()
