#!/usr/bin/env bash
# Strategic Downsampling at p = 0 to 100 %, each a whole fine-tuning with its report, and one chart:
#   bash examples/downsampling_sweep/run.sh --data DIR [--settings small|qwen3_0.6b|FOLDER] [--model FOLDER] [--evaluate] [WORKDIR]
#
# DIR has ntrex/ and flores200_dev/ (and bilingual/ for the small model), as in examples/sample60. Training text is NTREX,
# validation text FLORES dev. `small` first makes its own model, on a CPU; any other settings start from --model. With
# --evaluate the validation sentences are also translated by each run's model and scored; options are in settings.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=${MEGATRON_LMT_SAMPLE_DATA:-} settings=small model='' work='' evaluate=no
while (($#)); do
    case $1 in
        --data) data=$2 ;;
        --settings) settings=$2 ;;
        --model) model=$(realpath "$2") ;;
        --evaluate) evaluate=yes && shift && continue ;;
        *) work=$1 && shift && continue ;;
    esac
    shift 2
done
[[ -d $settings ]] || settings=$here/$settings
if [[ ! -d $data/ntrex || ! -d $data/flores200_dev ]]; then
    echo "no ntrex/ and flores200_dev/ in '$data': give --data DIR or set MEGATRON_LMT_SAMPLE_DATA" >&2
    exit 2
fi
if [[ -z $model && ! -f $settings/base.toml ]]; then
    echo "$settings starts from a model: give --model FOLDER, a Hugging Face folder such as Qwen3-0.6B-Base" >&2
    exit 2
fi
data=$(realpath "$data") settings=$(realpath "$settings")
# shellcheck source=examples/downsampling_sweep/small/settings.sh
source "$settings/settings.sh"
# shellcheck source=examples/steps.sh
source "$here/../steps.sh"
work=$(realpath -m "${work:-$repository/runs/downsampling_sweep}")
mkdir -p "$work"
cd "$work"
began=$SECONDS
tools=$repository/tools
rates=(0 0.005 0.01 0.05 0.1 0.2 0.5 1)

sentences() { # the first sentences of every language, line-aligned
    mkdir text text/train text/valid
    local code
    for code in $languages; do
        python "$here/first_lines.py" "$data/ntrex/ntrex.$code.txt.gz" "$train_sentences" "text/train/$code.txt"
        python "$here/first_lines.py" "$data/flores200_dev/flores.dev.$code.gz" "$valid_sentences" "text/valid/$code.txt"
    done
}
preprocess() {
    python "$tools/preprocess_data.py" --tokenizer-type HuggingFaceTokenizer --tokenizer-model tokenizer --workers 2 "$@"
}
chats() { # NAME TEXT RATE: the corpus of one rate
    python "$tools/build_corpus.py" sft --config "$settings/corpus.toml" --root "$work/text/$2" --tokenizer tokenizer \
        --output "$1" downsample.rate="$3"
}
validation() { # the four groups of directions, without en-zh and zh-en
    local code files
    for code in en zh; do
        mapfile -t files < <(find valid_text -name "$code-*.jsonl" ! -name en-zh.jsonl ! -name zh-en.jsonl | sort)
        preprocess --json-keys prompt target --loss-keys target --output-prefix "valid/$code-x" --input "${files[@]}"
        mapfile -t files < <(find valid_text -name "*-$code.jsonl" ! -name en-zh.jsonl ! -name zh-en.jsonl | sort)
        preprocess --json-keys prompt target --loss-keys target --output-prefix "valid/x-$code" --input "${files[@]}"
    done
}
run() { # OUTPUT_DIR RUN_FILE OVERRIDES...; a run that was only stopped is not a finished step
    torchrun --standalone --nproc-per-node "$processes" -m megatron_lmt.train "$2" root="$work" output_dir="$1" "${@:3}"
    [[ -f $1/DONE ]]
}

step sentences text sentences
if [[ -n $model ]]; then
    ln -sfn "$model" base
    ln -sfn "$model" tokenizer
else
    cp "$settings/config.json" .
    step base_text base_text python "$tools/build_corpus.py" cpt --config "$settings/base_corpus.toml" --root "$data" \
        --output base_text
    step tokenizer tokenizer python "$tools/train_tokenizer.py" --input base_text/*.jsonl text/train/*.txt \
        "$here/../quickstart/prompts.txt" --vocab-size 8192 --output tokenizer
    step base_tokens base_tokens preprocess --input-dir base_text --output-dir base_tokens --append-eod
    step base_run - run base_run "$settings/base.toml"
    step base base python "$tools/checkpoint/convert.py" --loader mcore --saver hf --load-dir base_run --save-dir base
fi
step valid_text valid_text chats valid_text valid 1.0
mkdir -p valid
step valid valid validation
for rate in "${rates[@]}"; do
    name=p$rate
    step "$name.text" "$name.text" chats "$name.text" train "$rate"
    step "$name.tokens" "$name.tokens" preprocess --input-dir "$name.text" --output-dir "$name.tokens" \
        --json-keys prompt target --loss-keys target
    directions=$(cd "$name.text" && printf '"%s",' *-*.jsonl | sed 's/\.jsonl//g')
    step "$name" - run "$name" "$settings/sft.toml" data.mixture.sft.directions="[$directions]" \
        data.mixture.sft.path="$name.tokens/{direction}_text_document"
    if [[ $evaluate == yes ]]; then
        step "$name.model" "$name.model" python "$tools/checkpoint/convert.py" --loader mcore --saver hf --load-dir "$name" \
            --save-dir "$name.model"
        step "$name.scores" - python "$tools/evaluate_mt.py" --model "$name.model" --test-set text/valid \
            --directions en-x x-en zh-x x-zh --output-dir "$name.scores" "${evaluate_options[@]}"
    fi
done
rm -f steps/chart # there may be more to show than before
step chart report python "$here/chart.py" --work . --rates "${rates[@]}" --output report

echo
cat report/report.txt
close_work "the chart is $work/report/downsampling.png, each run with its report in $work/p*"
