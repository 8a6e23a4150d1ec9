"""What became of the pairs that the SFT builder read: counts of each direction, target repetition, overlap."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass
class DirectionCounts:
    """Instances of a direction: `before` downsampling and `after`; those after are `plain` or `pmp`.

    `pmp_fallback` are the plain ones that were to have an auxiliary sentence and have none. `code_switched` copies are
    not among them, and neither are repeats; the records of the file are in corpus.json.
    """

    before: int = 0
    after: int = 0
    plain: int = 0
    pmp: int = 0
    pmp_fallback: int = 0
    code_switched: int = 0


@dataclass
class Repetition:
    """Of one target language: instances, and distinct targets among them, before and after downsampling."""

    before: int = 0
    after: int = 0
    distinct_before: set[int] = field(default_factory=set)
    distinct_after: set[int] = field(default_factory=set)

    def as_dict(self) -> dict:
        """Instances for each distinct target: 1 where every target answers one source."""
        return {
            "before": self.before / len(self.distinct_before),
            "after": self.after / len(self.distinct_after) if self.after else 0.0,
            "distinct_before": len(self.distinct_before),
            "distinct_after": len(self.distinct_after),
        }


class SftReport:
    """`directions`: direction → counts. `targets`: language → repetition.

    `overlap`: test set → pair of languages → pairs of sentences with a side, or both, in the test set.
    """

    def __init__(self):
        self.directions: dict[str, DirectionCounts] = {}
        self.targets: dict[str, Repetition] = {}
        self.overlap: dict[str, dict[str, dict[str, int]]] = {}

    def count(self, direction: str, target_text: str, is_kept: bool, wants_pmp: bool, has_auxiliary: bool) -> None:
        counts = self.directions.setdefault(direction, DirectionCounts())
        targets = self.targets.setdefault(direction.rpartition("-")[2], Repetition())
        counts.before += 1
        targets.before += 1
        targets.distinct_before.add(hash(target_text))
        if is_kept:
            counts.after += 1
            counts.pmp += wants_pmp and has_auxiliary
            counts.plain += not (wants_pmp and has_auxiliary)
            counts.pmp_fallback += wants_pmp and not has_auxiliary
            targets.after += 1
            targets.distinct_after.add(hash(target_text))

    def as_dict(self) -> dict:
        return {
            "directions": {direction: asdict(counts) for direction, counts in self.directions.items()},
            "target_repetition": {language: found.as_dict() for language, found in self.targets.items()},
            "overlap": self.overlap,
        }

    def summary(self) -> list[str]:
        """Lines of text for a person."""
        counts = self.directions.values()
        names = ("before", "after", "pmp", "pmp_fallback", "code_switched")
        before, after, pmp, fallback, switched = (sum(getattr(count, name) for count in counts) for name in names)
        lines = [
            f"{len(counts)} directions: {before:,} instances, {after:,} after downsampling",
            f"{pmp:,} with an auxiliary sentence; {fallback:,} were to have one and have none",
        ]
        if switched:
            lines.append(f"{switched:,} code-switched copies beside these")
        repetition = self.as_dict()["target_repetition"]
        for language in ("en", "zh"):
            if found := repetition.get(language):
                lines.append(
                    f"sources of one {language} sentence: {found['before']:.1f}, after downsampling {found['after']:.1f}"
                )
        for name, pairs in self.overlap.items():
            both = sum(counts["both"] for counts in pairs.values())
            either = sum(sum(counts.values()) for counts in pairs.values()) - 2 * both
            lines.append(f"evaluation set {name}: {either:,} pairs have a side of it, {both:,} of them both sides")
        empty = [direction for direction, count in self.directions.items() if not count.after]
        if empty:
            lines.append(f"no file, because nothing is left: {' '.join(empty)}")
        return lines
