"""The vLLM engine against a stand-in with its interface: which prompts and parameters, and what is taken from its answers.

vLLM itself needs a GPU.
"""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from transformers import AutoTokenizer

from megatron_lmt.eval.generate import VllmGenerator


class StandIn:
    """Answers each prompt with " Haus", the end of the turn, and what must not be shown."""

    def __init__(self, model, dtype):
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=640))
        self.asked = []

    def get_tokenizer(self):
        return self._tokenizer

    def _answer(self):
        return self._tokenizer.encode(" Haus<|im_end|>\nand more", add_special_tokens=False)

    def beam_search(self, prompts, params):
        self.asked.append(params)
        found = [[*prompt["prompt_token_ids"], *self._answer()] for prompt in prompts]
        return [SimpleNamespace(sequences=[SimpleNamespace(tokens=tokens), None]) for tokens in found]

    def generate(self, prompts, params, use_tqdm):
        self.asked.append(params)
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(self._answer()))]) for _ in prompts]


@pytest.fixture
def generator(monkeypatch, quickstart_tokenizer):
    vllm, sampling = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    vllm.LLM, vllm.SamplingParams, sampling.BeamSearchParams = StandIn, SimpleNamespace, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)
    return VllmGenerator(quickstart_tokenizer, "auto")


@pytest.mark.parametrize("num_beams", [1, 5])
def test_answers_end_with_the_turn_and_have_no_prompt(generator, num_beams):
    batch = [generator.encode(prompt) for prompt in ("The house.", "Translate <|im_end|>")]
    assert generator.generate(batch, num_beams, 16) == [" Haus", " Haus"]
    (params,) = generator._llm.asked
    assert params.max_tokens == 16 and generator.max_length == 640
    if num_beams == 1:
        assert params.temperature == 0 and params.stop_token_ids == [generator._end]
    else:
        assert params.beam_width == 5
        assert generator._llm.get_tokenizer().eos_token == "<|im_end|>"  # where its beam search ends
