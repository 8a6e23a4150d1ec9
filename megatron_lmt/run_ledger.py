"""A run directory's plan against its ledger, from the files of the run alone: no job, no torch."""

from __future__ import annotations

import json
from pathlib import Path

from megatron_lmt.data.indexed import read_manifest
from megatron_lmt.data.ledger import comparison_table
from megatron_lmt.data.weights import Phase, Plan, Source
from megatron_lmt.errors import DataError
from megatron_lmt.preflight import RESOLVED
from megatron_lmt.runtime.checkpoint_folder import find_checkpoint, read_run_state


def plan_against_ledger(run_dir: Path) -> list[str]:
    """Lines of text: the newest record of what was consumed beside what was planned up to there, by group and by source.

    Raises:
        UserError: this is not a run directory, or it has neither a ledger nor a complete checkpoint.
    """
    if not (run_dir / RESOLVED).is_file():
        raise DataError(f"{run_dir}: no {RESOLVED} in it, so it is not a run directory; name the output_dir of a run")
    resolved = json.loads((run_dir / RESOLVED).read_text(encoding="utf-8"))
    record, iteration, ledger = _newest_ledger(run_dir, resolved)
    samples = iteration * resolved["run"]["train"]["global_batch_size"]
    plan = _plan(resolved)
    names = [source.name for source in plan.sources]
    planned = dict(zip(names, plan.planned_samples(samples), strict=True))
    return [
        f"{record}: after {iteration:,} of {resolved['train_iters']:,} iterations, {samples:,} samples",
        "",
        *comparison_table(planned, ledger, by="group"),
        "",
        *comparison_table(planned, ledger, by="source"),
    ]


def _plan(resolved: dict) -> Plan:
    """The plan as resolved.json records it."""
    sources = [Source(source["name"], source["group"], Path(source["prefix"])) for source in resolved["sources"]]
    phases = []
    for start, members in resolved["identity"]["phases"].items():
        weights = {name: member["weight"] for name, member in members.items()}
        phases.append(Phase(int(start.split()[1]), [weights.get(source.name, 0.0) for source in sources]))
    return Plan(sources, phases)


def _newest_ledger(run_dir: Path, resolved: dict) -> tuple[Path, int, list[dict]]:
    """The file that records what was consumed, the iteration it is of, and its rows as `Mixture.ledger` has them."""
    at_end = run_dir / "ledger.json"
    if at_end.is_file():
        return at_end, resolved["train_iters"], json.loads(at_end.read_text(encoding="utf-8"))
    folder = find_checkpoint(run_dir)
    state = read_run_state(folder)
    cursors = state["data"]["sources"]
    # a source may have been added since this checkpoint
    sources = [source for source in resolved["sources"] if source["name"] in cursors]
    return folder, state["iteration"], [_row(source, cursors[source["name"]]) for source in sources]


def _row(source: dict, cursor: dict) -> dict:
    return {
        "source": source["name"],
        "group": source["group"],
        "samples": sum(cursor["drawn_in_phases"]),
        "samples_in_phases": cursor["drawn_in_phases"],
        "documents": cursor["consumed_documents"],
        "tokens": cursor["consumed_tokens"],
        "epochs": cursor["consumed_documents"] / read_manifest(Path(source["prefix"]))["documents"],
    }
