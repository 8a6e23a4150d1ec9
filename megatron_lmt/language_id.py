"""Which of the 60 languages a text is in: py3langid's model, which comes inside its package, and rules for what it lacks.

The model knows 139 languages, 57 of ours among them (with `no` for nb). Rules add the other three:

- `bo` and `mvf`: the only languages of the table in Tibetan and in Mongolian script.
- `yue`: the model finds it by colloquial words only, and much of it is written without them. In the table `zh` is simplified
  Chinese (zho_Hans) and `yue` the only language in traditional characters (yue_Hant), so these decide. Mandarin in
  traditional characters is therefore taken for yue: no confidence above `SCRIPT_ONLY` is given to it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from typing import Any

from megatron_lmt.extras import import_extra

UNDETERMINED = "und"
"""The code of a text without a letter."""

MOST_CHARACTERS = 2000
"""What is read of a long document: enough for certainty, and a bound on the time (about 1 MB/s on one core)."""

SCRIPT_ONLY = 0.5
"""Confidence in yue where traditional characters alone speak for it, and no word of Cantonese."""

SAME_LANGUAGE = {
    "no": "nb",
    "bs": "hr",  # the model cannot tell them apart
    "arz": "ar",
    "ary": "ar",
    "wuu": "zh",  # the model's Wu is not told from Mandarin
    "hbo": "he",
}
"""The model's code → ours, where it divides what the table does not."""

_SCRIPT_RULES = {"bo": re.compile("[\u0f00-\u0fff]"), "mvf": re.compile("[\u1800-\u18af\U00011660-\U0001167f]")}
_CANTONESE = re.compile("[嘅咗唔喺冇佢哋啲嗰嚟嘢咁噉嘥咩乜嘞啱畀俾嗌攞㗎]")
_HAN = re.compile("[\u3400-\u9fff]")
_CYRILLIC = re.compile("[\u0400-\u04ff]")


def identify(texts: Iterable[str]) -> list[tuple[str, float]]:
    """(code, confidence) of each text: about 8 thousand sentences a second on one core.

    The code is one of languages.tsv; or, for a text in another language, the model's ISO 639 code of that (`ca`, `mk` …),
    `zxx` for what is no language; or `und` where there is no letter. The confidence, 0 to 1, is the model's probability,
    for bo and mvf the share of their script among the letters.

    Raises:
        MissingExtraError: py3langid is not installed.
    """
    model = _model()
    return [_identify(model, text[:MOST_CHARACTERS]) for text in texts]


def _identify(model: Any, text: str) -> tuple[str, float]:
    letters = sum(map(str.isalpha, text))
    if not letters:
        return UNDETERMINED, 0.0
    for code, script in _SCRIPT_RULES.items():
        found = sum(map(str.isalpha, script.findall(text)))
        if 2 * found > letters:
            return code, found / letters
    confidence: dict[str, float] = defaultdict(float)
    for code, probability in model.rank(text):
        confidence[_our_code(code, text)] += probability
    best = max(confidence, key=lambda code: confidence[code])
    if best in ("zh", "yue"):
        return _chinese(text, confidence["zh"] + confidence["yue"])
    return best, min(confidence[best], 1.0)


def _our_code(code: str, text: str) -> str:
    if code == "sr" and not _CYRILLIC.search(text):
        return "hr"
    return SAME_LANGUAGE.get(code, code)


def _chinese(text: str, confidence: float) -> tuple[str, float]:
    """zh or yue, by words of Cantonese, else by the characters that only one of the two scripts has.

    GB 2312 is the simplified characters and Big5 the traditional ones; most are in both.
    """
    confidence = min(confidence, 1.0)
    if _CANTONESE.search(text):
        return "yue", confidence
    characters = _HAN.findall(text)
    simplified, traditional = ({c for c in characters if _encodes(c, codec)} for codec in ("gb2312", "big5"))
    if len(traditional - simplified) > len(simplified - traditional):
        return "yue", min(confidence, SCRIPT_ONLY)
    return "zh", confidence


@cache
def _encodes(character: str, codec: str) -> bool:
    try:
        character.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


@cache
def _model() -> Any:
    langid = import_extra("py3langid.langid", "clean", "language identification")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
