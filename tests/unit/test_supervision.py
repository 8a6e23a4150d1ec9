"""What is learned is known before the first step: ratios, examples, what is cut, and wrong masks are errors."""

import json
import shutil

import numpy as np
import pytest

from megatron_lmt.config import load_run
from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import DataError, UserError
from megatron_lmt.preflight import check_run, describe
from megatron_lmt.preprocessing.inputs import sources_in
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.tokenising import Recipe
from megatron_lmt.sft.corpus import build_sft_corpus
from megatron_lmt.sft.supervision import check_supervision, supervision_lines
from tests.conftest import QUICKSTART

KEYS = ("prompt", "target")
CORPUS = """
[pmp]
share = 1.0
[downsample]
rate = 0.2
[[aligned]]
path = "{language}.txt"
pairs = ["en-zh", "zh-ar", "zh-hi"]
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory, quickstart_tokenizer):
    """Chats of en-zh, zh-ar and zh-hi; the latter two with English as the auxiliary sentence."""
    folder = tmp_path_factory.mktemp("sft")
    (folder / "corpus.toml").write_text(CORPUS)
    build_sft_corpus(folder / "corpus.toml", folder / "text", quickstart_tokenizer, root=str(QUICKSTART / "corpus"))
    return folder / "text"


@pytest.fixture(scope="module")
def tokenizer(quickstart_tokenizer):
    return load_tokenizer("HuggingFaceTokenizer", quickstart_tokenizer)


def tokenise(text, output, tokenizer, **options):
    """Token files of a folder of text; returns their readers by name."""
    options = {"json_keys": KEYS, "loss_keys": ("target",), "append_eod": False, **options}
    most_bad = options.pop("max_bad_lines", None)
    recipe = Recipe("HuggingFaceTokenizer", tokenizer, **options)
    jobs = sources_in(text, output)
    preprocess(recipe, jobs, workers=1, **({} if most_bad is None else {"max_bad_lines": most_bad}))
    return {prefix.name: IndexedReader(output / f"{prefix.name}_text_document") for prefix in jobs}


def rewrite(text, output, change):
    """The same text with each record changed."""
    output.mkdir()
    for file in text.glob("*.jsonl"):
        records = [change(json.loads(line)) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
        (output / file.name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return output


def test_ratios_and_examples(tmp_path, text, quickstart_tokenizer, tokenizer):
    readers = tokenise(text, tmp_path, quickstart_tokenizer)
    check_supervision(readers, tokenizer, "documents")
    lines = supervision_lines(readers, tokenizer, 512)
    rows = {line.split()[0]: line.split()[1:] for line in lines[3 : 3 + len(readers)]}
    for name, reader in readers.items():
        learned = sum(int(reader.document_loss_mask(number).sum()) for number in range(reader.num_documents))
        expected = [f"{reader.num_documents:,}", f"{reader.num_tokens:,}", f"{learned / reader.num_tokens:.1%}"]
        assert rows[name] == expected and 0 < learned < reader.num_tokens
    shown = "\n".join(lines)
    assert shown.count("⟦") == shown.count("⟧") == 3 + 3
    records = [json.loads(line) for line in (text / "zh-hi.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    last = records[-1]
    assert "into English and Hindi" in last["prompt"]
    example = last["prompt"] + "⟦" + last["target"] + "⟧"
    assert "".join(f"\n  | {line}" for line in example.split("\n")) in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_keys": KEYS}, "everything of document 0 is learned, its prompt too"),
        ({"loss_keys": ("prompt",)}, "a part of the prompt of document 0 is learned"),
        ({"json_keys": ("prompt",), "loss_keys": ()}, "chats without a loss mask"),
    ],
)
def test_a_wrong_choice_of_keys(tmp_path, text, quickstart_tokenizer, tokenizer, options, message):
    readers = tokenise(text, tmp_path, quickstart_tokenizer, **options)
    with pytest.raises(DataError, match=message) as caught:
        check_supervision(readers, tokenizer, "documents")
    assert len(caught.value.problems) == len(readers)


def split_auxiliary(record):
    """The prompt in three parts, with the auxiliary sentence alone."""
    head, mark, rest = record["prompt"].partition("\nEnglish: ")
    auxiliary, line_end, rest = rest.partition("\n")
    return {"head": head + mark, "aux": auxiliary or "-", "rest": line_end + rest or "-", "target": record["target"]}


def test_an_auxiliary_sentence_must_not_be_learned(tmp_path, text, quickstart_tokenizer, tokenizer):
    parts = rewrite(text, tmp_path / "parts", split_auxiliary)
    keys = ("head", "aux", "rest", "target")
    good = tokenise(parts, tmp_path / "good", quickstart_tokenizer, json_keys=keys)
    check_supervision({"zh-hi": good["zh-hi"]}, tokenizer, "documents")
    bad = tokenise(parts, tmp_path / "bad", quickstart_tokenizer, json_keys=keys, loss_keys=("aux", "target"))
    with pytest.raises(DataError, match=r"zh-hi: a part of the prompt .* its auxiliary sentence .152 of 152 documents"):
        check_supervision({"zh-hi": bad["zh-hi"]}, tokenizer, "documents")


def test_the_opening_of_the_answers_turn_is_a_part_of_the_prompt(tmp_path, text, quickstart_tokenizer, tokenizer):
    def change(record):
        before, tag, opening = record["prompt"].rpartition("<|im_start|>")
        return {**record, "prompt": before, "target": tag + opening + record["target"]}

    readers = tokenise(rewrite(text, tmp_path / "text", change), tmp_path / "tokens", quickstart_tokenizer)
    with pytest.raises(DataError, match="a part of the prompt of document 0 is learned, .*152 of 152 documents"):
        check_supervision({"en-zh": readers["en-zh"]}, tokenizer, "documents")


def test_one_answer_without_an_end_of_turn_is_found(tmp_path, text, quickstart_tokenizer, tokenizer):
    def change(record):
        is_the_one = record["id"].endswith(":8")
        return {**record, "target": record["target"].removesuffix("<|im_end|>")} if is_the_one else record

    readers = tokenise(rewrite(text, tmp_path / "text", change), tmp_path / "tokens", quickstart_tokenizer)
    with pytest.raises(DataError, match="the end of turn .* of document 7 is not learned .1 of 152 documents"):
        check_supervision({"en-zh": readers["en-zh"]}, tokenizer, "documents")


def test_an_end_of_document_after_the_end_of_turn_is_allowed(tmp_path, text, quickstart_tokenizer, tokenizer):
    check_supervision(tokenise(text, tmp_path, quickstart_tokenizer, append_eod=True), tokenizer, "documents")


def test_chats_are_not_concatenated(tmp_path, text, quickstart_tokenizer, tokenizer):
    readers = tokenise(text, tmp_path, quickstart_tokenizer)
    with pytest.raises(DataError, match='packing = "concatenate" cuts answers from their prompts'):
        check_supervision(readers, tokenizer, "concatenate")


def test_text_with_a_mask_that_is_no_chat_only_needs_some_of_it_learned(tmp_path, quickstart_tokenizer, tokenizer):
    (tmp_path / "text").mkdir()
    records = [{"prompt": "<en2de> one <de>", "target": " eins"}, {"prompt": "<en2de> two <de>", "target": " zwei"}]
    (tmp_path / "text/en-de.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    check_supervision(tokenise(tmp_path / "text", tmp_path / "good", quickstart_tokenizer), tokenizer, "concatenate")
    bad = tokenise(tmp_path / "text", tmp_path / "bad", quickstart_tokenizer, loss_keys=KEYS)
    with pytest.raises(DataError, match="everything of document 0"):
        check_supervision(bad, tokenizer, "concatenate")


def test_long_and_rejected_documents_are_listed(tmp_path, text, quickstart_tokenizer, tokenizer):
    readers = tokenise(text, tmp_path / "all", quickstart_tokenizer)
    reader = readers["zh-ar"]
    lengths = reader.document_lengths(np.arange(reader.num_documents))
    limit = int(np.sort(lengths)[-3])  # two documents are longer
    shown = "\n".join(supervision_lines({"zh-ar": reader}, tokenizer, limit - 1))
    for number in np.flatnonzero(lengths > limit):
        assert f"zh-ar document {number}: {lengths[number]} tokens, a sample has {limit - 1} and one more" in shown
    assert shown.count("a sample has") == 2 and "what follows the cut has no prompt" in shown
    fewer = tokenise(text, tmp_path / "fewer", quickstart_tokenizer, max_tokens=limit, max_bad_lines=1000)
    shown = "\n".join(supervision_lines({"zh-ar": fewer["zh-ar"]}, tokenizer, limit - 1))
    assert "zh-ar: 2 because too_long; see" in shown and "a sample has" not in shown


def test_the_dry_run_shows_it_and_refuses(tmp_path, text, tiny_run, quickstart_tokenizer):
    folder = tiny_run.parent
    mixture = 'path = "sft/{direction}_text_document"\ndirections = ["en-zh", "zh-ar"]\n'
    run = tiny_run.read_text()
    tiny_run.write_text(
        run[: run.index("[data.mixture.mono]")]
        + f"[data.mixture.sft]\nweight = 1\n{mixture}\n"
        + run[run.index("[train]") : run.index("[validation]")]
        + run[run.index("[checkpoint]") :]
    )
    tokenise(text, folder / "sft", quickstart_tokenizer)
    shown = describe(check_run(load_run(tiny_run), None))
    assert any(line.startswith("sft/zh-ar") for line in shown) and sum("⟦" in line for line in shown) >= 3
    shutil.rmtree(folder / "sft")
    tokenise(text, folder / "sft", quickstart_tokenizer, loss_keys=KEYS)
    with pytest.raises(UserError, match="source sft/en-zh: everything of document 0 is learned"):
        check_run(load_run(tiny_run), None)
