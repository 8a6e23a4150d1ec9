"""Evaluate one checkpoint of a run beside its training; `snapshots.py` starts `python -m megatron_lmt.evaluate_snapshot`.

The checkpoint is exported, the model translates, and the outputs are scored as by `tools/evaluate_mt.py`; result.json is
written last. No megatron-core: what it changes in torch on a CPU stays in the training.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from megatron_lmt.config import EvaluationSection
from megatron_lmt.conversion.mcore_to_hf import export_to_hf
from megatron_lmt.conversion.options import Options
from megatron_lmt.errors import run_command
from megatron_lmt.eval.evaluate import Evaluation, evaluate, model_translator
from megatron_lmt.eval.report import groups_of
from megatron_lmt.eval.test_set import TestSet
from megatron_lmt.files import write_json_atomically
from megatron_lmt.processes import end_with_parent

RESULT = "result.json"
METRICS = (
    "chrf++",
    "bleu",
    "off_target_rate",
    "undetermined_rate",
    "source_copy_rate",
    "empty_rate",
    "repetition_rate",
    "length_outlier_rate",
    "length_ratio",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--parent", type=int, help="process that starts this one, and that it ends with")
    parser.add_argument("--settings", required=True, help="the run file's section [evaluation], as JSON")
    arguments = parser.parse_args()
    if arguments.parent:
        end_with_parent(arguments.parent)  # a run that is started again starts this again
    os.nice(10)
    settings = EvaluationSection.model_validate(json.loads(arguments.settings))
    model = arguments.output_dir / "model"
    export_to_hf(arguments.checkpoint, model, Options())
    options = {
        "prompt": "stp",
        "through": None,
        **{name: getattr(settings, name) for name in ("template", "num_beams", "max_new_tokens", "batch_size")},
    }
    test_set = TestSet(settings.test_set)
    directions, _ = test_set.directions(settings.directions)
    evaluation = Evaluation(test_set, directions, arguments.output_dir, settings.max_sentences)
    translate = model_translator(model, "transformers", "auto", options, arguments.output_dir, directions)
    records = evaluate(evaluation, translate, {"snapshot": arguments.output_dir.name, **options}, set())
    write_json_atomically(arguments.output_dir / RESULT, summary(records))
    shutil.rmtree(model)


def summary(records: list[dict]) -> dict[str, float]:
    """`<metric>/<direction>`, and `<metric>/<group>` for the mean of a group such as x-en, of the records of `evaluate`."""
    values = {f"{metric}/{record['direction']}": record[metric] for metric in METRICS for record in records}
    for metric in METRICS:
        members: dict[str, list[float]] = {}
        for record in records:
            for group in groups_of(record["direction"]):
                members.setdefault(group, []).append(record[metric])
        values |= {f"{metric}/{group}": sum(found) / len(found) for group, found in members.items()}
    return values


if __name__ == "__main__":
    run_command(main)
