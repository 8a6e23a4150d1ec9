# Environment of every training process: NCCL, Transformer Engine, PyTorch. What is set already, at submission, stays.
# shellcheck shell=bash

# Megatron's order of communication and computation relies on one hardware queue
export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}
export PYTHONUNBUFFERED=1
# a segmentation fault shows the Python stack
export PYTHONFAULTHANDLER=1

# a failed collective ends its process instead of leaving it waiting
export TORCH_NCCL_ASYNC_ERROR_HANDLING=${TORCH_NCCL_ASYNC_ERROR_HANDLING:-1}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# the interfaces between nodes, where NCCL or gloo choose wrong ones
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
# export NCCL_IB_HCA=mlx5
