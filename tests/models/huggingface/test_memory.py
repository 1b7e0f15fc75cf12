"""Memory: the estimate follows what is kept, a budget is kept to, and what cannot fit is refused with what would do."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from number_words import Numbers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from zoo import decoder

from gossamer.budget import bytes_of
from gossamer.discover import (
    ACDCConfig,
    ActivationPatchingConfig,
    AttributionPatchingConfig,
    DirectLogitAttributionConfig,
    EAPConfig,
    EAPIGConfig,
    EdgeMaskConfig,
    EdgePatchingConfig,
    PathPatchingConfig,
    acdc,
    activation_patching,
    attribution_patching,
    ceap,
    consensus,
    consensus_config,
    direct_logit_attribution,
    eap,
    eap_ig,
    eap_ig_activations,
    edge_mask,
    edge_patching,
    path_patching,
)
from gossamer.discover.room import PROBES, asked_size, marked_as
from gossamer.errors import BadInput, Unsupported
from gossamer.models.huggingface import Blocks, Decoder, decoder_of, estimate, load_decoder, pairs_that_fit
from gossamer.models.huggingface import decoder as decoder_module
from gossamer.models.huggingface.memory import (
    WORKING,
    _counting,
    _kept,
    _kept_at,
    _peaks,
    needs,
    room,
    weights,
    with_working,
)
from gossamer.subject import Room
from gossamer.task import Example, Task


def pair(i: int) -> Example:
    one, other = (" ".join(map(str, np.random.default_rng(2 * i + j).integers(2, 64, 6))) for j in range(2))
    return Example(clean=one, counterfactual=other, answer=" 5", wrong_answer=" 9")


TASK = Task(name="t", version="1", description="", train=tuple(map(pair, range(6))), heldout=(pair(6),))


WHOLE = Task(
    name="whole", version="1", description="", heldout=(pair(6),), train=tuple(
        replace(pair(i), answer=right, wrong_answer=wrong)
        for i, (right, wrong) in enumerate(((" 5 11 2", " 9"), (" 4", " 8 8"), (" 10 3", " 10 4 7")))
    ),
)  # fmt: skip


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
    one, two, nine = (estimate(llama, 6, n) - with_working(llama, 0) for n in (1, 2, 9))
    assert (two, nine) == pytest.approx((2 * one, 9 * one), rel=1e-3)
    narrow = decoder_of(decoder("llama").float(), None, "llama")
    wide, half = (estimate(d, 6, 9) - WORKING for d in (llama, narrow))
    assert half == pytest.approx(wide / 2, rel=0.05)
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
@pytest.mark.parametrize("task", [TASK, WHOLE], ids=lambda task: task.name)
def test_a_budget_changes_how_many_go_at_once_and_no_score(
    llama: Decoder, name: str, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "give_back_large_blocks", lambda: None)  # it is for the whole process
    of: dict[str, tuple[Any, Any]] = {"eap": (eap, EAPConfig), "eap-ig": (eap_ig, EAPIGConfig)}
    function, kind = of[name]
    metric: Any = "sequence-log-probability" if task is WHOLE else "logit-difference"
    seen: list[int] = []
    length, each, together = asked_size(llama.encode(task.train, several=True))
    assert (length, each, together) == ((8, 4, 9) if task is WHOLE else (6, 1, 6))
    budget = f"{estimate(llama, length, 2 * each, name)}B"
    asked = kind(memory=budget, metric=metric)
    found = function(llama, task, asked, progress=lambda done, *_: seen.append(done))
    assert seen == ([2, 3] if task is WHOLE else [2, 4, 6])
    whole = function(llama, task, kind(metric=metric))
    assert np.allclose(found.values, whole.values, atol=1e-12 * np.abs(whole.values).max())
    for less in ("20kB", f"{estimate(llama, length, each, name) - 1}B"):
        with pytest.raises(BadInput, match="memory budget of at least"):
            function(llama, task, kind(memory=less, metric=metric))


# methods that are tried

TRIED: dict[str, tuple[Any, Any]] = {
    "ceap": (ceap, EAPIGConfig(steps=2)), "eap-ig-activations": (eap_ig_activations, EAPIGConfig(steps=2)),
    "edge-patching": (edge_patching, EdgePatchingConfig()), "acdc": (acdc, ACDCConfig(threshold=0.001)),
    "activation-patching": (activation_patching, ActivationPatchingConfig()),
    "attribution-patching": (attribution_patching, AttributionPatchingConfig()),
    "path-patching": (path_patching, PathPatchingConfig()), "edge-mask": (edge_mask, EdgeMaskConfig(steps=4)),
    "path-patching through": (path_patching, PathPatchingConfig(through="mlps")),
    "direct-logit-attribution": (direct_logit_attribution, DirectLogitAttributionConfig()),
    "eap": (eap, EAPConfig(ablation="zero")), "eap-ig": (eap_ig, EAPIGConfig(ablation="mean")),
}  # fmt: skip
IN_TRIALS = ("edge-patching", "activation-patching", "path-patching", "acdc")


@pytest.mark.parametrize(
    ("name", "grain"),
    [*((n, "head") for n in sorted(TRIED)), *((n, "block") for n in ("acdc", "eap", "edge-patching"))],
)
def test_what_short_probes_take_tells_what_longer_ones_do(llama: Decoder, name: str, grain: str) -> None:
    """Trials, pairs and lengths that were not probed; and an estimate without the base is off."""
    _, config = TRIED[name]
    model: Any = llama if grain == "head" else Blocks(llama)
    probe, trials = PROBES[name.split(" ")[0]](model, config), name in IN_TRIALS
    for length in (13, 32):
        found = needs(llama, probe, length, trials=trials)
        for p, t in ((1, 1), (5, 1), (3, 4)) if trials else ((1, 1), (7, 1)):
            wanted = max(_peaks(llama, probe, length, p, t))
            assert found.tensors(p, t) == pytest.approx(wanted, rel=0.05)
            assert found.tensors(2 * p, t) > 1.5 * wanted * (1 if t == 1 else 0.9)
            assert found(p, t) > found.tensors(p, t) + weights(llama)


@pytest.mark.parametrize("name", sorted(TRIED))
def test_a_budget_changes_no_number_of_methods_that_are_tried(
    llama: Decoder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "give_back_large_blocks", lambda: None)
    function, config = TRIED[name]
    probe = PROBES[name.split(" ")[0]](llama, config)
    fixed = name == "acdc"  # whose pairs go together
    found = needs(llama, probe, 6, trials=name in IN_TRIALS)
    seen: list[int] = []

    def run(memory: str | None) -> Any:
        result = function(llama, TASK, config.model_copy(update={"memory": memory}))
        return (result.weight, result.src) if name == "acdc" else (result.values,)

    def noted(*args: Any, **more: Any) -> Any:
        made = room(*args, **more)
        seen.append(made.pairs)
        return made

    monkeypatch.setattr(decoder_module, "room", noted)
    enough = found(6 if fixed else 2)
    given = run(f"{enough}B")
    assert seen == [6 if fixed else 2]
    for a, b in zip(run(None), given, strict=True):
        assert np.allclose(a, b, atol=1e-5 if name == "edge-mask" else 1e-9 * np.abs(a).max())
    with pytest.raises(BadInput, match="6 pairs, which go together" if fixed else "one pair of 6 tokens"):
        run(f"{found(6 if fixed else 1) - 1}B")


LONG = replace(WHOLE, train=tuple(
    replace(pair(i), answer=f" {i + 3} 11 2", wrong_answer=f" {i + 9} 7 5") for i in range(4)
))  # fmt: skip
OF_WHOLE = (
    "acdc", "activation-patching", "eap", "eap-ig", "eap-ig-activations", "edge-mask", "edge-patching", "path-patching",
    "path-patching through",
)  # fmt: skip
DEAREST_NOT_RUN = ("acdc", "path-patching")  # probes the dearest trial there is; these have cheaper ones here


@pytest.mark.parametrize(
    ("name", "task", "positions"),
    [
        *((n, TASK, "all") for n in sorted(TRIED)), *((n, LONG, "all") for n in OF_WHOLE),
        *((n, TASK, "last") for n in ("edge-patching", "edge-mask", "eap-ig-activations")),
    ],
    ids=lambda x: getattr(x, "name", x),
)  # fmt: skip
def test_a_whole_run_takes_what_was_told_before(
    llama: Decoder, name: str, task: Task, positions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted over all batches and passes of the method itself, not over its probe again."""
    monkeypatch.setattr(decoder_module, "give_back_large_blocks", lambda: None)
    function, config = TRIED[name]
    config = config.model_copy(update={"metric": "sequence-log-probability"} if task is LONG else {})
    if positions != "all":
        config = config.model_copy(update={"positions": positions})
    pairs = llama.encode(task.train, positions=positions, several=True)
    probe = marked_as(pairs, PROBES[name.split(" ")[0]](llama, config))
    length, each, together = asked_size(pairs)
    assert (each, together) == ((5, 20) if task is LONG else (1, 6))
    found = needs(llama, probe, length, trials=name in IN_TRIALS)
    for at_once in (len(task.train),) if name == "acdc" else (2, len(task.train)):
        rooms: list[Room] = []

        def noted(*args: Any, rooms: list[Room] = rooms, **more: Any) -> Room:
            rooms.append(room(*args, **more))
            return rooms[-1]

        asked = config.model_copy(update={"memory": f"{found(at_once * each)}B"})
        monkeypatch.setattr(decoder_module, "room", noted)
        values = function(llama, task, asked)
        monkeypatch.setattr(decoder_module, "room", lambda *_, given=rooms[0], **__: given)
        with _counting(llama) as peak:
            again = function(llama, task, asked)
            taken = peak()
        told = found.tensors(*rooms[0])
        assert rooms[0].pairs == at_once * each
        assert (0.1 if name in DEAREST_NOT_RUN else 0.9) * told < taken < 1.02 * told
        whole = function(llama, task, config)
        for a, b in ((values, again), (values, whole)):
            same = np.array_equal(a.src, b.src) if name == "acdc" else np.allclose(a.values, b.values, atol=1e-5)
            assert same


