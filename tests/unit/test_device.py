"""What the device says before anything starts."""

import subprocess
import sys

import pytest
import torch

from megatron_lmt.errors import MissingExtraError
from megatron_lmt.runtime.device import open_device


def test_a_gpu_without_transformer_engine_names_the_pip_command(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("megatron_lmt.runtime.device.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install --no-build-isolation -e '\.\[gpu\]'"):
        open_device()


def test_base_import_needs_neither_torch_nor_gpu_packages():
    modules = (
        "config",
        "languages",
        "errors",
        "data.records",
        "data.corpus",
        "data.indexed",
        "data.mixture",
        "data.prompts",
    )
    hidden = "import sys; sys.modules.update(torch=None, megatron=None, transformer_engine=None)"
    imports = "; ".join(f"import megatron_lmt.{module}" for module in modules)
    subprocess.run([sys.executable, "-c", f"{hidden}; {imports}"], check=True)
