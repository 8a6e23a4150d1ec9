"""How many answers of a fine-tuned model end by themselves. In a process of its own, as users generate: where the CPU stands
for a GPU (`runtime/device.py`), transformers leaves buffers of a model that it loads without values.

    python -m tests.end_to_end.answers MODEL    # prints the number, of 16
"""

import sys
from pathlib import Path

from megatron_lmt.sft.prompts import render_prompt

CORPUS = Path(__file__).resolve().parents[2] / "examples/quickstart/corpus"


def main(folder: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    lines = {code: (CORPUS / f"{code}.txt").read_text(encoding="utf-8").split("\n") for code in ("en", "zh", "hi")}
    ended = 0
    for number in range(8):
        plain = render_prompt("release", "en", "zh", lines["en"][number])
        pmp = render_prompt("release", "zh", "hi", lines["zh"][number], ("en", lines["en"][number]))
        for prompt in (plain, pmp):
            chat = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            assert "<think>" not in chat
            inputs = tokenizer(chat, return_tensors="pt", add_special_tokens=False)
            output = model.generate(**inputs, do_sample=False, max_new_tokens=150)[0]
            answer = output[inputs["input_ids"].shape[1] :].tolist()
            ended += answer[-1] == end and answer.count(end) == 1 and len(answer) > 2
    print(ended)


if __name__ == "__main__":
    main(sys.argv[1])
