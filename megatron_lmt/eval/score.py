"""Scores of a direction by sacreBLEU: BLEU, chrF++ and, with its model file, spBLEU; each with its signature."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from megatron_lmt.errors import ConfigError, MissingExtraError
from megatron_lmt.extras import import_extra

COMET_UNCOVERED = ("bo", "mvf", "tg", "yue")
"""Languages that XLM-R, the encoder of COMET-22, was not trained on: COMET scores of their directions say little."""


class Scorer:
    """BLEU and chrF++ of corpora, and spBLEU where there is a model for it.

    BLEU's tokenizer is sacreBLEU's choice for the target language: `zh` for zh, MeCab for ja and ko, `13a` else. That is the
    setting LMT's published scores point to (they give my, km, lo and th as little as 13a does).

    Args:
        spbleu_model: the SentencePiece model of spBLEU (flores200_sacrebleu_tokenizer_spm.model).
    Raises:
        ConfigError: not a SentencePiece model.
        MissingExtraError: sacreBLEU, or MeCab for it, is not installed.
    """

    def __init__(self, spbleu_model: Path | None = None):
        self._metrics = import_extra("sacrebleu.metrics", "eval", "scoring")
        self._pieces = _load_pieces(spbleu_model) if spbleu_model else None
        self._model_hash = sha256(spbleu_model.read_bytes()).hexdigest()[:16] if spbleu_model else ""

    def check(self, targets: set[str]) -> None:
        """Raise what would be raised for these target languages, before hours of translation."""
        for target in sorted(targets):
            self._bleu(target)

    def scores(self, target: str, translations: list[str], references: list[str]) -> tuple[dict, dict]:
        """Name → score from 0 to 100, and name → signature, of one direction.

        Args:
            target: language code.
            references: as many as there are translations.
        """
        metrics = {"bleu": self._bleu(target), "chrf++": self._metrics.CHRF(word_order=2)}
        scores = {name: metric.corpus_score(translations, [references]).score for name, metric in metrics.items()}
        signatures = {name: str(metric.get_signature()) for name, metric in metrics.items()}
        if self._pieces:
            # the pieces of the given file, where sacreBLEU's own tokenizer of that name would download one
            metric = self._metrics.BLEU(tokenize="none", force=True)
            pieces = [[" ".join(self._pieces.EncodeAsPieces(text)) for text in side] for side in (translations, references)]
            scores["spbleu"] = metric.corpus_score(pieces[0], [pieces[1]]).score
            signatures["spbleu"] = str(metric.get_signature()).replace("tok:none", f"tok:spm-{self._model_hash}")
        return scores, signatures

    def _bleu(self, target: str):
        try:
            return self._metrics.BLEU(trg_lang=target)
        except RuntimeError as error:  # what sacreBLEU raises where MeCab is absent
            raise MissingExtraError(f"sacrebleu[{target}]", "eval", f"BLEU of {target}") from error


def _load_pieces(model: Path):
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{model}: no SentencePiece model ({' '.join(str(error).split())})") from None
