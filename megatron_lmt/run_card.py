"""The run card: what a run was and what came of it, in one file, from which the same run can be started again.

`run_card.json` is for programs and `--from-card`, `run_card.md` for people. Both are written when a run starts, when it
stops and when it is done; each start adds a line, so a run that changed its machine or its code in the middle shows it.
Next: `train.py`, which starts a run from its file or from a card.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from megatron_lmt.config import RunConfig, load_run, run_of
from megatron_lmt.data.indexed import IndexedReader, manifest_path
from megatron_lmt.data.ledger import consumed_table
from megatron_lmt.errors import ConfigError, with_advice
from megatron_lmt.files import file_sha256, write_json_atomically, write_text_atomically
from megatron_lmt.preflight import ReadyRun, differences
from megatron_lmt.provenance import code, machine, versions
from megatron_lmt.runtime.checkpoint_manifest import COMMIT_MARKER
from megatron_lmt.runtime.metrics import METRICS, VALIDATION

RUN_CARD = "run_card.json"
RESUME_CHECK = "resume_check.json"
"""What `resume_check.py` found out."""


@dataclass(frozen=True)
class Origin:
    """Where a run was described: `path` is its run file, with its `text` and the `overrides` of the command line.

    `card` is the run card that it was started from, if it was.
    """

    path: Path
    text: str
    overrides: list[str]
    card: dict | None = None


def run_from_file(run_file: Path, overrides: list[str]) -> tuple[RunConfig, Origin]:
    """
    Raises:
        ConfigError: as `load_run`.
    """
    run = load_run(run_file, overrides)
    return run, Origin(run_file, run_file.read_text(encoding="utf-8"), overrides)


def run_from_card(path: Path, overrides: list[str]) -> tuple[RunConfig, Origin]:
    """
    Raises:
        ConfigError: no such card, or its run does not fit this version of the code, with one line for each problem.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        run, origin = card["run"], card["run_file"]
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; --from-card wants a {RUN_CARD}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a run card ({error!r})") from None
    overrides_of_both = [*origin["overrides"], *overrides]
    return run_of(run, overrides, str(path), path.parent), Origin(
        Path(origin["path"]), origin["text"], overrides_of_both, card
    )


def check_against_card(ready: ReadyRun, origin: Origin) -> list[str]:
    """
    Returns:
        lines about what is different and may be: code, versions.
    Raises:
        ConfigError: data, tokenizer, shape, start weights or another input of the result are not those of the card.
    """
    if not origin.card:
        return []
    found = differences(origin.card["identity"], ready.identity)
    if "start_weights" in origin.card:
        found += differences(_known_by(origin.card["start_weights"]), _known_by(_start_weights(ready)))
    if found:
        raise ConfigError(
            with_advice(
                [f"not the run of the card: {difference}" for difference in found],
                "what decides the result must be as it was; to change it, start from the run file",
            )
        )
    then = origin.card["starts"][-1]
    now = {"code": code(), "versions": versions()}
    return [f"not as on the card: {line}" for line in differences({key: then[key] for key in now}, now)]


def start_card(ready: ReadyRun, origin: Origin, world_size: int, device: str) -> None:
    """Write the card of a run that starts or goes on."""
    path = ready.run.output_dir / RUN_CARD
    before = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.is_file() else []
    start = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "after": ready.resume_from.name if ready.resume_from else None,
        "processes": world_size,
        "device": device,
        "machine": machine(),
        "code": code(),
        "versions": versions(),
    }
    card = {
        "run": ready.run.model_dump(mode="json"),
        "run_file": {"path": str(origin.path.absolute()), "text": origin.text, "overrides": origin.overrides},
        "identity": ready.identity,
        "start_weights": _start_weights(ready),
        "num_parameters": ready.shape.num_parameters,
        "manifests": {"training": _manifests(ready.readers), "validation": _manifests(ready.validation_readers)},
        "starts": [*before, start],
    }
    _write(ready.run.output_dir, card)


def finish_card(run_dir: Path, ledger: list[dict], is_done: bool) -> dict:
    """Add to the card what has come of the run so far, from the files of its folder; returns the card."""
    card = json.loads((run_dir / RUN_CARD).read_text(encoding="utf-8"))
    last = _last_line(run_dir / METRICS)
    losses = ("lm_loss", "grad_norm", "learning_rate", "consumed_samples", "consumed_tokens", "data_fingerprint")
    card["result"] = {
        "is_done": is_done,
        **{key: last[key] for key in ("iteration", *losses)},
        "losses": {key: value for key, value in last.items() if key.startswith("loss/")},
        "validation": _last_line(run_dir / VALIDATION),
        "ledger": ledger,
    }
    if (run_dir / RESUME_CHECK).is_file():
        card["resume_check"] = json.loads((run_dir / RESUME_CHECK).read_text(encoding="utf-8"))
    _write(run_dir, card)
    return card


