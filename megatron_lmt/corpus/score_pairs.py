"""Scores of pairs for `[clean.quality]`: a reference-free COMET model, such as CometKiwi, in a Python of its own.

Next on the path: `quality.py` reads the scores when the corpus is built.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from megatron_lmt.corpus.cpt import CptConfig
from megatron_lmt.corpus.files import PairFiles, check_inputs, pair_files, resolve_root
from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.eval.comet import Comet
from megatron_lmt.files import write_text_atomically
from megatron_lmt.toml_config import load_toml, validate

PAIRS_IN_A_PART = 1_000_000
"""Held in memory at once, about 1 GB; the model is loaded for each part."""


def score_pairs(config_file: Path, comet: Comet, root: str | None = None, only: list[str] | None = None) -> dict[Path, int]:
    """Write the files that `clean.quality.scores` names: a number for each line, source and target as the config has them.

    Files that are there are left as they are; a run that was stopped goes on after its last finished chunk.

    Args:
        config_file: of the CPT corpus.
        root: instead of the config's own.
        only: of these pairs.
    Returns:
        number of scores of each file written.
    Raises:
        UserError: the config, its inputs, or COMET; all that is known before work starts, together.
    """
    config = validate(CptConfig, load_toml(config_file), str(config_file))
    folder = resolve_root(root or config.root, config_file)
    jobs = _jobs(pair_files(config, folder), folder, only)
    check_inputs(list(jobs.values()))
    comet.check()
    try:
        return {path: _score(files, path, comet) for path, files in jobs.items() if not path.exists()}
    except OSError as error:  # the disk is full, or not writable, or an input went away
        raise DataError(f"stopped: {error}; mend that and start again: what is scored is kept") from error


def _jobs(inputs: list[PairFiles], root: Path, only: list[str] | None) -> dict[Path, PairFiles]:
    """File to write → its pair.

    Raises:
        ConfigError: no input wants scores, two want one file, or a pair in `only` is not among them.
    """
    wanted = [files for files in inputs if files.clean.quality and files.clean.quality.scores]
    if unknown := set(only or []) - {files.direction for files in wanted}:
        raise ConfigError(f"--only {' '.join(sorted(unknown))}: no input of this pair has clean.quality.scores")
    paths = [(root / files.clean.quality.scores.format(source=files.source, target=files.target), files) for files in wanted]
    doubled = [path for path, times in Counter(path for path, _ in paths).items() if times > 1]
    if not paths or doubled:
        raise ConfigError(
            [f"{path}: the scores of two inputs; give one of them a [clean.quality] of its own" for path in doubled]
            or "no pairs have clean.quality.scores, the file to write their scores to"
        )
    return {path: files for path, files in paths if only is None or files.direction in only}


def _score(files: PairFiles, path: Path, comet: Comet) -> int:
    """
    Raises:
        DataError: there is no pair.
    """
    work = path.with_name(path.name + ".unfinished")
    scores: list[float] = []
    for number, part in enumerate(_parts(files)):
        scores += comet.score(part, work / f"part_{number:04}")[0]
    if not scores:
        raise DataError(f"{' '.join(map(str, files.paths))}: no record in it")
    write_text_atomically(path, "".join(f"{score:.6f}\n" for score in scores))
    shutil.rmtree(work)
    return len(scores)


def _parts(files: PairFiles) -> Iterator[list[dict[str, str]]]:
    # no reference, not an empty one: models that can do with and without would compare with that
    segments = ({"src": source, "mt": target} for _, source, target in files.records())
    while part := list(islice(segments, PAIRS_IN_A_PART)):
        yield part
