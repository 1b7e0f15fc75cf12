"""A model as a Hugging Face folder: the same numbers through the Auto classes, with padding, labels and generate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from toys import random_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from gossamer.errors import BadInput, Unsupported
from gossamer.models import LoadedModel, from_pretrained
from gossamer.models.huggingface import GossamerConfig, GossamerForCausalLM, export_huggingface

CHANGES: tuple[dict[str, object], ...] = (
    {}, {"sink": False, "bigram": True, "bias": False}, {"position": "additive"}, {"position": "channels", "d_pos": 4},
    {"topk_places": ("attn_in", "mlp_out"), "activation": "relu"},
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    found = random_model()
    found.model.final_logits_bias.copy_(torch.linspace(-1, 1, 16))  # as some of the authors' models have
    return found


@pytest.fixture(scope="module")
def folder(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_huggingface(model, tmp_path_factory.mktemp("hf") / "toy")


TOKENS = torch.tensor([[15, 0, 5, 6, 7, 1], [15, 1, 9, 4, 3, 8]])


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_logits_are_ours_bit_for_bit(changes: dict[str, object], tmp_path: Path) -> None:
    ours = random_model(**changes)
    loaded = AutoModelForCausalLM.from_pretrained(export_huggingface(ours, tmp_path / "m"))
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS).logits, ours.model(TOKENS))
    other = random_model(1, **changes)
    assert not torch.equal(loaded(TOKENS).logits, other.model(TOKENS))


def test_padding_changes_no_number(model: LoadedModel, folder: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        whole = loaded(TOKENS).logits
        short = loaded(TOKENS[:1, :4]).logits
        mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
        right = loaded(TOKENS, attention_mask=mask).logits
        left_tokens = torch.cat([TOKENS[:1, 4:], TOKENS[:1, :4]], dim=1)
        left = loaded(torch.cat([left_tokens, TOKENS[1:]]), attention_mask=mask.flip(1)).logits
    torch.testing.assert_close(right[0, :4], short[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(left[0, 2:], short[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(left[1], whole[1], atol=1e-6, rtol=0)
    unmasked = loaded(left_tokens).logits
    assert (unmasked[0, 2:] - short[0]).abs().max() > 1e-3  # the control: the mask is what makes the difference
    for bad in ([[1, 0, 1, 1, 1, 1]], [[0] * 6]):
        with pytest.raises(BadInput, match="one run of ones"):
            loaded(TOKENS[:1], attention_mask=torch.tensor(bad))


def test_labels_give_the_next_token_loss(model: LoadedModel, folder: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    labels = TOKENS.clone()
    labels[0, 4:] = -100
    out = loaded(TOKENS, labels=labels)
    log_p = model.model(TOKENS)[:, :-1].log_softmax(-1).gather(2, TOKENS[:, 1:, None])[..., 0]
    counted = labels[:, 1:] != -100
    torch.testing.assert_close(out.loss, -log_p[counted].mean(), atol=1e-6, rtol=0)
    assert int(counted.sum()) == 8
    assert loaded(TOKENS, return_dict=False)[0].shape == (2, 6, 16)
    out.loss.backward()
    assert bool(loaded.get_input_embeddings().weight.grad.any())


def test_generate_is_greedy_decoding(model: LoadedModel, folder: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    loaded.generation_config.eos_token_id = None  # the toy would stop at once
    text = TOKENS[:1]
    for _ in range(5):
        text = torch.cat([text, model.model(text)[:, -1].argmax(-1, keepdim=True)], dim=1)
    for cache in (False, True):  # asked for or not, there is none
        found = loaded.generate(
            TOKENS[:1], attention_mask=torch.ones_like(TOKENS[:1]), max_new_tokens=5, do_sample=False, use_cache=cache,
        )  # fmt: skip
        assert torch.equal(found, text)
    padded = torch.cat([torch.tensor([[15, 15]]), TOKENS[:1]], dim=1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])
    found = loaded.generate(padded, attention_mask=mask, max_new_tokens=5, do_sample=False)
    assert torch.equal(found[:, 2:], text)


def test_the_folder_is_a_standard_one(model: LoadedModel, folder: Path, tmp_path: Path) -> None:
    names = {p.name for p in folder.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "record.json"}
    assert not any(n.endswith((".bin", ".pt", ".py")) for n in names)
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, GossamerConfig)
    assert config.sparse() == model.model.config
    assert config.hidden_size == 16
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("left w1 <|endoftext|>")["input_ids"] == model.tokenizer.encode("left w1 <|endoftext|>").ids
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    with pytest.raises(BadInput, match="exists"):
        export_huggingface(model, folder)
    with pytest.raises(Unsupported, match="Hugging Face folder"):
        from_pretrained(folder)


def test_a_new_model_is_initialised_as_ours() -> None:
    fresh = GossamerForCausalLM(GossamerConfig(d_model=16, n_head=2, d_head=8, d_mlp=32, vocab_size=16))
    assert 0.015 < float(fresh.model.wte.weight.detach().std()) < 0.025
    assert F.linear(torch.ones(1, 16), fresh.model.lm_head.weight).isfinite().all()


def test_what_it_does_not_do_is_refused(folder: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(Unsupported, match="input_ids"):
        loaded(inputs_embeds=torch.zeros(1, 2, 16))
    with pytest.raises(BadInput, match="at most 16 tokens"):
        loaded(torch.zeros(1, 17, dtype=torch.int64))


def test_transformers_alone_does_not_know_it_and_one_import_is_enough(folder: Path) -> None:
    code = f"""
from transformers import AutoModelForCausalLM
try:
    AutoModelForCausalLM.from_pretrained({str(folder)!r})
except ValueError as error:
    assert "gossamer-sparse" in str(error), error
else:
    raise AssertionError("transformers knows it by itself")
import gossamer.models.huggingface
AutoModelForCausalLM.from_pretrained({str(folder)!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
