# On a CPU: ten languages with English and Chinese, sentences that are seen many times, a model of 3M parameters.
# shellcheck shell=bash disable=SC2034  # read by run.sh
languages="en zh am ar bo de he ja km my ru th"
train_sentences=60
valid_sentences=20
processes=2
evaluate_options=(--max-sentences 4 --num-beams 1 --max-new-tokens 48)
