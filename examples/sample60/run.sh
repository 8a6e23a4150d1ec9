#!/usr/bin/env bash
# The quickstart's path on real text in all 60 languages:  bash examples/sample60/run.sh [--data DIR] [WORKDIR]
#
# 60 monolingual sources and 234 directions, each with its own token files; 100 steps of a 10M Qwen3, tensor parallel on
# two CPU processes, 40 steps of fine-tuning on LMT's data in all 117 pairs, downsampled to 5 %, and scores in 24
# directions. The data are in DIR or in $MEGATRON_LMT_SAMPLE_DATA.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ${1:-} == --data ]]; then
    export MEGATRON_LMT_SAMPLE_DATA=${2:?--data needs a folder}
    shift 2
fi
if [[ ! -d ${MEGATRON_LMT_SAMPLE_DATA:-} ]]; then
    echo "no sample data: give --data DIR or set MEGATRON_LMT_SAMPLE_DATA (now '${MEGATRON_LMT_SAMPLE_DATA:-}')" >&2
    exit 2
fi
MEGATRON_LMT_SAMPLE_DATA=$(realpath "$MEGATRON_LMT_SAMPLE_DATA")
export MEGATRON_LMT_SAMPLE_DATA
# shellcheck source=examples/steps.sh
source "$here/../steps.sh"
open_work "${1:-$repository/runs/sample60}"

tools=$repository/tools

step text text python "$tools/build_corpus.py" cpt --config "$here/corpus.toml" --output text
step tokenizer tokenizer python "$tools/train_tokenizer.py" --input text/mono.*.jsonl text/en-*.jsonl text/zh-*.jsonl \
    --vocab-size 16384 --output tokenizer
step tokens tokens python "$tools/preprocess_data.py" --input-dir text --output-dir tokens --append-eod --workers 2 \
    --tokenizer-type HuggingFaceTokenizer --tokenizer-model tokenizer
step cpt - train cpt
step sft_text sft_text python "$tools/build_corpus.py" sft --config "$here/../lmt60/sft_corpus.toml" \
    --root "$MEGATRON_LMT_SAMPLE_DATA" --tokenizer tokenizer --output sft_text
step sft_tokens sft_tokens python "$tools/preprocess_data.py" --input-dir sft_text --output-dir sft_tokens --workers 2 \
    --json-keys prompt target --loss-keys target --max-tokens 513 --on-bad-line quarantine \
    --tokenizer-type HuggingFaceTokenizer --tokenizer-model tokenizer
step sft - train sft
step export model python "$tools/checkpoint/convert.py" --loader mcore --saver hf --load-dir cpt --save-dir model
step sft_export sft_model python "$tools/checkpoint/convert.py" --loader mcore --saver hf --load-dir sft --save-dir sft_model
# sentences of its own training text, and too few steps to translate them: this shows the path in scripts of all kinds
step evaluation evaluation python "$tools/evaluate_mt.py" --model sft_model --test-set "$MEGATRON_LMT_SAMPLE_DATA/flores200_dev" \
    --directions en-zh zh-en en-mvf mvf-en zh-mvf mvf-zh en-bo bo-zh en-my my-en en-km km-zh en-am am-en en-ar ar-en \
    en-he he-en en-th th-zh en-ja ja-zh zh-yue yue-en --max-sentences 4 --num-beams 1 --max-new-tokens 32 --output-dir evaluation
step generate generated.txt python "$here/generate.py" --model model --output generated.txt

echo
cat generated.txt
close_work "mixture.png, loss.png and the table of
tokens per group (train.log, ledger.json) are in $work/cpt, those of the fine-tuning in $work/sft, its scores in $work/evaluation"