def compare_results(card: dict, again: dict) -> list[str]:
    """Lines: whether a run that was started from `card` came to the same."""
    then, now = card.get("result"), again["result"]
    if not then or not then["is_done"]:
        return ["the card has no final result to compare with"]
    return [
        f"as on the card: {key} = {now[key]}" if now[key] == then[key] else f"{key} = {now[key]}, {then[key]} on the card"
        for key in ("data_fingerprint", "lm_loss", "validation")
    ]


def _start_weights(ready: ReadyRun) -> dict | None:
    """Where a run starts, and a hash: of a checkpoint's manifest, which has the hashes of its files, or
    `SafetensorsFolder.fingerprint`. None for random weights, which the seed decides."""
    start = ready.start_from
    if start is None:
        return None
    if isinstance(start, Path):
        return {"path": str(start), "sha256": file_sha256(start / COMMIT_MARKER)}
    return {"path": str(start.folder), "sha256": start.fingerprint()}


def _known_by(start_weights: dict | None) -> dict:
    """Without the path: the same weights may lie elsewhere."""
    return {"start_weights": start_weights["sha256"] if start_weights else "random"}


def _manifests(readers: dict[str, IndexedReader]) -> dict[str, dict]:
    """The manifest of each source's token files has the hashes of the files; its own hash stands for all of them."""
    paths = {name: manifest_path(reader.prefix) for name, reader in readers.items()}
    return {name: {"path": str(path), "sha256": file_sha256(path)} for name, path in paths.items()}


def _last_line(path: Path) -> dict:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return json.loads(lines[-1]) if lines else {}


def _write(run_dir: Path, card: dict) -> None:
    write_json_atomically(run_dir / RUN_CARD, card)
    write_text_atomically(run_dir / "run_card.md", "\n".join(_for_people(run_dir, card)) + "\n")


def _for_people(run_dir: Path, card: dict) -> list[str]:
    train, parallel = card["run"]["train"], card["run"]["parallel"]
    lines = [
        f"# {run_dir.name}",
        "",
        f"{card['num_parameters']:,} parameters, global batch of {train['global_batch_size']} samples of "
        f"{card['run']['data']['seq_length']} positions, seed {card['run']['seed']}; "
        f"{len(card['manifests']['training'])} sources.",
        _start_line(card["start_weights"]),
        f"Layout: {', '.join(f'{key} = {value}' for key, value in parallel.items() if value is not None)}.",
        "",
        "| start (UTC) | after | processes | device | commit | torch | megatron-core |",
        "|---|---|---|---|---|---|---|",
        *map(_start_row, card["starts"]),
        "",
        *(_result_lines(card["result"]) if "result" in card else ["The run has no result yet."]),
        "",
        "The same run again, somewhere else:",
        "",
        f"    torchrun --nproc-per-node N -m megatron_lmt.train --from-card {run_dir / RUN_CARD} output_dir=NEW",
    ]
    return lines


def _start_line(weights: dict | None) -> str:
    return f"Started from {weights['path']}, sha256 {weights['sha256']}." if weights else "Started from random weights."


def _start_row(start: dict) -> str:
    commit = (start["code"]["commit"] or "no repository")[:12] + (" and changes" if start["code"]["dirty"] else "")
    cells = (start["time"], start["after"] or "", start["processes"], start["device"], commit)
    return f"| {' | '.join(map(str, cells))} | {start['versions']['torch']} | {start['versions']['megatron-core']} |"


def _result_lines(result: dict) -> list[str]:
    losses = {"lm_loss": result["lm_loss"], **result["losses"], **result["validation"]}
    losses.pop("iteration", None)
    return [
        f"{'Done' if result['is_done'] else 'Stopped'} after {result['iteration']:,} iterations, "
        f"{result['consumed_samples']:,} samples, {result['consumed_tokens']:,} tokens; "
        f"data fingerprint {result['data_fingerprint']}.",
        "",
        "| last | loss |",
        "|---|---|",
        *(f"| {name} | {'not a number' if value is None else f'{value:.4f}'} |" for name, value in losses.items()),
        "",
        "```",
        *consumed_table(result["ledger"]),
        "```",
    ]
