"""Decoding with an exported model: prompts to texts, through transformers or, where it is installed, vLLM.

megatron-core is not imported: this runs wherever the exported model does. `translate.py` decides what is asked.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from megatron_lmt.errors import ConfigError
from megatron_lmt.sft.prompts import END_OF_TURN

ENGINES = ("transformers", "vllm")
_CONTENT = "\ue000content\ue000"  # private use characters: no template has them


class Generator(Protocol):
    """What decodes. `identity` names all that can change its output; it is compared when work is resumed."""

    max_length: int
    """Tokens of prompt and answer together."""
    identity: dict[str, Any]

    def encode(self, prompt: str) -> list[int]:
        """Token ids of the chat turn with this prompt, up to where the answer begins."""

    def generate(self, batch: list[list[int]], num_beams: int, max_new_tokens: int) -> list[str]:
        """One answer for each encoded prompt; no sampling."""


class PromptEncoder:
    """Wraps prompts in the model's chat turn and encodes them.

    Control tokens in a text, such as a literal <|im_end|>, are encoded as text: a sentence cannot end its own turn.

    Raises:
        ConfigError: no tokenizer with a chat template in the folder.
    """

    def __init__(self, tokenizer: Any, folder: Path):
        if not tokenizer.chat_template:
            raise ConfigError(f"{folder}: its tokenizer has no chat template")
        turn = [{"role": "user", "content": _CONTENT}]
        rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        before, found, after = rendered.partition(_CONTENT)
        if not found:
            raise ConfigError(f"{folder}: its chat template does not show the user's message as it is")
        self._tokenizer = tokenizer
        self._before, self._after = (tokenizer.encode(part, add_special_tokens=False) for part in (before, after))

    def encode(self, prompt: str) -> list[int]:
        content = self._tokenizer.encode(prompt, add_special_tokens=False, split_special_tokens=True)
        return [*self._before, *content, *self._after]


def open_generator(model: Path, engine: str = "transformers", dtype: str = "auto") -> Generator:
    """
    Args:
        model: exported folder with config.json, safetensors and a tokenizer with a chat template.
        engine: "transformers" or "vllm".
        dtype: "float32", "bfloat16", "float16", or "auto": the model's own on a GPU, float32 on a CPU, where bf16 is slow.
    Raises:
        ConfigError: not such a folder, or no such engine here.
    """
    if not (model / "config.json").is_file():
        raise ConfigError(f"{model}: no config.json; this is not an exported model (tools/checkpoint/convert.py makes one)")
    if not any(model.glob("*.safetensors")):
        raise ConfigError(f"{model}: no weights (*.safetensors); tools/checkpoint/convert.py exports a model")
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}: one of {', '.join(ENGINES)}")
    try:
        engine_version = version(engine)
    except PackageNotFoundError:
        raise ConfigError(f"--engine {engine}: not installed here (pip install {engine})") from None
    generator = (TransformersGenerator if engine == "transformers" else VllmGenerator)(model, dtype)
    generator.identity = {
        "model": model_identity(model),
        "engine": f"{engine} {engine_version}",
        "dtype": generator.dtype,
    }
    return generator


def model_identity(model: Path) -> dict[str, Any]:
    """The model's path and the sizes and times of its files: hashing the weights would take longer than many a job."""
    files = sorted(model.glob("*.safetensors")) + [model / "config.json"]
    return {"path": str(model.resolve()), "files": {f.name: [f.stat().st_size, f.stat().st_mtime_ns] for f in files}}


class TransformersGenerator:
    """Batches through `transformers`, with padding on the left."""

    identity: dict[str, Any]

    def __init__(self, model: Path, dtype: str):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        self._torch, self._config_class = torch, GenerationConfig
        on_gpu = torch.cuda.is_available()
        if dtype == "auto" and not on_gpu:
            dtype = "float32"
        self._tokenizer = AutoTokenizer.from_pretrained(str(model), padding_side="left")
        self._encoder = PromptEncoder(self._tokenizer, model)
        name = "dtype" if int(version("transformers").split(".")[0]) >= 5 else "torch_dtype"
        self._model = AutoModelForCausalLM.from_pretrained(str(model), **{name: dtype}).eval()
        if on_gpu:
            self._model.cuda()
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        self.max_length = self._model.config.max_position_embeddings
        ends = self._ends = self._model.generation_config.eos_token_id
        pad = self._tokenizer.pad_token_id
        self._pad = pad if pad is not None else (ends[0] if isinstance(ends, list) else ends)

    def encode(self, prompt: str) -> list[int]:
        return self._encoder.encode(prompt)

    def generate(self, batch: list[list[int]], num_beams: int, max_new_tokens: int) -> list[str]:
        # a fresh one: what an instruction-tuned model's folder says about sampling must not come in
        config = self._config_class(
            num_beams=num_beams,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self._ends,
            pad_token_id=self._pad,
        )
        longest = max(map(len, batch))
        padding = [longest - len(ids) for ids in batch]
        rows = [[self._pad] * pad + ids for pad, ids in zip(padding, batch, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
        inputs, mask = (self._torch.tensor(part, device=self._model.device) for part in (rows, mask))
        with self._torch.inference_mode():
            output = self._model.generate(input_ids=inputs, attention_mask=mask, generation_config=config)
        return self._tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)


class VllmGenerator:
    """vLLM, for large models on GPUs. It batches by itself, so give it many prompts at once."""

    identity: dict[str, Any]

    def __init__(self, model: Path, dtype: str):
        from vllm import LLM

        self.dtype = dtype
        self._llm = LLM(model=str(model), dtype=dtype)
        self._tokenizer = self._llm.get_tokenizer()
        self._encoder = PromptEncoder(self._tokenizer, model)
        self._end = self._tokenizer.convert_tokens_to_ids(END_OF_TURN)
        # its beam search ends at the tokenizer's eos token alone, which in base models is not the end of a turn
        self._tokenizer.eos_token = END_OF_TURN
        self.max_length = self._llm.llm_engine.model_config.max_model_len

    def encode(self, prompt: str) -> list[int]:
        return self._encoder.encode(prompt)

    def generate(self, batch: list[list[int]], num_beams: int, max_new_tokens: int) -> list[str]:
        from vllm import SamplingParams
        from vllm.sampling_params import BeamSearchParams

        prompts = [{"prompt_token_ids": ids} for ids in batch]
        if num_beams > 1:
            found = self._llm.beam_search(prompts, BeamSearchParams(beam_width=num_beams, max_tokens=max_new_tokens))
            # sequences hold the prompt as well
            answers = [output.sequences[0].tokens[len(ids) :] for output, ids in zip(found, batch, strict=True)]
        else:
            greedy = SamplingParams(temperature=0, max_tokens=max_new_tokens, stop_token_ids=[self._end])
            answers = [output.outputs[0].token_ids for output in self._llm.generate(prompts, greedy, use_tqdm=False)]
        return [self._decode(list(answer)) for answer in answers]

    def _decode(self, answer: list[int]) -> str:
        end = answer.index(self._end) if self._end in answer else len(answer)
        return self._tokenizer.decode(answer[:end], skip_special_tokens=True)
