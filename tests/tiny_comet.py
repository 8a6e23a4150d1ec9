"""Makes a tiny COMET model, on disk as unbabel-comet's are. Runs in COMET's own Python:

python -I tests/tiny_comet.py FOLDER TEXT_FILE [kiwi|unite]

Its encoder is an XLM-R with random weights and a tokenizer trained on the text. The regression on top is set so that equal
translation and reference score 1, and less the further apart they are: the encoder's sentence vectors are compared.
`kiwi` makes one without references, of the class and with the settings of CometKiwi (wmt22-cometkiwi-da), `unite` one that
scores with and without references, as XCOMET does; with random weights throughout.
"""

import sys
from pathlib import Path

import torch
import yaml
from comet.models import CometModel, RegressionMetric, UnifiedMetric
from pytorch_lightning import Trainer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizerFast

HIDDEN = 32
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def make_encoder(folder: Path, text: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train([str(text)], trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    XLMRobertaTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)


def make_metric(folder: Path, encoder: Path) -> None:
    settings = {
        "encoder_model": "XLM-RoBERTa",
        "pretrained_model": str(encoder),
        "layer": 0,
        "pool": "avg",
        "layer_norm": False,
        "hidden_sizes": [4, 4],
        "dropout": 0.0,
    }
    model = RegressionMetric(**settings)
    first, second, last = (layer for layer in model.estimator.ff if isinstance(layer, torch.nn.Linear))
    with torch.no_grad():
        for layer in (first, second, last):
            layer.weight.zero_()
            layer.bias.zero_()
        # of (mt, ref, mt·ref, |mt - ref|, mt·src, |mt - src|) only the fourth: how far translation and reference are apart
        first.weight[0, 3 * HIDDEN : 4 * HIDDEN] = 1.0 / HIDDEN
        second.weight[0, 0] = 1.0
        last.weight[0, 0] = -1.0
        last.bias[0] = 1.0
    save(folder, model, {**settings, "class_identifier": "regression_metric"})


def make_unified(folder: Path, encoder: Path, segments: list[str]) -> None:
    settings = {
        "encoder_model": "XLM-RoBERTa",
        "pretrained_model": str(encoder),
        "keep_embeddings_frozen": True,
        "sent_layer": "mix",
        "layer_transformation": "sparsemax",
        "word_layer": 1,
        "layer_norm": False,
        "hidden_sizes": [4, 4],
        "activations": "Tanh",
        "final_activation": None,
        "dropout": 0.1,
        "input_segments": segments,
        "word_level_training": True,
        "error_labels": ["BAD"],
        "loss_lambda": 0.65,
    }
    save(folder, UnifiedMetric(**settings), {**settings, "class_identifier": "unified_metric"})


def save(folder: Path, model: CometModel, hparams: dict) -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", max_epochs=0, enable_progress_bar=False)
    trainer.strategy.connect(model)
    (folder / "checkpoints").mkdir(parents=True)
    trainer.save_checkpoint(folder / "checkpoints" / "model.ckpt", weights_only=True)
    (folder / "hparams.yaml").write_text(yaml.safe_dump(hparams))


if __name__ == "__main__":
    torch.manual_seed(5)
    target, text_file = map(Path, sys.argv[1:3])
    make_encoder(target / "encoder", text_file)
    if sys.argv[3:]:
        make_unified(target, target / "encoder", {"kiwi": ["mt", "src"], "unite": ["mt", "src", "ref"]}[sys.argv[3]])
    else:
        make_metric(target, target / "encoder")
