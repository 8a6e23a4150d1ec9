"""Proof that two folders hold the same model: every tensor by its hash, and logits on text of several languages.

The hashes show that every number arrived, the logits that transformers and the trainer make the same of them. What they
may differ by, and why, is in docs/conversion.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from megatron_lmt.conversion.companions import check_text_tokenizer
from megatron_lmt.conversion.layers_hf import logits_of_hf
from megatron_lmt.conversion.layers_mcore import logits_of_mcore
from megatron_lmt.conversion.mcore_model import McoreModel
from megatron_lmt.conversion.pieces import model_pieces
from megatron_lmt.errors import CheckpointError
from megatron_lmt.model.bits import BITS, as_bytes
from megatron_lmt.model.hf_folder import SafetensorsFolder
from megatron_lmt.model.shape import ModelShape, read_shape

TEXTS = {
    "en": "The committee met on Thursday and spoke for two hours about water and bread.",
    "zh": "委员会星期四开会，谈了两个小时的水和面包。",
    "de": "Der Ausschuss tagte am Donnerstag und sprach zwei Stunden über Wasser und Brot.",
    "fr": "Le comité s'est réuni jeudi et a parlé pendant deux heures de l'eau et du pain.",
    "ru": "Комитет собрался в четверг и два часа говорил о воде и хлебе.",
    "ar": "اجتمعت اللجنة يوم الخميس وتحدثت ساعتين عن الماء والخبز.",
    "hi": "समिति की बैठक गुरुवार को हुई और उसने दो घंटे पानी और रोटी पर बात की।",
    "ja": "委員会は木曜日に開かれ、水とパンについて二時間話し合った。",
    "th": "คณะกรรมการประชุมกันในวันพฤหัสบดีและพูดคุยเรื่องน้ำและขนมปังสองชั่วโมง",
    "ko": "위원회는 목요일에 모여 두 시간 동안 물과 빵에 대해 이야기했다.",
}


@dataclass(frozen=True)
class Tolerance:
    """Largest and mean difference in standard deviations of the logits; smallest cosine and share of equal first tokens."""

    max_difference: float
    mean_difference: float
    cosine: float
    top1: float


TOLERANCES = {
    "float32": Tolerance(max_difference=1e-3, mean_difference=1e-4, cosine=0.999999, top1=0.99),
    "bfloat16": Tolerance(max_difference=0.5, mean_difference=0.05, cosine=0.999, top1=0.9),
}


@dataclass(frozen=True)
class Agreement:
    """How two models' logits compare; differences are in standard deviations of the logits."""

    text: str
    positions: int
    max_difference: float
    mean_difference: float
    cosine: float
    top1: float

    def fits(self, tolerance: Tolerance) -> bool:
        """False for NaN as well."""
        return (
            self.max_difference <= tolerance.max_difference
            and self.mean_difference <= tolerance.mean_difference
            and self.cosine >= tolerance.cosine
            and self.top1 >= tolerance.top1
        )


def prove(hf: Path, mcore: Path, shape: ModelShape, dtype: str) -> list[str]:
    """Compare hashes and logits; returns lines that say what was compared.

    Args:
        mcore: folder of the checkpoint itself.
        shape: the checkpoint's.
        dtype: to compute logits in.
    Raises:
        CheckpointError: the two are not the same model.
    """
    lines = [
        f"{verify_tensors(hf, mcore, shape)} tensors have the same SHA-256 in {mcore.name} and in the Hugging Face folder"
    ]
    return lines + verdict(compare_logits(hf, mcore, shape, dtype), dtype)


def verify_tensors(hf: Path, mcore: Path, shape: ModelShape) -> int:
    """Compare every tensor's hash; returns how many there are.

    Args:
        shape: the checkpoint's.
    Raises:
        CheckpointError: some differ; they are listed.
    """
    exported, model = SafetensorsFolder(hf, read_shape(hf)), McoreModel(mcore, shape)
    hashes: dict[str, tuple] = {}
    for piece in model_pieces(read_shape(hf), BITS[model.dtype].itemsize):
        rows = model.rows(piece.parameter, piece.start, piece.stop)
        for segment, part in piece.to_hf(rows):
            ours, theirs = hashes.setdefault(segment.tensor, (hashlib.sha256(), hashlib.sha256()))
            ours.update(as_bytes(part))
            theirs.update(as_bytes(exported.rows(segment.tensor, segment.start, segment.stop)))
    different = [name for name, (ours, theirs) in hashes.items() if ours.digest() != theirs.digest()]
    if different or exported.dtype != model.dtype:
        raise CheckpointError([f"{hf}: {name} is not what {mcore} holds" for name in different] or ["the dtypes differ"])
    return len(hashes)


def compare_logits(hf: Path, mcore: Path, shape: ModelShape, dtype: str) -> list[Agreement]:
    """Logits of both on text of several languages, tokenised as the Hugging Face folder says; the last line is for all.

    Raises:
        CheckpointError: there is no tokenizer.
    """
    check_text_tokenizer(hf)
    tokenizer = Tokenizer.from_file(str(hf / "tokenizer.json"))
    longest = min(shape.max_position_embeddings, 512)
    texts = [torch.tensor(tokenizer.encode(text).ids[:longest]) for text in TEXTS.values()]
    theirs = logits_of_hf(hf, texts, getattr(torch, dtype))
    ours = logits_of_mcore(mcore, shape, texts, getattr(torch, dtype))
    by_text = [_agreement(*pair) for pair in zip(TEXTS, ours, theirs, strict=True)]
    return [*by_text, _agreement("all", torch.cat(ours), torch.cat(theirs))]


def _agreement(text: str, ours: torch.Tensor, theirs: torch.Tensor) -> Agreement:
    difference = (ours - theirs).abs() / theirs.std()
    return Agreement(
        text=text,
        positions=len(theirs),
        max_difference=difference.max().item(),
        mean_difference=difference.mean().item(),
        cosine=torch.nn.functional.cosine_similarity(ours.double(), theirs.double(), dim=-1).min().item(),
        top1=(ours.argmax(-1) == theirs.argmax(-1)).double().mean().item(),
    )


def verdict(agreements: Sequence[Agreement], dtype: str) -> list[str]:
    """A table of agreements. The last one, over all texts, decides.

    Raises:
        CheckpointError: logits differ by more than the tolerance; the table is in the message.
    """
    tolerance, deciding = TOLERANCES[dtype], agreements[-1]
    allowed = Agreement("limit", deciding.positions, **asdict(tolerance))
    lines = ["text   positions  max difference  mean difference      cosine  top-1"]
    for a in (*agreements, allowed):
        lines.append(
            f"{a.text:<5}  {a.positions:>9}  {a.max_difference:>14.2e}  {a.mean_difference:>15.2e}  {a.cosine:>10.8f}  "
            f"{a.top1:>5.3f}"
        )
    if not deciding.fits(tolerance):
        raise CheckpointError("\n".join(["the logits are not the same, the conversion is wrong:", *lines]))
    return [*lines, f"the same logits, computed in {dtype}"]
