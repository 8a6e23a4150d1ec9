"""The sweep over rates of downsampling: its run files fit their corpora, and the chart says what each run was trained on."""

import json
import subprocess
import sys

import pytest

from megatron_lmt.config import load_run
from megatron_lmt.sft.config import SftConfig
from megatron_lmt.sft.corpus import build_sft_corpus
from megatron_lmt.toml_config import load_toml, validate
from tests.conftest import QUICKSTART, REPOSITORY
from tests.end_to_end.processes import run

SWEEP = REPOSITORY / "examples" / "downsampling_sweep"
RATES = ("0", "0.05", "1")


@pytest.mark.parametrize("settings", ["small", "qwen3_0.6b"])
def test_settings_are_complete(settings):
    folder = SWEEP / settings
    corpus = validate(SftConfig, load_toml(folder / "corpus.toml"), "corpus.toml")
    (aligned,) = corpus.aligned
    named = {code for pair in aligned.names() for code in pair.split("-")}
    command = f'. "{folder}/settings.sh" && echo $languages && echo $((train_sentences * valid_sentences * processes))'
    languages, numbers = run(["bash", "-c", command]).splitlines()
    assert set(languages.split()) == named and int(numbers) > 0
    sft = load_run(folder / "sft.toml", ["data.mixture.sft.directions=['en-de']"])
    assert set(sft.validation.sources) == {"en-x", "x-en", "zh-x", "x-zh"} and sft.data.packing == "documents"
    if settings == "qwen3_0.6b":
        assert (sft.train_iters, sft.lr_warmup_iters, sft.optimizer.lr, len(aligned.names())) == (500, 5, 2e-5, 113)


def test_the_chart_and_its_table(tmp_path, quickstart_tokenizer):
    """Of runs that are there with their real corpora and invented losses."""
    (tmp_path / "corpus.toml").write_text('[[aligned]]\npath = "{language}.txt"\npairs = ["en-zh", "en-de", "zh-de"]\n')
    for number, rate in enumerate(RATES):
        text = tmp_path / f"p{rate}.text"
        root = str(QUICKSTART / "corpus")
        build_sft_corpus(
            tmp_path / "corpus.toml", text, quickstart_tokenizer, root, overrides=[f"downsample.rate={float(rate)}"]
        )
        losses = {"x-en": 5 - number, "x-zh": abs(number - 1) + 4, "en-x": 4 + number, "zh-x": 3 + number}
        lines = [{"iteration": 40}, {"iteration": 80, **{f"validation_loss/{name}": loss for name, loss in losses.items()}}]
        scores = {direction: 10.0 + number for direction in ("en-de", "de-en", "zh-de", "de-zh")} | {"en-zh": 90.0}
        (tmp_path / f"p{rate}.scores").mkdir()
        records = ({"direction": direction, "chrf++": score} for direction, score in scores.items())
        (tmp_path / f"p{rate}.scores/scores.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (tmp_path / f"p{rate}").mkdir()
        (tmp_path / f"p{rate}/validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(
        [
            sys.executable,
            str(SWEEP / "chart.py"),
            "--work",
            str(tmp_path),
            "--rates",
            *RATES,
            "--output",
            str(tmp_path / "out"),
        ]
    )
    shown = (tmp_path / "out/report.txt").read_text()
    tables = [[line.split() for line in part.splitlines()] for part in shown.split("\n\n")[:2]]
    loss, score = ({row[0]: row[1:] for row in rows[3:]} for rows in tables)
    assert loss["0.0%"][:4] == ["0", "of", "304", "1.0"] and loss["100.0%"][:4] == ["304", "of", "304", "2.0"]
    assert loss["5.0%"][4:] == ["4.000", "4.000", "5.000", "4.000"]
    assert loss["best"] == ["p", "100.0%", "5.0%", "0.0%", "0.0%"]  # the lowest loss
    assert tables[1][0] == ["chrf++:"] and score["5.0%"][4:] == ["11.000"] * 4  # en-zh is in no group
    assert score["best"] == ["p"] + ["100.0%"] * 4  # the highest score
    assert (tmp_path / "out/downsampling.png").stat().st_size > 10_000


def test_it_says_what_is_missing(tmp_path):
    command = ["bash", str(SWEEP / "run.sh"), "--data"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2 and "give --data DIR" in done.stderr
    for folder in ("ntrex", "flores200_dev"):
        (tmp_path / folder).mkdir()
    done = subprocess.run([*command, str(tmp_path), "--settings", "qwen3_0.6b"], capture_output=True, text=True)
    assert done.returncode == 2 and "give --model FOLDER" in done.stderr
