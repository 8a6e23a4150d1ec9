"""sacreBLEU's scores, with the tokenizer of the target, and spBLEU from a given model."""

import pytest

from megatron_lmt.errors import ConfigError
from megatron_lmt.eval.score import COMET_UNCOVERED, Scorer
from megatron_lmt.languages import languages
from tests.conftest import LINES

pytest.importorskip("sacrebleu", reason="scoring needs the extra [eval]")


@pytest.mark.parametrize(
    ("target", "tokenizer"),
    [("zh", "zh"), ("yue", "13a"), ("de", "13a"), ("bo", "13a"), ("ja", "ja-mecab"), ("ko", "ko-mecab")],
)
def test_the_signature_names_the_tokenizer(target, tokenizer):
    if target in ("ja", "ko"):
        pytest.importorskip("MeCab" if target == "ja" else "mecab_ko", reason="its BLEU needs the extra [eval]")
    scores, signatures = Scorer().scores(target, LINES, LINES)
    assert scores["bleu"] == pytest.approx(100) and scores["chrf++"] == pytest.approx(100)
    assert f"tok:{tokenizer}" in signatures["bleu"] and "version:" in signatures["bleu"]
    assert "nw:2" in signatures["chrf++"]
    assert "spbleu" not in scores


def test_golden_values():
    references = ["the cat sat on the mat today", "a dog barked at night in the street"]
    translations = ["the cat sat on a mat today", "a dog barked at night in the road"]
    scores, _ = Scorer().scores("en", translations, references)
    # n-gram precisions 13/15, 10/13, 7/11, 5/9, by hand
    assert scores["bleu"] == pytest.approx(100 * (13 / 15 * 10 / 13 * 7 / 11 * 5 / 9) ** 0.25)


def test_spbleu_is_bleu_of_the_given_models_pieces(tmp_path):
    import sentencepiece

    text = tmp_path / "text.txt"
    text.write_text("\n".join(LINES * 5), encoding="utf-8")
    prefix = tmp_path / "spm"
    sentencepiece.SentencePieceTrainer.train(input=str(text), model_prefix=str(prefix), vocab_size=250, minloglevel=2)
    scores, signatures = Scorer(prefix.with_suffix(".model")).scores("th", [LINES[9]], [LINES[9][:-10]])
    assert scores["bleu"] < scores["spbleu"] < 100
    assert "tok:spm-" in signatures["spbleu"]
    with pytest.raises(ConfigError, match="no SentencePiece model"):
        Scorer(text)


def test_uncovered_languages_are_of_the_table():
    assert set(COMET_UNCOVERED) <= languages().keys()
