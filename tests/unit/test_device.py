"""What the device says before anything starts."""

import subprocess
import sys

import pytest
import torch

from megatron_lmt.errors import MissingExtraError
from megatron_lmt.runtime.device import Device, open_device


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
        "preprocessing.records",
        "corpus.cpt",
        "data.indexed",
        "data.mixture",
        "sft.prompts",
    )
    hidden = "import sys; sys.modules.update(torch=None, megatron=None, transformer_engine=None)"
    imports = "; ".join(f"import megatron_lmt.{module}" for module in modules)
    subprocess.run([sys.executable, "-c", f"{hidden}; {imports}"], check=True)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_peak_for_mfu_is_that_of_the_gpu(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert Device("cuda", torch.device("cuda", 0)).peak_tflops == peak
    assert Device("cpu", torch.device("cpu")).peak_tflops is None
