"""Translation: prompts of each way, order, one line for each line, and going on; with a stand-in for the model."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.eval import translate
from megatron_lmt.eval.generate import PromptEncoder
from megatron_lmt.eval.translate import Translator, one_line

STP = "Translate the following text from {} into {}:\n{}: {}\n{}:"
AWKWARD = ["b\u2028c", "", "a" * 40, " \t", "d\r\x85e", "ᠮᠣᠩᠭᠣᠯ\u202fᠤᠨ\u180eᠠ \u200d", "<|im_end|>\\n{0}", "z"]


class Recorder:
    """In place of a model: answers each prompt by its text in capitals, with a line end in it; keeps the batches."""

    max_length = 4096

    def __init__(self, fail_after: int = 10**9):
        self.batches: list[list[str]] = []
        self.identity = {"model": "recorder"}
        self._fail_after = fail_after

    def encode(self, prompt):
        return list(prompt.encode("utf-8"))

    def generate(self, batch, num_beams, max_new_tokens):
        if len(self.batches) == self._fail_after:
            raise KeyboardInterrupt
        prompts = [bytes(ids).decode("utf-8") for ids in batch]
        self.batches.append(prompts)
        return ["\n" + "\u2028".join(prompt.split("\n")[1:]).upper() for prompt in prompts]


@pytest.fixture
def translator(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(translate, "open_generator", lambda *_: recorder)
    translator = Translator(Path("model"))
    assert translator.generator is recorder
    return translator


def test_order_is_kept_and_every_text_has_one_line(translator):
    found = translator.translate(AWKWARD, "en", "de", batch_size=3)
    assert len(found) == len(AWKWARD)
    for text, translation in zip(AWKWARD, found, strict=True):
        assert len(translation.splitlines()) <= 1
        assert translation == (one_line(f"English: {text}\nGerman:").upper() if text.strip() else "")
    lengths = [len(prompt.encode()) for batch in translator.generator.batches for prompt in batch]
    assert lengths == sorted(lengths) and len(lengths) == 6  # batches by length; nothing is asked for empty texts


def test_so_many_new_tokens_that_no_prompt_fits(translator):
    for max_new_tokens in (4096, 9999):
        with pytest.raises(ConfigError, match=f"{max_new_tokens} new tokens: the model takes 4096 with the prompt"):
            translator.translate(["Water."], "en", "de", max_new_tokens=max_new_tokens)
        with pytest.raises(ConfigError, match="the model takes 4096"):
            translator.check_longest(["Water."], "en", "de", "release", max_new_tokens)


def test_the_text_reaches_the_prompt_unaltered(translator):
    translator.translate(AWKWARD, "mvf", "zh", batch_size=100)
    (batch,) = translator.generator.batches
    expected = [
        STP.format("Inner Mongolian", "Chinese", "Inner Mongolian", text, "Chinese") for text in AWKWARD if text.strip()
    ]
    assert sorted(batch) == sorted(expected)


def test_self_generated_auxiliary_takes_two_passes(translator):
    (found,) = translator.translate(["Water."], "en", "de", prompt="pmp-self")
    first, second = (batch[0] for batch in translator.generator.batches)
    assert first == STP.format("English", "Dutch", "English", "Water.", "Dutch")
    assert second == (
        "Translate the following text from English into Dutch and German:\n"
        "English: Water.\nDutch: ENGLISH: WATER. DUTCH:\nGerman:"
    )
    assert found.endswith("GERMAN:")


def test_oracle_auxiliary_and_the_plain_prompt_where_there_is_none(translator):
    translator.translate(["a", "b", ""], "zh", "ky", prompt="pmp-oracle", auxiliaries=["x", " ", "y"])
    (batch,) = translator.generator.batches
    assert sorted(batch) == [
        "Translate the following text from Chinese into English and Kirghiz:\nChinese: a\nEnglish: x\nKirghiz:",
        STP.format("Chinese", "Kirghiz", "Chinese", "b", "Kirghiz"),
    ]


def test_pivot_translates_the_translation(translator):
    translator.translate(["水"], "zh", "ky", prompt="pivot")
    first, second = (batch[0] for batch in translator.generator.batches)
    assert first == STP.format("Chinese", "English", "Chinese", "水", "English")
    assert second == STP.format("English", "Kirghiz", "English", "CHINESE: 水 ENGLISH:", "Kirghiz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "pmp-self", "target": "ja"}, "en-ja: LMT names no auxiliary language"),
        ({"prompt": "pivot"}, "en cannot be the language in between"),
        ({"prompt": "pivot", "through": "xx"}, "unknown language code 'xx'"),
        ({"prompt": "pmp-oracle"}, "given for pmp-oracle, and only for it"),
        ({"auxiliaries": ["x"]}, "given for pmp-oracle, and only for it"),
        ({"prompt": "pmp-self", "template": "alpaca"}, "'alpaca' has no wording"),
        ({"prompt": "pmp"}, "unknown prompt 'pmp'"),
        ({"prompt": "pmp-oracle", "auxiliaries": ["x", "y"]}, "2 auxiliary sentences for 1 texts"),
    ],
)
def test_what_cannot_be_asked_is_refused(translator, options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        translator.translate(["a"], "en", options.pop("target", "de"), **options)
    assert not translator.generator.batches


def test_lines_that_are_too_long_are_named(translator):
    with pytest.raises(DataError, match=r"en-de, line 2: a prompt of 4\d\d\d tokens; with 512 new tokens .* 3584"):
        translator.translate(["a", "b" * 4000], "en", "de")


@pytest.mark.parametrize("prompt", ["stp", "pmp-self"])
@pytest.mark.parametrize("batches", [1, 2, 5])
def test_a_stopped_translation_goes_on(translator, tmp_path, prompt, batches):
    texts = [f"text {i}" * (7 - i % 5) for i in range(10)] + AWKWARD
    expected = translator.translate(texts, "en", "de", prompt=prompt, batch_size=3)
    whole = translator.generator.batches
    journal = tmp_path / "journal"
    options = {"prompt": prompt, "batch_size": 3, "journal": journal}
    translator.generator = Recorder(fail_after=batches)
    with pytest.raises(KeyboardInterrupt):
        translator.translate(texts, "en", "de", **options)
    with open(journal, "a", encoding="utf-8") as file:
        file.write('{"step": "translation", "line": 3, "te')  # killed in the middle of a line
    translator.generator = Recorder()
    assert translator.translate(texts, "en", "de", **options) == expected
    assert translator.generator.batches == whole[batches:]
    assert not journal.exists()


def test_other_work_is_not_gone_on_with(translator, tmp_path):
    journal = tmp_path / "journal"
    translator.generator = Recorder(fail_after=1)
    with pytest.raises(KeyboardInterrupt):
        translator.translate(["a", "b"], "en", "de", batch_size=1, journal=journal)
    translator.generator = Recorder()
    with pytest.raises(ConfigError, match="holds other work: num_beams, texts differ"):
        translator.translate(["a", "c"], "en", "de", num_beams=2, journal=journal)


def test_work_that_had_not_begun_is_no_hindrance(translator, tmp_path):
    journal = tmp_path / "journal"
    with pytest.raises(DataError, match="a prompt of"):
        translator.translate(["a" * 4000], "en", "de", journal=journal)
    assert translator.translate(["a" * 4000], "en", "de", max_new_tokens=8, journal=journal)


def test_a_batch_decodes_as_each_alone(tiny_exported):
    translator = Translator(tiny_exported)
    texts = ["Water.", "The house by the river was sold.", "", "水和面包。", "ماء"]
    alone = [translator.translate([text], "en", "de", max_new_tokens=12)[0] for text in texts]
    assert translator.translate(texts, "en", "de", max_new_tokens=12) == alone
    assert len(set(alone)) > 1
    greedy = translator.translate(texts, "en", "de", num_beams=1, max_new_tokens=12)
    assert greedy != alone


def test_a_text_cannot_end_its_turn(quickstart_tokenizer):
    tokenizer = AutoTokenizer.from_pretrained(quickstart_tokenizer)
    encoder = PromptEncoder(tokenizer, quickstart_tokenizer)
    plain = "Translate: ᠮᠣᠩᠭᠣᠯ\u202fᠤᠨ {} 水\nGerman:"
    turn = tokenizer.apply_chat_template([{"role": "user", "content": plain}], tokenize=False, add_generation_prompt=True)
    assert encoder.encode(plain) == tokenizer.encode(turn, add_special_tokens=False)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = encoder.encode("a <|im_end|> b")
    assert ids.count(end) == 1 and "a <|im_end|> b" in tokenizer.decode(ids)


def test_a_folder_that_is_no_model_is_named(tmp_path, tiny_exported):
    with pytest.raises(ConfigError, match="no config.json"):
        Translator(tmp_path)
    shutil.copy(tiny_exported / "config.json", tmp_path)
    with pytest.raises(ConfigError, match="no weights"):
        Translator(tmp_path)
    with pytest.raises(ConfigError, match="--engine vllm: not installed here"):
        Translator(tiny_exported, engine="vllm")
