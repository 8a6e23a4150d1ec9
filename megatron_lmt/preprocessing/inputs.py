"""The files and folders that a source is made from: which there are, their hashes, and whether they are still the same."""

from __future__ import annotations

import glob
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import xxhash

from megatron_lmt.errors import ConfigError
from megatron_lmt.files import file_xxh128
from megatron_lmt.preprocessing.compression import FORMATS
from megatron_lmt.preprocessing.hub import hub_name
from megatron_lmt.preprocessing.pairs import Pairing
from megatron_lmt.preprocessing.tables import is_dataset_folder

CORPUS_REPORT = "corpus.json"  # what tools/build_corpus.py writes beside its jsonl files: no input, in any folder
Result = TypeVar("Result")
KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".txt": "text", ".tsv": "tsv", ".tmx": "tmx", ".parquet": "rows"}
KNOWN = (
    "jsonl, json (a record a line), txt (a document a line), tsv (a pair a line) or tmx, also .gz or .zst; parquet; folders "
    "saved by datasets; hf://NAME?split=train"
)
PAIR_KINDS = ("tsv", "tmx", "aligned")
HUB = "hf:"


@dataclass(frozen=True)
class Input:
    """What a source, or a part of it, is read from.

    `paths` is one file or folder; two files where these are `aligned`; of `kind` "hub", the name on Hugging Face's hub.
    `keys` are those of its texts where they are not the run's own. `pairing` says how its pairs become documents;
    `language` is for the report.
    """

    paths: tuple[Path, ...]
    kind: str | None
    keys: tuple[str, ...] | None = None
    pairing: Pairing | None = None
    language: str | None = None

    @property
    def name(self) -> str:
        return " + ".join(map(str, self.paths))


def as_input(
    path: Path | Input,
    pairing: Pairing | None = None,
    keys: tuple[str, ...] | None = None,
    language: str | None = None,
) -> Input:
    return path if isinstance(path, Input) else Input((path,), kind_of(path), keys, pairing, language)


def paired(paths: list[Path], pairing: Pairing, keys: tuple[str, ...] | None = None) -> list[Input]:
    """Inputs of pairs; two plain files are aligned with each other.

    Args:
        keys: of both sides in jsonl and tables; else where `datasets` has them, such as translation.en, translation.de.
    Raises:
        ConfigError: plain files that are not two.
    """
    plain = [path for path in paths if kind_of(path) in (None, "text")]
    if plain and len(paths) != 2:
        names = ", ".join(map(str, plain))
        raise ConfigError(f"{names}: of pairs in plain text, give two files that are aligned, the source's first")
    if plain:
        return [Input(tuple(paths), "aligned", None, pairing)]
    keys = keys or (f"translation.{pairing.source}", f"translation.{pairing.target}")
    return [as_input(path, pairing, None if kind_of(path) in PAIR_KINDS else keys) for path in paths]


def kind_of(path: Path) -> str | None:
    """ "jsonl", "text", "tsv", "tmx", "rows" or "hub"; None if its name ends in no known way."""
    if str(path).startswith(HUB):
        return "hub"
    if is_dataset_folder(path):
        return "rows"
    return None if path.is_dir() else KINDS.get(_without_compression(path).suffix)


