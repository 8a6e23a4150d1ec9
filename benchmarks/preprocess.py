"""Text to tokens: our tool against a driver that works as Megatron-LM's, and against the bare tokenizer engine.

    python -m benchmarks.preprocess --data DIR                # DIR as examples/sample60/corpus.toml has it
    python -m benchmarks.preprocess --data DIR --engines standard gigatoken --repeats 3 --megatron-lm CHECKOUT

Times are of whole processes, from their start to finished files. "steady" is the second half of all text of DIR: every
second record of each language, when the others have been seen (engines remember words), in the time of all less that of
the first half. The bare engine gets texts in memory and gives ids, nothing else, with as many threads as there are
workers. "free" has no tokenizer at all. All sides write the same bytes, which is checked. With gigatoken, all text four
times over is measured too, without the peer, and with --megatron-lm its own tools/preprocess_data.py.

gigatoken and its bare engine take about a second, which says little: all text and its half are measured five times in turn.

Read ratios: all sides of a round run one after the other on the same machine. CPU seconds (of all processes) say more
than seconds where other programs run beside.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.preprocess_text import write_text
from megatron_lmt.data.indexed import bin_path, idx_path
from megatron_lmt.errors import ConfigError, DataError, UserError, run_command
from megatron_lmt.files import write_json_atomically
from megatron_lmt.preprocessing.inputs import xxh128_of
from megatron_lmt.preprocessing.train_tokenizer import train_tokenizer

REPOSITORY = Path(__file__).resolve().parents[1]
TEXTS = ("one", "short", "long", "half", "all")
AGAIN = "again"
TURNS = 5
MEGATRON_LM = "Megatron-LM"


def main() -> None:
    arguments = _parse_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="preprocess_benchmark.") as name:
        folder = Path(name)
        texts = write_text(arguments.data, folder, arguments.megabytes)
        model = arguments.tokenizer_model or folder / "tokenizer"
        if not arguments.tokenizer_model:
            train_tokenizer(sorted(arguments.data.glob("mono/*.jsonl.gz")), ["text"], arguments.vocab_size, model)
        rounds = [_round(arguments, model, texts, folder / "out") for _ in range(arguments.repeats)]
        sizes = {name: path.stat().st_size for name, path in texts.items()}
    print("\n".join(table(arguments, sizes, _medians(rounds))))
    if arguments.output:
        write_json_atomically(
            arguments.output, {"machine": machine("tokenizers", "numpy"), "rounds": rounds, "bytes": sizes}
        )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="real text in 60 languages")
    parser.add_argument("--megabytes", type=int, default=40, help="of each of the texts short and long (default: 40)")
    parser.add_argument("--tokenizer-model", type=Path, metavar="DIR", help="default: one is trained on the text")
    parser.add_argument("--vocab-size", type=int, default=120_000, help="of that one (default: 120000)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="default: one for each core")
    parser.add_argument("--engines", nargs="+", choices=("standard", "gigatoken"), default=["standard"])
    parser.add_argument(
        "--megatron-lm",
        type=Path,
        metavar="DIR",
        help="a checkout of Megatron-LM; what it imports beside megatron-core, such as triton, is found by PYTHONPATH",
    )
    parser.add_argument("--repeats", type=int, default=2, help="the table shows medians (default: 2)")
    parser.add_argument("--folder", type=Path, help="where texts and tokens are written meanwhile, about 2 GB")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="all measurements")
    arguments = parser.parse_args()
    if not (arguments.data / "mono").is_dir():
        raise ConfigError(f"--data {arguments.data}: no folder mono in it")
    return arguments


def _medians(rounds: list[dict[str, dict[str, dict]]]) -> dict[str, dict[str, dict]]:
    return {
        side: {
            text: {key: statistics.median(r[side][text][key] for r in rounds) for key in found}
            for text, found in row.items()
        }
        for side, row in rounds[0].items()
    }


def _round(arguments: argparse.Namespace, model: Path, texts: dict[str, Path], out: Path) -> dict[str, dict[str, dict]]:
    """Side → text → seconds, CPU seconds, peak memory of the largest process, or tokens/s of the bare engine."""
    sides: dict[str, dict[str, dict]] = {"peer": {}, "peer, free": {}, "ours, free": {}}
    for name in TEXTS:
        sides["peer"][name] = _timed(_peer(arguments, model, texts[name], out))
        written = _hashes(out, "")
        if arguments.megatron_lm:
            command = _megatron_lm(arguments, model, texts[name], out)
            sides.setdefault(MEGATRON_LM, {})[name] = _timed(command, arguments.megatron_lm)
            if _hashes(out, "_text_document") != written:
                raise DataError(f"{name}: Megatron-LM's are other bytes than the peer's")
        for engine in arguments.engines:
            sides.setdefault(f"ours, {engine}", {})[name] = _timed(_ours(arguments, model, texts[name], out, engine))
            if _hashes(out, "_text_document") != written:
                raise DataError(f"{name}: with {engine}, ours are other bytes than the peer's")
            if name != "one":
                sides.setdefault(f"bare, {engine}", {})[name] = _bare(arguments, model, texts[name], engine)
    if "gigatoken" in arguments.engines:
        turns = [_turn(arguments, model, texts, out, ("one", "half", "all")) for _ in range(TURNS)]
        for found in (_medians(turns), _turn(arguments, model, texts, out, (AGAIN,))):
            for side, row in found.items():
                sides[side].update(row)
    for name in ("one", "short"):
        sides["peer, free"][name] = _timed([*_peer(arguments, model, texts[name], out), "--free"])
        free = _ours(arguments, model, texts[name], out, "standard")
        sides["ours, free"][name] = _timed([sys.executable, "-m", "benchmarks.preprocess_free", *free[2:]])
        _hashes(out, ""), _hashes(out, "_text_document")
    print(json.dumps(sides), file=sys.stderr)
    return sides


def _turn(
    arguments: argparse.Namespace, model: Path, texts: dict[str, Path], out: Path, names: Iterable[str]
) -> dict[str, dict[str, dict]]:
    """Ours with gigatoken and its bare engine with these texts, as `_round` has them."""
    ours, bare = {}, {}
    for name in names:
        ours[name] = _timed(_ours(arguments, model, texts[name], out, "gigatoken"))
        _hashes(out, "_text_document")
        if name != "one":
            bare[name] = _bare(arguments, model, texts[name], "gigatoken")
    return {"ours, gigatoken": ours, "bare, gigatoken": bare}


def _peer(arguments: argparse.Namespace, model: Path, text: Path, out: Path) -> list[str]:
    files = ["--input", str(text), "--output-prefix", str(out), "--tokenizer-model", str(model)]
    return [sys.executable, "-m", "benchmarks.preprocess_peer", *files, "--workers", str(arguments.workers)]


def _megatron_lm(arguments: argparse.Namespace, model: Path, text: Path, out: Path) -> list[str]:
    files = ["--input", str(text), "--output-prefix", str(out), "--tokenizer-model", str(model)]
    options = ["--tokenizer-type", "HuggingFaceTokenizer", "--append-eod", "--workers", str(arguments.workers)]
    return [sys.executable, str(arguments.megatron_lm.resolve() / "tools/preprocess_data.py"), *files, *options]


def _ours(arguments: argparse.Namespace, model: Path, text: Path, out: Path, engine: str) -> list[str]:
    files = ["--input", str(text), "--output-prefix", str(out), "--tokenizer-model", str(model)]
    options = ["--tokenizer-type", "HuggingFaceTokenizer", "--append-eod", "--tokenizer-engine", engine]
    tool = str(REPOSITORY / "tools/preprocess_data.py")
    return [sys.executable, tool, *files, *options, "--workers", str(arguments.workers)]


def _bare(arguments: argparse.Namespace, model: Path, text: Path, engine: str) -> dict:
    files = ["--input", str(text), "--tokenizer-model", str(model)]
    options = ["--engine", engine, "--threads", str(arguments.workers)]
    command = [sys.executable, "-m", "benchmarks.preprocess_engine", *files, *options]
    return json.loads(subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout)


def _timed(command: list[str], folder: Path = REPOSITORY) -> dict:
    paths = os.pathsep.join(filter(None, [str(folder.resolve()), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        errors.seek(0)
        if status:
            raise UserError(f"{' '.join(command)} failed:\n{errors.read()[-2000:]}")
    return {"s": seconds, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}


def _hashes(out: Path, ending: str) -> list[str]:
    """Of both token files, which are deleted with what is beside them."""
    hashes = [xxh128_of(path(Path(f"{out}{ending}"))) for path in (bin_path, idx_path)]
    for path in out.parent.glob(f"{out.name}{ending}.*"):
        path.unlink()
    return hashes


def table(arguments: argparse.Namespace, sizes: dict[str, int], medians: dict[str, dict]) -> list[str]:
    """Markdown, so that it can be copied into docs/benchmarks.md."""
    packages = ["tokenizers", "transformers", "megatron-core", *[e for e in arguments.engines if e != "standard"]]
    tokens = {text: row["tokens"] for text, row in medians[f"bare, {arguments.engines[0]}"].items()}
    lines = [
        f"{arguments.workers} workers; short {sizes['short'] / 1e6:.0f} MB, long {sizes['long'] / 1e6:.0f} MB, all "
        f"{sizes['all'] / 1e6:.0f} MB, again four times that; median of {arguments.repeats}. " + machine(*packages),
        "",
        "| s (CPU s) | one document | short | long | half | all | steady, M tokens/s | peak of a process, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side in filter(medians.get, [MEGATRON_LM, "peer", *[f"ours, {engine}" for engine in arguments.engines]]):
        row = medians[side]
        cells = [f"{row[text]['s']:.1f} ({row[text]['cpu_s']:.1f}){_times(medians['peer'], row, text)}" for text in TEXTS]
        cells += [f"{_steady(row, tokens) / 1e6:.2f}", f"{row['all']['peak_mb']:.0f}"]
        lines.append(f"| {side} | {' | '.join(cells)} |")
    for engine in arguments.engines:
        bare = medians[f"bare, {engine}"]
        speeds = ", ".join(f"{name} {row['tokens'] / row['s'] / 1e6:.2f}" for name, row in bare.items())
        lines.append(f"\nBare engine, {engine}, M tokens/s: {speeds}, steady {_steady(bare, tokens) / 1e6:.2f}.")
        lines.append(f"\nOf it, ours: {_of_bare(medians[f'ours, {engine}'], bare, tokens)}.")
    for side in ("peer, free", "ours, free"):
        seconds = medians[side]["short"]["s"] - medians[side]["one"]["s"]
        lines.append(f"\nFree tokenization, {side.split(',')[0]}: {seconds:.2f} s for the short text, start taken off.")
    return lines


def _steady(row: dict, tokens: dict[str, int]) -> float:
    """Tokens/s of the second half."""
    return (tokens["all"] - tokens["half"]) / (row["all"]["s"] - row["half"]["s"])


def _of_bare(row: dict, bare: dict, tokens: dict[str, int]) -> str:
    """The speed as a part of the bare engine's: of the second half, and of whole texts without the time for one document."""
    found = [f"steady {_steady(row, tokens) / _steady(bare, tokens):.2f}"]
    for text in filter(row.get, ("all", AGAIN)):
        found.append(f"{text} {bare[text]['s'] / (row[text]['s'] - row['one']['s']):.2f}")
    return ", ".join(found)


def _times(peer: dict, row: dict, text: str) -> str:
    times = (f"{peer[text][unit] / row[text][unit]:.1f}×" for unit in ("s", "cpu_s"))
    return "" if row is peer else " {} ({})".format(*times)


if __name__ == "__main__":
    run_command(main)
