# On a GPU: all 113 pairs of NTREX, as LMT's figure 3 (without FLORES dev, which is the validation text here).
# shellcheck shell=bash disable=SC2034  # read by run.sh
languages="en zh ar es de fr it ja nl pl pt ru tr bg bn cs da el fa fi hi hu id ko nb ro sk sv th uk vi am az bo he hr hy is ka kk km ky lo mr ms my ne ps si sw ta te tg tl ug ur uz yue"
train_sentences=1997
valid_sentences=100
processes=${PROCESSES:-1}
evaluate_options=() # beam 5; COMET with --comet-checkpoint DIR --comet-python PATH
