"""A run that forgets X→en while it learns en→X raises the alert."""

import json

from tests.end_to_end.processes import train

PHASES = """
[[data.phases]]
start_iteration = {start}
weights = {{ mono = 0, into = 0, out = 1 }}
"""


def write_run(run_file, phases):
    text = run_file.read_text()
    mixture = "".join(
        f'[data.mixture.{name}]\nweight = 1\npath = "tokens/{{direction}}_text_document"\ndirections = {directions}\n'
        for name, directions in (("into", '["es-en", "de-en"]'), ("out", '["en-es", "en-de"]'))
    )
    head, rest = text.split("[data.mixture.parallel]")
    text = head.replace("weight = 1", "weight = 0") + mixture + phases + rest[rest.index("[train]") :]
    sources = ", ".join(f'"{d}" = "tokens/{d}_text_document"' for d in ("es-en", "en-es", "de-en", "en-de"))
    text = text.replace('sources = { zh = "tokens/mono.zh_text_document" }', f"eval_samples = 4\nsources = {{ {sources} }}")
    run_file.write_text(text.replace("eval_interval = 10", "eval_interval = 15"))


def test_a_run_that_forgets_one_side_raises_the_alert(tiny_run):
    write_run(tiny_run, PHASES.format(start=30))
    settings = ("optimizer.lr=1e-2", "optimizer.lr_decay_style=constant", "checkpoint.save_interval=60")
    run = tiny_run.parent / "run"
    train(tiny_run, 1, "train.train_iters=75", *settings)
    records = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    alerted = [record["iteration"] for record in records if "directional_degeneration/en" in record]
    log = (run / "train.log").read_text()
    assert alerted and alerted[0] > 30, [{k: v for k, v in r.items() if "loss/" in k} for r in records]
    assert log.count("directional degeneration: since iteration") == len(alerted)
    assert "Keep less of X→en" in log
