"""Let the exported model go on from the tags of a few directions. After 100 steps it knows the commonest words only."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_lmt.errors import run_command

PROMPTS = ("<en2de> Good morning! <de>", "<zh2ky> 你好 <ky>", "<hi2en> नमस्ते <en>", "The children")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(arguments.model))
    model = AutoModelForCausalLM.from_pretrained(str(arguments.model)).eval()
    lines = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        lines.append(f"{prompt}  →  {tokenizer.decode(output[0, inputs['input_ids'].shape[1] :])!r}")
    arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
