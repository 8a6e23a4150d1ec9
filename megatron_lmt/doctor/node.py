"""What one node can see: disk, limits of the kernel, data, versions, GPUs. Each check returns a finding."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import resource
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import megatron_lmt
from megatron_lmt.data.indexed import manifest_path
from megatron_lmt.estimate import estimate
from megatron_lmt.preflight import ReadyRun
from megatron_lmt.runtime.retention import space_needed

WRITTEN_BYTES = 128 << 20
SLOW_CHECKPOINT_SECONDS = 600
MAPS_OF_LIBRARIES = 2000
"""Memory maps that Python, torch and CUDA take themselves; about 1,000 were seen with the CPU build."""
PACKAGES = ("torch", "megatron-core", "numpy", "transformer-engine")


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` is what to do, or None if nothing is."""

    text: str
    fix: str | None = None

    def __str__(self) -> str:
        return f"ok    {self.text}" if self.fix is None else f"MEND  {self.text}: {self.fix}"


def examine(ready: ReadyRun, world_size: int) -> list[Finding]:
    """All checks of this node; files written on the way are removed."""
    return [
        *_disk(ready),
        _memory_maps(ready),
        _open_files(ready),
        *_gpus(ready, world_size),
    ]


def facts(ready: ReadyRun) -> dict[str, str]:
    """What must be the same on all nodes."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "code of megatron_lmt": _hash_of(sorted(Path(megatron_lmt.__file__).parent.rglob("*.py"))),
        "manifests of the data": _hash_of([manifest_path(source.prefix) for source in ready.plan.sources]),
        "GPUs": ", ".join(sorted({torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())})) or "none",
        "newest checkpoint": str(ready.resume_from),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _hash_of(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _disk(ready: ReadyRun) -> list[Finding]:
    """Room for a checkpoint that the file system, quotas included, really grants, and how fast it is written."""
    folder = next(part for part in (ready.run.output_dir, *ready.run.output_dir.parents) if part.exists())
    space = space_needed(ready.run, ready.shape)
    try:
        probe = os.open(folder, os.O_TMPFILE | os.O_WRONLY)  # has no name, so nothing can stay behind
    except OSError as error:
        return [Finding(f"output folder {folder}", f"it cannot be written: {error.strerror}")]
    try:
        reserved = _reserve(probe, space.checkpoint_bytes, folder)
        os.ftruncate(probe, 0)
        return [Finding(f"disk of {folder}: {space}"), reserved, _write_speed(probe, space.checkpoint_bytes, folder)]
    finally:
        os.close(probe)


def _reserve(file: int, size: int, folder: Path) -> Finding:
    allocate = ctypes.CDLL(None, use_errno=True).fallocate
    allocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    text = f"quota: room for one checkpoint of {size / 1e9:,.1f} GB"
    if allocate(file, 0, 0, size) == 0:
        return Finding(text)
    code = ctypes.get_errno()
    if code in (errno.EOPNOTSUPP, errno.ENOSYS):
        return Finding(f"{text}: cannot be tried on this file system, see `quota` or `lfs quota` for yours")
    return Finding(text, f"{folder} refuses it ({os.strerror(code)}); make room or ask for more quota")


def _write_speed(file: int, checkpoint_bytes: int, folder: Path) -> Finding:
    block = os.urandom(1 << 20)  # not zeros, which some file systems do not write
    began = time.perf_counter()
    try:
        for _ in range(WRITTEN_BYTES // len(block)):
            os.write(file, block)
        os.fsync(file)
    except OSError as error:
        return Finding(f"writing to {folder}", f"{error.strerror} after some MB; make room or ask for more quota")
    speed = WRITTEN_BYTES / (time.perf_counter() - began)
    seconds = checkpoint_bytes / speed
    text = f"writing: {speed / 1e6:,.0f} MB/s from one process, {seconds:,.0f} s for a checkpoint if it were alone"
    slow = f"{folder} is slow; name another output_dir, or save more rarely"
    return Finding(text, slow if seconds > SLOW_CHECKPOINT_SECONDS else None)


def _memory_maps(ready: ReadyRun) -> Finding:
    needed = 2 * _num_sources(ready) + MAPS_OF_LIBRARIES
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    text = f"memory maps of a process: about {needed:,} needed, {limit:,} allowed"
    return Finding(text, None if needed <= limit else f"as root: sysctl -w vm.max_map_count={2 * needed}")


def _open_files(ready: ReadyRun) -> Finding:
    needed = 2 * _num_sources(ready) + 500
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"open files of a process: about {needed:,} needed, {limit:,} allowed"
    fits = limit == resource.RLIM_INFINITY or needed <= limit
    return Finding(text, None if fits else f"raise the hard limit: ulimit -Hn {2 * needed}, or LimitNOFILE of slurmd")


def _num_sources(ready: ReadyRun) -> int:
    return len(ready.readers) + len(ready.validation_readers)


def _gpus(ready: ReadyRun, world_size: int) -> list[Finding]:
    if not torch.cuda.is_available():
        return [Finding("no GPU here: the run will train on the CPU")]
    findings = []
    needed = estimate(ready.run, ready.shape, world_size).memory.total
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        text = f"GPU {number}, {torch.cuda.get_device_name(number)}: {free / 1e9:,.1f} of {total / 1e9:,.1f} GB free"
        fix = None
        if free < 0.95 * total:
            fix = "something else uses it; end that, or exclude the node (sbatch --exclude)"
        elif needed > total:
            fix = f"the run needs about {needed / 1e9:,.1f} GB; more tensor parallelism or a smaller micro_batch_size"
        findings.append(Finding(text, fix))
    return findings