def _without_compression(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in FORMATS else path


def _is_input(path: Path) -> bool:
    return kind_of(path) is not None and path.name != CORPUS_REPORT


def expand(inputs: list[Path]) -> list[Path]:
    """Files, and folders of `datasets`, instead of folders and patterns (`*`, `**`), each in the order of its names.

    A path that does not exist and is no pattern stays.

    Raises:
        ConfigError: a folder or pattern without any known file.
    """
    found = {path: _expand(path) for path in inputs}
    problems = [f"{path}: no input in it; known are {KNOWN}" for path, files in found.items() if not files]
    if problems:
        raise ConfigError(problems)
    return [file for path in inputs for file in found[path]]


def _expand(path: Path) -> list[Path]:
    if path.is_dir() and not is_dataset_folder(path):
        return _inputs_in(path)
    if path.exists() or kind_of(path) == "hub" or not glob.has_magic(str(path)):
        return [path]
    return sorted(Path(name) for name in glob.glob(str(path), recursive=True) if _is_input(Path(name)))


def _inputs_in(folder: Path) -> list[Path]:
    """At any depth; a folder that `datasets` saved is one, whatever files are in it."""
    found = []
    for path in sorted(folder.iterdir()):
        if _is_input(path):
            found.append(path)
        elif path.is_dir() and not path.is_symlink():
            found += _inputs_in(path)
    return found


def sources_in(input_dir: Path, output_dir: Path) -> dict[Path, list[Path]]:
    """Every known file, or folder saved by `datasets`, of a folder as a source of its own: prefix to write → [it].

    Raises:
        ConfigError: there is none, or two for one prefix.
    """
    jobs: dict[Path, list[Path]] = {}
    for path in sorted(input_dir.glob("*")):
        if _is_input(path):
            name = path.name if path.is_dir() else _without_compression(path).stem
            jobs.setdefault(output_dir / name, []).append(path)
    doubled = {prefix: files for prefix, files in jobs.items() if len(files) > 1}
    problems = [f"{' and '.join(map(str, files))}: both would be {prefix}" for prefix, files in doubled.items()]
    if not jobs:
        problems.append(f"--input-dir {input_dir}: no such folder, or no input in it; known are {KNOWN}")
    if problems:
        raise ConfigError(problems)
    return jobs


def input_problems(inputs: list[Input], json_keys: tuple[str, ...]) -> list[str]:
    """What is missing, given twice, of no known kind, empty, or does not have the keys."""
    times = Counter(given.paths for given in inputs)
    problems = [f"{' + '.join(map(str, paths))}: given twice" for paths, count in times.items() if count > 1]
    for given in inputs:
        keys = given.keys or json_keys
        problems += [
            f"{path!a}: its name is not UTF-8; rename it" for path in map(str, given.paths) if not _is_unicode(path)
        ]
        missing = [] if given.kind == "hub" else [path for path in given.paths if not path.exists()]
        problems += [f"{path}: no such file" for path in missing]
        if missing:
            continue
        if not given.kind:
            problems.append(f"{given.name}: not an input; known are {KNOWN}")
        elif given.kind in PAIR_KINDS and not given.pairing:
            problems.append(f"{given.name}: holds pairs; say of which languages, with --pair, such as en-de")
        elif given.kind == "text" and len(keys) > 1:
            reason = f"so --json-keys {' '.join(keys)} cannot all be found; give jsonl"
            problems.append(f"{given.name}: plain text has no keys, {reason}")
        elif given.pairing and given.kind not in PAIR_KINDS and len(keys) != 2:
            problems.append(f"{given.name}: give --json-keys with two keys, of the source and of the target sentence")
    if not problems and not any(given.kind == "hub" for given in inputs) and not any(map(bytes_of, inputs)):
        problems = [f"{', '.join(given.name for given in inputs) or 'no input'}: no document in it"]
    return problems


def _is_unicode(name: str) -> bool:
    return name == name.encode("utf-8", "replace").decode()


def unread_files(folder: Path) -> list[Path]:
    """Files in a folder, and in folders in it, of a kind that is not known; not those that `datasets` saved."""
    unknown = [path for path in sorted(folder.iterdir()) if kind_of(path) is None]
    inside = [file for path in unknown if path.is_dir() and not path.is_symlink() for file in unread_files(path)]
    return [path for path in unknown if path.is_file()] + inside


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def bytes_of(given: Input) -> int:
    """0 for one on the hub."""
    return 0 if given.kind == "hub" else sum(_sizes(given))


def _sizes(given: Input) -> list[int]:
    return [sum(file.stat().st_size for file in files_of(path)) for path in given.paths]


def xxh128_of(path: Path) -> str:
    """Of a folder: of the lines "<hash>  <name>" of its files, as `xxh128sum` prints them."""
    if path.is_dir():
        lines = (f"{file_xxh128(file)}  {file.relative_to(path)}\n" for file in files_of(path))
        return xxhash.xxh3_128_hexdigest("".join(lines).encode())
    return file_xxh128(path)


def _described(given: Input) -> dict:
    """How it is read, as far as that decides the documents."""
    keys = {"keys": list(given.keys)} if given.keys else {}
    return keys | (given.pairing.described() if given.pairing else {})


def describe(inputs: list[Input]) -> list[dict]:
    """Path, bytes and hash of each file, for the manifest; of one on the hub its name."""
    return [
        {**entry, **_hash(given, path)} for given in inputs for path, entry in zip(given.paths, state_of(given), strict=True)
    ]


def _hash(given: Input, path: Path) -> dict:
    return {} if given.kind == "hub" else {"xxh128": xxh128_of(path)}


def state_of(given: Input) -> list[dict]:
    if given.kind == "hub":
        return [{"path": hub_name(given.paths[0]), **_described(given)}]
    return [
        {"path": str(path), "bytes": size, **_described(given)}
        for path, size in zip(given.paths, _sizes(given), strict=True)
    ]


def state(inputs: list[Input]) -> list[dict]:
    """What changes when an input is written again; quick."""
    return [
        entry | ({} if given.kind == "hub" else {"modified_ns": max(file.stat().st_mtime_ns for file in files_of(path))})
        for given in inputs
        for path, entry in zip(given.paths, state_of(given), strict=True)
    ]


def are_like(inputs: list[Input], described: list[dict]) -> bool:
    """Whether they have the sizes that `describe` saw, in this order, and are read in the same way; quick."""
    return _without(["path"], [entry for given in inputs for entry in state_of(given)]) == _without(
        ["path", "xxh128"], described
    )


def are_those(inputs: list[Input], described: list[dict]) -> bool:
    """Whether the inputs have the contents that `describe` saw, in this order, wherever they are."""
    return are_like(inputs, described) and _without(["path"], describe(inputs)) == _without(["path"], described)


def _without(names: list[str], entries: list[dict]) -> list[dict]:
    """Those on the hub keep their name, which is all that is known of them."""
    return [{key: value for key, value in entry.items() if key not in names or "bytes" not in entry} for entry in entries]


def in_background(function: Callable[..., Result], *arguments) -> Future[Result]:
    """Call it in a thread that does not keep the process alive when other work fails."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
