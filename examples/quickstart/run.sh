#!/usr/bin/env bash
# From text to a translating model, in minutes, on a CPU:  bash examples/quickstart/run.sh [WORKDIR]
#
# corpus -> tokenizer -> tokens -> CPT (2 processes) -> SFT (2 processes) -> export -> translations -> report
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=examples/steps.sh
source "$here/../steps.sh"
open_work "${1:-$repository/runs/quickstart}"

preprocess() {
    python "$repository/tools/preprocess_data.py" --tokenizer-type HuggingFaceTokenizer --tokenizer-model tokenizer \
        --workers 2 "$@"
}

step tokenizer tokenizer python "$repository/tools/train_tokenizer.py" \
    --input "$here"/corpus/??.txt "$here/prompts.txt" --vocab-size 2048 --output tokenizer
step cpt_text cpt_text python "$repository/tools/build_corpus.py" cpt --config "$here/cpt_corpus.toml" --output cpt_text
step cpt_tokens cpt_tokens preprocess --input-dir cpt_text --output-dir cpt_tokens --append-eod
step cpt - train cpt
step sft_text sft_text python "$repository/tools/build_corpus.py" sft --config "$here/sft_corpus.toml" \
    --tokenizer tokenizer --output sft_text
step sft_tokens sft_tokens preprocess --input-dir sft_text --output-dir sft_tokens --json-keys prompt target --loss-keys target
step sft - train sft
step export model python "$repository/tools/checkpoint/convert.py" --loader mcore --saver hf --load-dir sft --save-dir model
step report report python "$here/report.py" --corpus "$here/corpus" --work . --output report

echo
cat report/report.txt
close_work "everything is in $work"