class Products(TorchDispatchMode):
    """Notes the batched products with one weight for all rows: half precision copies it for each, uncounted."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.own, self.seen, self.copied = {p.data_ptr() for p in model.model.parameters()}, 0, list[torch.Size]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [t for t in tree_iter(args) if isinstance(t, torch.Tensor)]
        mine = [t for t in tensors if t.untyped_storage().data_ptr() in self.own]
        self.seen += len(mine)
        if func is torch.ops.aten.bmm.default:
            self.copied += [t.shape for t in mine if len(t) > 1 and t.stride(0) == 0]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted(TRIED))
def test_no_weight_is_copied_for_every_row(llama: Decoder, name: str) -> None:
    function, config = TRIED[name]
    with Products(llama) as products:
        function(llama, TASK, config)
    assert products.seen > 0
    assert products.copied == []


def test_trials_are_fewer_where_pairs_leave_less_room(llama: Decoder) -> None:
    probe = PROBES["edge-patching"](llama, EdgePatchingConfig())
    found = needs(llama, probe, 6, trials=True)

    def given(budget: int, most: int = 8) -> tuple[int, int]:
        return room(llama, 6, budget, "edge-patching", probe, most=most, trials=lambda pairs: 40 // pairs)

    assert given(found(8, 5)) == (8, 5)
    assert given(found(8, 3)) == (8, 3)
    assert given(found(8, 1)) == (8, 1)
    assert given(found(8, 1) - 1)[0] == 7
    assert given(found(1, 7), most=1) == (1, 7)


def test_a_budget_of_a_consensus_is_its_method_s_and_its_blocks(
    llama: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "give_back_large_blocks", lambda: None)
    own = {"method": "eap", "edges": 20, "resamples": 5}
    enough = estimate(llama, 6, 2, "eap")
    found, whole = (
        consensus(llama, TASK, consensus_config(**own, **more)) for more in ({"budget": f"{int(enough * 1.2)}B"}, {})
    )
    assert np.array_equal(found.inclusion.values, whole.inclusion.values)
    with pytest.raises(BadInput, match="memory budget of at least"):
        consensus(llama, TASK, consensus_config(**own, budget="20kB"))
    with pytest.raises(Unsupported, match="a memory budget of iterative-sweep"):
        consensus(llama, TASK, consensus_config(method="iterative-sweep", edges=20, resamples=5, budget="1GB"))


def test_what_cannot_be_estimated_is_refused(llama: Decoder) -> None:
    with pytest.raises(Unsupported, match="acdc"):
        estimate(llama, 6, 1, "acdc")
    with pytest.raises(BadInput, match="at least one token"):
        needs(llama, PROBES["acdc"](llama, ACDCConfig()), 0)
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
