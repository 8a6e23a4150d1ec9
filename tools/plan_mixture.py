"""Show what a run will consume of each source, before it starts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from megatron_lmt.arguments import at_least, file_to_write, picture_to_write, positive
from megatron_lmt.config import load_run
from megatron_lmt.data.planner import add_targets, aggregate, by_group, by_language, by_pair, by_source, plan_rows, warnings
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import run_tool
from megatron_lmt.plots import draw_plan
from megatron_lmt.preflight import check_data
from megatron_lmt.text_table import text_table

SHOWN_WARNINGS = 10
VIEWS = {"group": by_group, "language": by_language, "pair": by_pair, "source": by_source}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_file", type=Path, help="TOML file of the run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.train_iters=20")
    parser.add_argument("--by", choices=VIEWS, default="group", help="rows of the table (default: group)")
    parser.add_argument("--json", type=file_to_write, metavar="FILE", help="write all views, and the warnings, here")
    parser.add_argument("--png", type=picture_to_write, metavar="FILE", help="draw the planned tokens of each source here")
    parser.add_argument("--tokens-per-second-per-gpu", type=positive, metavar="N", help="to say how many GPU-hours it takes")
    parser.add_argument("--most-epochs", type=positive, default=4, metavar="N", help="warn about more (default: 4)")
    parser.add_argument(
        "--documents",
        type=at_least(1),
        default=20_000,
        metavar="N",
        help="of each direction, to look for repeated targets (20,000)",
    )
    arguments = parser.parse_intermixed_args()
    run = load_run(arguments.run_file, arguments.overrides)
    plan, readers = check_data(run)
    rows = plan_rows(run, plan, readers)
    tokenizer = load_tokenizer(run.data.tokenizer_type, run.path(run.data.tokenizer_model))
    add_targets(rows, run, plan, readers, tokenizer, arguments.documents)
    found = warnings(rows, run, arguments.most_epochs)
    tokens = sum(row["planned_tokens"] for row in rows)

    print("\n".join(_plan_table(aggregate(rows, VIEWS[arguments.by]))))
    print("\n".join(["", *_repetition_table(rows)]))
    batch = f"{run.train.global_batch_size} samples of {run.data.seq_length} positions"
    print(f"\n{run.train_iters:,} steps of {batch}: {tokens:,.0f} tokens")
    print(f"token files: {sum(row['bytes'] for row in rows) / 1e9:,.3f} GB")
    if arguments.tokens_per_second_per_gpu:
        print(f"GPU-hours: {tokens / arguments.tokens_per_second_per_gpu / 3600:,.1f}")
    for warning in found[:SHOWN_WARNINGS]:
        print(f"warning: {warning}")
    if found[SHOWN_WARNINGS:]:
        print(f"warning: {len(found) - SHOWN_WARNINGS} more, see --json")
    if arguments.json:
        views = {name: aggregate(rows, view) for name, view in VIEWS.items() if name != "source"}
        arguments.json.write_text(
            json.dumps({**views, "source": rows, "warnings": found}, indent=2) + "\n", encoding="utf-8"
        )
    if arguments.png:
        draw_plan(rows, arguments.png)


def _plan_table(rows: list[dict]) -> list[str]:
    header = ("name", "sources", "documents", "tokens", "share", "samples", "tokens to consume", "epochs")
    cells = [
        (
            row["name"],
            row["sources"],
            f"{row['documents']:,}",
            f"{row['tokens']:,}",
            f"{row['weight']:.3%}",
            f"{row['planned_samples']:,.1f}",
            f"{row['planned_tokens']:,.0f}",
            f"{row['epochs']:.3f}",
        )
        for row in rows
    ]
    return text_table(header, cells)


def _repetition_table(rows: list[dict]) -> list[str]:
    """The directions whose targets have the most sources."""
    known = sorted((row for row in rows if "mean_sources" in row), key=lambda row: -row["mean_sources"])
    header = ("most repeated targets", "distinct", "sources of a target", "at most", "after downsampling", "target tokens")
    cells = [
        (
            row["member"],
            f"{row['distinct_targets']:,}",
            f"{row['mean_sources']:.2f}",
            row["max_sources"],
            f"{row['mean_sources_downsampled']:.2f}",
            f"{row['target_share']:.1%}",
        )
        for row in known[:10]
    ]
    return text_table(header, cells) if cells else ["no direction whose targets can be told from their sources"]


if __name__ == "__main__":
    run_tool(main)
