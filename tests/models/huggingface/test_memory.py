"""Memory: the estimate follows what is kept, a budget is kept to, and what cannot fit is refused with what would do."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from number_words import Numbers
from zoo import decoder

from gossamer.budget import bytes_of
from gossamer.discover import EAPConfig, EAPIGConfig, eap, eap_ig
from gossamer.errors import BadInput, Unsupported
from gossamer.models.huggingface import Decoder, decoder_of, estimate, load_decoder, pairs_that_fit
from gossamer.models.huggingface import decoder as decoder_module
from gossamer.models.huggingface.memory import _kept, _kept_at, weights
from gossamer.task import Example, Task


def pair(i: int) -> Example:
    one, other = (" ".join(map(str, np.random.default_rng(2 * i + j).integers(2, 64, 6))) for j in range(2))
    return Example(clean=one, counterfactual=other, answer=" 5", wrong_answer=" 9")


TASK = Task(name="t", version="1", description="", train=tuple(map(pair, range(6))), heldout=(pair(6),))


@pytest.fixture(scope="module")
def llama() -> Decoder:
    return decoder_of(decoder("llama").double(), Numbers(), "llama")


@pytest.mark.parametrize("text, wanted", [("8GB", 8 * 10**9), ("512 MiB", 2**29), ("1.5gb", 1.5e9), (4096, 4096)])
def test_amounts_of_memory(text: str | int, wanted: float) -> None:
    assert bytes_of(text) == wanted


@pytest.mark.parametrize("text", ["", "much", "8 parsecs", "-1GB", "0", "0.0001kb"])
def test_what_is_no_amount_is_told(text: str) -> None:
    with pytest.raises(BadInput, match="such as 8GB"):
        bytes_of(text)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gptj", "bloom"])
def test_what_operations_keep_is_known_at_lengths_that_were_not_tried(name: str) -> None:
    d = decoder_of(decoder(name), None, name)
    for n in (7, 27):
        assert np.polyval(_kept(d), n) == pytest.approx(_kept_at(d, n), rel=1e-3)


def test_the_weights_are_counted_once_each(llama: Decoder) -> None:
    tied = decoder_of(decoder("gpt2"), None, "gpt2")
    assert tied.model.config.tie_word_embeddings
    for d in (llama, tied):
        once = {p.data_ptr(): p.numel() * p.dtype.itemsize for p in (*d.model.parameters(), *d.model.buffers())}
        assert weights(d) == sum(once.values())


def test_an_estimate_is_a_straight_line_in_pairs_and_half_as_much_in_half_the_precision(llama: Decoder) -> None:
    one, two, nine = (estimate(llama, 6, n) - weights(llama) for n in (1, 2, 9))
    assert (two, nine) == pytest.approx((2 * one, 9 * one), rel=1e-3)
    narrow = decoder_of(decoder("llama").float(), None, "llama")
    assert estimate(narrow, 6, 9) == pytest.approx(estimate(llama, 6, 9) / 2, rel=0.05)
    assert estimate(llama, 6, 9, "eap-ig") >= estimate(llama, 6, 9)


@pytest.mark.parametrize("method", ["eap", "eap-ig"])
def test_as_many_pairs_fit_as_the_budget_holds(llama: Decoder, method: str) -> None:
    for wanted in (1, 5, 64):
        enough = estimate(llama, 6, wanted, method)
        assert pairs_that_fit(llama, 6, enough, method) == wanted
        if wanted > 1:
            assert pairs_that_fit(llama, 6, enough - 1, method) == wanted - 1
    with pytest.raises(BadInput, match=r"at least .* MB for one pair of 6 tokens"):
        pairs_that_fit(llama, 6, estimate(llama, 6, 1, method) - 1, method)


@pytest.mark.parametrize("name", ["eap", "eap-ig"])
def test_a_budget_changes_how_many_go_at_once_and_no_score(
    llama: Decoder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "give_back_large_blocks", lambda: None)  # it is for the whole process
    function, kind = {"eap": (eap, EAPConfig), "eap-ig": (eap_ig, EAPIGConfig)}[name]
    seen: list[int] = []
    budget = f"{estimate(llama, 6, 2, name)}B"
    found = function(llama, TASK, kind(memory=budget), progress=lambda done, *_: seen.append(done))  # type: ignore[operator]
    assert seen == [2, 4, 6]
    whole = function(llama, TASK, kind())  # type: ignore[operator]
    assert np.allclose(found.values, whole.values, atol=1e-12 * np.abs(whole.values).max())
    with pytest.raises(BadInput, match="memory budget of at least"):
        function(llama, TASK, kind(memory="20kB"))  # type: ignore[operator]


def test_what_cannot_be_estimated_is_refused(llama: Decoder) -> None:
    with pytest.raises(Unsupported, match="acdc"):
        estimate(llama, 6, 1, "acdc")
    with pytest.raises(BadInput, match="at least one token"):
        estimate(llama, 0, 1)


def test_a_model_on_several_devices_is_refused() -> None:
    model = decoder("llama")
    model.lm_head.to("meta")
    with pytest.raises(Unsupported, match="cpu and meta"):
        decoder_of(model, None, "llama")


def test_a_device_map_needs_accelerate_and_one_device(tmp_path: Path) -> None:
    if importlib.util.find_spec("accelerate") is None:
        with pytest.raises(BadInput, match="pip install accelerate"):
            load_decoder(tmp_path, device_map="auto")
        return
    model = decoder("llama")
    model.save_pretrained(tmp_path)
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(i): i for i in range(64)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    tokens = torch.tensor([[3, 4, 5]])
    loaded = load_decoder(tmp_path, device_map={"": "cpu"}).model
    assert torch.allclose(loaded(tokens).logits, model(tokens).logits, atol=1e-6)
