"""What a run will consume of each source, known before it starts.

Cost: the manifest and index of each source; for target repetition, decoding the documents that are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from megatron_lmt.config import RunConfig
from megatron_lmt.data.indexed import IndexedReader, bin_path, idx_path
from megatron_lmt.data.repetition import Targets, read_targets, repetitions
from megatron_lmt.data.tokenizer import Tokenizer
from megatron_lmt.data.weights import Plan, Source
from megatron_lmt.languages import PIVOTS, is_downsampled, split_direction
from megatron_lmt.progress import progress

MANY_SOURCES = 5.0
"""Sources of one target, on average, from which on a direction is warned about: well above what 5 % of 59 leaves."""


def plan_rows(run: RunConfig, plan: Plan, readers: dict[str, IndexedReader]) -> list[dict]:
    """A row for each source: what is there, and what the run will take of it.

    `planned_tokens` counts full samples; packing leaves under 1 % of them empty. `epochs` is relative to the positions of
    the source, which are its tokens without the first of each document.
    """
    samples = run.train_iters * run.train.global_batch_size
    rows = []
    for source, planned in zip(plan.sources, plan.planned_samples(samples), strict=True):
        reader = readers[source.name]
        rows.append(
            {
                "source": source.name,
                "group": source.group,
                "member": source.name.rpartition("/")[2],
                "documents": reader.num_documents,
                "tokens": reader.num_tokens,
                "bytes": _bytes(source.prefix),
                "weight": planned / samples,
                "planned_samples": planned,
                "planned_tokens": planned * run.data.seq_length,
                "epochs": planned * run.data.seq_length / (reader.num_tokens - reader.num_documents),
            }
        )
    return rows


def _bytes(prefix: Path) -> int:
    return bin_path(prefix).stat().st_size + idx_path(prefix).stat().st_size


def directions_of(run: RunConfig, plan: Plan) -> dict[str, Source]:
    """Direction → source, for the sources that are directions."""
    groups = run.data.mixture
    return {source.name.rpartition("/")[2]: source for source in plan.sources if groups[source.group].directions}


def add_targets(
    rows: list[dict], run: RunConfig, plan: Plan, readers: dict[str, IndexedReader], tokenizer: Tokenizer, documents: int
) -> None:
    """Add `target_share` and the fields of `Repetition` to the rows of directions whose targets can be told.

    Args:
        documents: to look at in each source, at most.
    """
    sources = directions_of(run, plan)
    targets: dict[str, Targets] = {}
    with progress(len(sources), "reading targets", " sources") as bar:
        for direction, source in sources.items():
            seen = read_targets(readers[source.name], tokenizer, direction, documents)
            if seen:
                targets[direction] = seen
            bar.update(1)
    groups = run.data.mixture
    rates = {
        direction: groups[source.group].downsample if is_downsampled(*split_direction(direction)) else 1.0
        for direction, source in sources.items()
    }
    found = repetitions(targets, rates)
    for row in rows:
        if row["member"] in found:
            row["target_share"] = targets[row["member"]].token_share
            row.update(asdict(found[row["member"]]))


def warnings(rows: list[dict], run: RunConfig, most_epochs: float) -> list[str]:
    """What a person should look at before the run starts."""
    found = []
    for row in rows:
        name = row["source"]
        if row["epochs"] > most_epochs:
            found.append(
                f"{name}: seen {row['epochs']:.1f} times, more than {most_epochs:g}; see max_epochs in the run file"
            )
        if row["planned_samples"] < 1:
            found.append(f"{name}: {row['planned_samples']:.2g} samples planned, it may never be drawn")
        if row["tokens"] - row["documents"] < run.data.seq_length:
            found.append(f"{name}: smaller than one sample of {run.data.seq_length} positions")
        if row.get("mean_sources_downsampled", 0) > MANY_SOURCES:
            found.append(
                f"{name}: each target has {row['mean_sources_downsampled']:.1f} sources on average (up to "
                f"{row['max_sources']} in the text); see downsample in the run file"
            )
    return found


def aggregate(rows: list[dict], key: Callable[[dict], list[str]]) -> list[dict]:
    """Sum rows that share a name.

    Args:
        key: the names that a row counts for, such as its group, or both of its languages.
    """
    sums: dict[str, dict] = {}
    for row in rows:
        for name in key(row):
            total = sums.setdefault(name, {"name": name, "sources": 0})
            total["sources"] += 1
            for unit in ("documents", "tokens", "bytes", "weight", "planned_samples", "planned_tokens"):
                total[unit] = total.get(unit, 0) + row[unit]
    for total in sums.values():
        total["epochs"] = total["planned_tokens"] / (total["tokens"] - total["documents"])
    return list(sums.values())


def by_group(row: dict) -> list[str]:
    return [row["group"]]


def by_source(row: dict) -> list[str]:
    return [row["source"]]


def by_language(row: dict) -> list[str]:
    """A direction counts for both of its languages."""
    return row["member"].split("-") if row["member"] != row["source"] else []


def by_pair(row: dict) -> list[str]:
    """Both directions of a pair under its name with the pivot first."""
    if "-" not in row["member"]:
        return []
    source, target = row["member"].split("-")
    forward = source in PIVOTS and (target not in PIVOTS or source == "en")
    return [f"{source}-{target}" if forward else f"{target}-{source}"]
