"""From the words of the run file to one weight for each source, in each phase of the run.

Next on the path: `mixture.py` draws samples by these weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from megatron_lmt.config import GroupSection, RunConfig
from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.errors import ConfigError
from megatron_lmt.languages import is_downsampled, split_direction


@dataclass(frozen=True)
class Source:
    """One language or direction of the mixture."""

    name: str
    group: str
    prefix: Path


@dataclass(frozen=True)
class Phase:
    """From `start_sample` of the run on, each source has this share of the samples; the shares sum to 1."""

    start_sample: int
    weights: list[float]


@dataclass(frozen=True)
class Plan:
    """The sources of a run, those of a group together, and their weights in each phase."""

    sources: list[Source]
    phases: list[Phase]

    def planned_samples(self, total: int) -> list[float]:
        """Samples of each source among the first `total` of the run."""
        planned = [0.0] * len(self.sources)
        ends = [phase.start_sample for phase in self.phases[1:]] + [total]
        for phase, end in zip(self.phases, ends, strict=True):
            samples = max(0, min(end, total) - phase.start_sample)
            planned = [count + weight * samples for count, weight in zip(planned, phase.weights, strict=True)]
        return planned


def source_prefixes(run: RunConfig) -> dict[str, dict[str, Path]]:
    """Group name → source name → prefix of its token files, in the order of the run file."""
    return {name: _group_prefixes(name, group, run.root) for name, group in run.data.mixture.items()}


def _group_prefixes(name: str, group: GroupSection, root: Path) -> dict[str, Path]:
    if group.languages:
        return {f"{name}/{code}": root / group.path.format(language=code) for code in group.languages}
    if group.directions:
        prefixes = {}
        for direction in group.directions:
            source, target = split_direction(direction)
            path = group.path.format(direction=direction, source=source, target=target)
            prefixes[f"{name}/{direction}"] = root / path
        return prefixes
    return {name: root / group.path}


def make_plan(run: RunConfig, readers: dict[str, IndexedReader]) -> Plan:
    """Turn the words of the run file into weights.

    Args:
        readers: source name → its opened token files.
    Raises:
        ConfigError: a source would be seen more often than its `max_epochs`, and the others of its group cannot take
            what is over.
    """
    mixture = run.data.mixture
    total_samples = run.train_iters * run.train.global_batch_size
    starts = [0, *(phase.start_iteration * run.train.global_batch_size for phase in run.data.phases)]
    group_weights = [
        {name: group.weight for name, group in mixture.items()},
        *(phase.weights for phase in run.data.phases),
    ]
    group_shares = [{name: weights[name] / sum(weights.values()) for name in mixture} for weights in group_weights]
    lengths = [end - start for start, end in zip(starts, [*starts[1:], total_samples], strict=True)]
    sources, shares, problems = [], [], []
    for name, prefixes in source_prefixes(run).items():
        samples = sum(share[name] * length for share, length in zip(group_shares, lengths, strict=True))
        group_readers = {source: readers[source] for source in prefixes}
        within, problem = _shares_within(name, mixture[name], group_readers, samples * run.data.seq_length)
        problems += problem
        sources += [Source(source, name, prefix) for source, prefix in prefixes.items()]
        shares += [within[source] for source in prefixes]
    if problems:
        raise ConfigError(problems)
    phases = [
        Phase(start, [by_group[source.group] * share for source, share in zip(sources, shares, strict=True)])
        for start, by_group in zip(starts, group_shares, strict=True)
    ]
    return Plan(sources, phases)


def _shares_within(
    name: str, group: GroupSection, readers: dict[str, IndexedReader], budget: float
) -> tuple[dict[str, float], list[str]]:
    """The share of each source in its group, and what is wrong with them.

    Args:
        budget: positions that the whole group has in the run.
    """
    sizes = {source: _size(source, group, reader) for source, reader in readers.items()}
    shares = {source: size / sum(sizes.values()) for source, size in sizes.items()}
    if group.max_epochs is None or not budget:
        return shares, []
    caps = {source: group.max_epochs * _positions(reader) / budget for source, reader in readers.items()}
    over = [source for source in shares if shares[source] > caps[source] * (1 + 1e-9)]
    if not over:
        return shares, []
    if group.on_max_epochs == "error":
        return shares, [
            f"data.mixture.{name}: {source} would be seen {group.max_epochs * shares[source] / caps[source]:.1f} times, "
            f"more than max_epochs = {group.max_epochs}; lower its weight or the budget, or set on_max_epochs = "
            '"redistribute"'
            for source in over
        ]
    if sum(caps.values()) < 1:
        return shares, [
            f"data.mixture.{name}: at max_epochs = {group.max_epochs} its {len(shares)} sources have "
            f"{sum(caps.values()) * budget:,.0f} tokens, but the run wants {budget:,.0f} of them; raise max_epochs, or "
            "lower the weight of the group or the budget"
        ]
    return _capped(shares, caps), []


def _size(source: str, group: GroupSection, reader: IndexedReader) -> float:
    """What the share of a source in its group is proportional to."""
    member = source.rpartition("/")[2]
    size = {
        "uniform": 1.0,
        "proportional": float(reader.num_tokens),
        "temperature": reader.num_tokens ** (1 / (group.temperature or 1)),
        "explicit": (group.weights or {}).get(member, 0.0),
    }[group.within]
    if group.directions and is_downsampled(*split_direction(member)):
        size *= group.downsample
    return size


def _positions(reader: IndexedReader) -> int:
    """Positions of one epoch: a document of n tokens has n - 1."""
    return reader.num_tokens - reader.num_documents


def _capped(shares: dict[str, float], caps: dict[str, float]) -> dict[str, float]:
    """Shares cut at their caps; what is over goes to the others in proportion, until none is above its cap."""
    fixed: dict[str, float] = {}
    while True:
        free = {source: share for source, share in shares.items() if source not in fixed}
        scale = (1 - math.fsum(fixed.values())) / math.fsum(free.values())
        over = {source: caps[source] for source, share in free.items() if share * scale > caps[source] * (1 + 1e-12)}
        if not over:
            return {source: fixed.get(source, share * scale) for source, share in shares.items()}
        fixed |= over
