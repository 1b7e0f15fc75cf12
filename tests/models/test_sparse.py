"""Laws of the weight-sparse transformer: its numbers, its masks, its files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import planted_task, random_model, toy_tokenizer

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile
from gossamer.mask import apply_masks
from gossamer.models import LoadedModel, from_pretrained
from gossamer.models.files import load_model, save_model
from gossamer.models.kernels import abs_topk, attention, gelu_topk, linear_cross_entropy, rms_topk
from gossamer.models.loaded import PAIRS_AT_ONCE
from gossamer.models.prefixes import Prefixes
from gossamer.models.sparse import SparseConfig, SparseTransformer
from gossamer.record import Record


def topk_plain(x: Tensor, k: int) -> Tensor:
    kept = x.abs().topk(k, dim=-1).indices
    return torch.zeros_like(x).scatter(-1, kept, x.gather(-1, kept))


def forward_plain(m: SparseTransformer, tokens: Tensor) -> Tensor:
    """Section 1 of the paper's notes, one line per line of it, no edits and nothing fused."""
    c, sd = m.config, m.state_dict()
    eps = torch.finfo(sd["wte.weight"].dtype).eps

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * sd[name]

    x = sd["wte.weight"][tokens]
    k_model, k_attn, k_mlp = (max(1, int(c.activation_fraction * w)) for w in (c.d_model, c.d_attn, c.d_mlp))
    for i in range(c.n_layer):
        p = f"h.{i}."
        a = topk_plain(norm(x, p + "ln_1.weight"), k_model)
        parts = F.linear(a, sd[p + "attn.c_attn.weight"], sd[p + "attn.c_attn.bias"]).chunk(3, -1)
        q, k, v = (topk_plain(t, k_attn).view(*tokens.shape, c.n_head, c.d_head).transpose(1, 2) for t in parts)
        score = q @ k.transpose(-1, -2) / c.d_head**0.5
        score = score.masked_fill(torch.ones(score.shape[-2:]).triu(1).bool(), -torch.inf)
        if c.sink:
            sink = sd[p + "attn.sink_logit"].view(1, -1, 1, 1).expand(*score.shape[:3], 1)
            score = torch.cat([sink, score], -1).softmax(-1)[..., 1:]
        else:
            score = score.softmax(-1)
        y = (score @ v).transpose(1, 2).flatten(2)
        x = x + topk_plain(F.linear(y, sd[p + "attn.c_proj.weight"], sd[p + "attn.c_proj.bias"]), k_model)
        a = topk_plain(norm(x, p + "ln_2.weight"), k_model)
        h = topk_plain(F.gelu(F.linear(a, sd[p + "mlp.c_fc.weight"], sd[p + "mlp.c_fc.bias"])), k_mlp)
        x = x + topk_plain(F.linear(h, sd[p + "mlp.c_proj.weight"], sd[p + "mlp.c_proj.bias"]), k_model)
    logits = norm(x, "ln_f.weight") @ sd["lm_head.weight"].T
    return logits + sd["bigram_table"][tokens] if c.bigram else logits


def some_tokens(rows: int = 5, length: int = 9, seed: int = 0) -> Tensor:
    return torch.randint(0, 16, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sink", [True, False])
@pytest.mark.parametrize("bigram", [True, False])
def test_the_forward_pass_equals_the_papers_lines(sink: bool, bigram: bool) -> None:
    m = random_model(seed=1, sink=sink, bigram=bigram).model.double()
    tokens = some_tokens()
    assert torch.allclose(m(tokens), forward_plain(m, tokens), atol=1e-10)


def test_the_loss_and_its_gradient_equal_the_plain_ones() -> None:
    m = random_model(seed=2, bigram=True).model.double().requires_grad_(True)
    tokens = some_tokens(4, 12)
    loss = m.loss(tokens[:, :-1], tokens[:, 1:])
    ours = torch.autograd.grad(loss, list(m.parameters()))
    plain = F.cross_entropy(m(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    theirs = torch.autograd.grad(plain, list(m.parameters()))
    assert torch.allclose(loss, plain, atol=1e-10)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_abs_topk_keeps_exactly_k_and_its_gradient_flows_only_there(k: int) -> None:
    x = torch.randn(7, 5, 8, generator=torch.Generator().manual_seed(k), requires_grad=True)
    y = abs_topk(x, k)
    assert (y.count_nonzero(-1) == k).all()
    assert torch.equal(y, topk_plain(x, k))
    y.sum().backward()
    assert torch.equal(x.grad != 0, y != 0)


def test_abs_topk_keeps_exactly_k_among_ties() -> None:
    x = torch.tensor([[1.0, -1.0, 1.0, 1.0, 0.5], [2.0, 2.0, -2.0, 2.0, 2.0]])
    assert (abs_topk(x, 2).count_nonzero(-1) == 2).all()


@pytest.mark.parametrize("k", [2, 8])
def test_fused_norm_and_activation_equal_the_separate_ones(k: int) -> None:
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    g = torch.linspace(0.5, 2, 8, dtype=torch.float64, requires_grad=True)
    eps = 1e-12
    pairs = [
        (rms_topk(x, g, eps, k), topk_plain(x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * g, k)),
        (gelu_topk(x, k), topk_plain(F.gelu(x), k)),
    ]
    for ours, plain in pairs:
        assert torch.allclose(ours, plain, atol=1e-12)
        inputs = [x, g] if ours is pairs[0][0] else [x]
        for a, b in zip(torch.autograd.grad(ours.pow(2).sum(), inputs), torch.autograd.grad(plain.pow(2).sum(), inputs),
                        strict=True):  # fmt: skip
            assert torch.allclose(a, b, atol=1e-10)


def test_chunked_loss_equals_the_whole_one_at_every_chunk_boundary() -> None:
    generator = torch.Generator().manual_seed(0)
    for n in (1, 1023, 1024, 1025, 2050):
        h = torch.randn(n, 6, generator=generator, dtype=torch.float64, requires_grad=True)
        w = torch.randn(11, 6, generator=generator, dtype=torch.float64, requires_grad=True)
        y = torch.randint(0, 11, (n,), generator=generator)
        ours = linear_cross_entropy(h, w, y, y, None)
        plain = F.cross_entropy(h @ w.T, y)
        assert torch.allclose(ours, plain, atol=1e-12)
        for a, b in zip(torch.autograd.grad(ours, [h, w]), torch.autograd.grad(plain, [h, w]), strict=True):
            assert torch.allclose(a, b, atol=1e-12)


def test_a_sink_of_minus_infinity_is_no_sink() -> None:
    q, k, v = (torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(s)) for s in range(3))
    assert torch.allclose(attention(q, k, v, torch.full((3,), -1e9)), attention(q, k, v, None), atol=1e-5)


def test_a_full_mask_gives_bit_identical_logits(small: LoadedModel) -> None:
    ones = {k: torch.ones(w) for k, w in small.model.config.locations()}
    edit = apply_masks(ones, small.means())
    tokens = some_tokens()
    assert torch.equal(small.model(tokens, edit), small.model(tokens, lambda _, x: x))
    batch = small.encode(planted_task(8).train)
    assert torch.equal(small.run(batch, masks=ones).gap, small.run(batch).gap)


def test_every_location_can_be_read_and_replaced(small: LoadedModel) -> None:
    seen: dict[str, Tensor] = {}
    tokens = some_tokens()
    plain = small.model(tokens, lambda name, x: seen.setdefault(name, x))
    assert [(k, v.shape[-1]) for k, v in seen.items()] == list(small.model.config.locations())
    for location in seen:
        changed = small.model(tokens, lambda name, x, at=location: x + (name == at))
        assert not torch.equal(changed, plain), location


def test_activations_are_read_after_abs_topk(small: LoadedModel) -> None:
    batch = small.encode(planted_task(8).train)
    reads = small.run(batch, reads=[name for name, _ in small.model.config.locations()]).reads
    for location, width in small.model.config.locations():
        most = width if location == "final_resid" else int(0.5 * width)
        assert int(reads[location].count_nonzero(-1).max()) <= most


def test_the_last_position_shortcut_gives_the_same_numbers(small: LoadedModel) -> None:
    batch = small.encode(planted_task(16).train)
    short = small.run(batch).gap
    whole = small.run(batch, reads=["final_resid"]).gap
    assert torch.allclose(short, whole, atol=1e-4)  # AbsTopK is discontinuous: float32, no near-ties in this toy


def double_model() -> LoadedModel:
    """In float64, where AbsTopK has no ties by rounding."""
    model = random_model(seed=3)
    model.model.double()
    means = {k: v.double() for k, v in model.reference.means.items()}  # type: ignore[union-attr]
    return LoadedModel(
        name="d", model=model.model, tokenizer=model.tokenizer, record={},
        reference=type(model.reference)(means=means, n_tokens=1, excerpt=model.reference.excerpt),  # type: ignore[union-attr, misc]
    )  # fmt: skip


def test_batch_size_and_padding_change_nothing() -> None:
    model = double_model()
    batch = model.encode(planted_task(16).train)
    masks = {k: torch.ones(w, dtype=torch.float64) for k, w in model.model.config.locations()}
    masks["0.mlp.post_act"][::2] = 0
    whole = model.run(batch, masks=masks).gap
    singly = torch.cat([model.run(batch.pairs(i, i + 1), masks=masks).gap for i in range(batch.n_pairs)])
    assert torch.allclose(whole, singly, atol=1e-12)
    padded = batch._replace(tokens=F.pad(batch.tokens, (0, 3), value=7))
    assert torch.allclose(model.run(padded, masks=masks).gap, whole, atol=1e-12)


@pytest.mark.parametrize("trials", [1, 3])
def test_many_pairs_run_in_parts_give_the_numbers_of_one_run(trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = double_model()
    generator = torch.Generator().manual_seed(0)
    masks = {k: (torch.rand(trials, w, generator=generator) > 0.3).double() for k, w in model.model.config.locations()}
    batch = model.encode(planted_task(2 * PAIRS_AT_ONCE + 9).train)
    padded = batch._replace(tokens=F.pad(batch.tokens, (0, 3), value=7))
    with torch.enable_grad():
        whole = model.run(batch, masks=masks).gap
        for i in range(0, batch.n_pairs, 30):
            alone = model.run(batch.pairs(i, i + 1), masks=masks).gap.view(trials, 2)
            assert torch.allclose(alone, whole.view(trials, -1, 2)[:, i], atol=1e-12)
    sizes, hidden = [], SparseTransformer.hidden_at_ends

    def counted(self: SparseTransformer, prefixes: Prefixes, *rest: Any) -> Tensor:
        sizes.append(len(prefixes.ends) // 2)
        return hidden(self, prefixes, *rest)

    monkeypatch.setattr(SparseTransformer, "hidden_at_ends", counted)
    with torch.no_grad():
        parts, parts_padded = model.run(batch, masks=masks).gap, model.run(padded, masks=masks).gap
    assert sizes == 2 * [PAIRS_AT_ONCE, PAIRS_AT_ONCE, 9]
    assert len(set(batch.last.tolist())) > 2
    assert torch.allclose(parts, whole, atol=1e-12)
    assert torch.allclose(parts_padded, whole, atol=1e-12)


def test_a_trial_axis_equals_separate_runs(small: LoadedModel) -> None:
    batch = small.encode(planted_task(8).train)
    generator = torch.Generator().manual_seed(0)
    masks = {k: (torch.rand(3, w, generator=generator) > 0.3).float() for k, w in small.model.config.locations()}
    together = small.run(batch, masks=masks).gap.view(3, -1)
    for trial in range(3):
        alone = small.run(batch, masks={k: m[trial] for k, m in masks.items()}).gap
        assert torch.allclose(together[trial], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"value": "Zero"}, "value mean or zero"),
        ({"reads": ["final_residual"]}, "did you mean final_resid"),
        ({"masks": {"final_residual": torch.ones(8)}}, "did you mean final_resid"),
        ({"masks": {"final_resid": torch.ones(3)}}, r"\[trials, [0-9]+\] at final_resid, got \[3\]"),
        ({"masks": "UNEQUAL"}, r"trials \[2, 4\]"),
    ],
)
def test_a_run_that_cannot_be_as_asked_is_refused(small: LoadedModel, how: dict[str, Any], says: str) -> None:
    if how.get("masks") == "UNEQUAL":
        width = small.model.config.d_model
        how = {"masks": {"final_resid": torch.ones(2, width), "0.attn.act_in": torch.ones(4, width)}}
    with pytest.raises(BadInput, match=says):
        small.run(small.encode(planted_task(4).train), **how)


def test_gradient_reaches_every_mask() -> None:
    model = random_model(activation_fraction=1.0)
    for block in model.model.blocks:  # denser weights, so that no channel is cut off by chance
        for linear in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            linear.weight.data += 0.05
    masks = {k: torch.ones(w, requires_grad=True) for k, w in model.model.config.locations()}
    model.run(model.encode(planted_task(32).train), masks=masks).gap.pow(2).sum().backward()
    for location, m in masks.items():
        assert (m.grad != 0).all(), location


def test_saved_is_loaded_bit_for_bit(small: LoadedModel, tmp_path: Path) -> None:
    save_model(small.model, tmp_path / "m", tokenizer=small.tokenizer, reference=small.reference, record={"a": 1})
    again = from_pretrained(tmp_path / "m")
    assert all(torch.equal(a, b) for a, b in zip(small.model.state_dict().values(), again.model.state_dict().values(),
                                                 strict=True))  # fmt: skip
    assert again.hashes() == small.hashes()
    assert again.record == {"a": 1}
    assert torch.equal(again.reference.excerpt, small.reference.excerpt)  # type: ignore[union-attr]
    assert torch.equal(small.model(some_tokens()), again.model(some_tokens()))


def test_a_sparse_model_is_small_on_disk(tmp_path: Path) -> None:
    m = SparseTransformer(SparseConfig(vocab_size=512, n_ctx=8, n_layer=1, d_model=64, n_head=4, d_head=16, d_mlp=256))
    for p in m.parameters():
        if p.ndim == 2:
            p.data *= torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) < 0.05
    folder = save_model(m, tmp_path / "m", tokenizer=None, reference=None, record={})
    dense_bytes = 4 * sum(p.numel() for p in m.parameters())
    assert (folder / "model.safetensors").stat().st_size < 0.15 * dense_bytes


@pytest.mark.parametrize(
    "file", ["model.safetensors", "config.json", "tokenizer.json", "reference.safetensors", "record.json"]
)
def test_a_damaged_model_is_never_half_loaded(small: LoadedModel, tmp_path: Path, file: str) -> None:
    folder = save_model(small.model, tmp_path / "m", tokenizer=small.tokenizer, reference=small.reference, record={})
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFile):
        load_model(folder)


def test_sparse_arrays_that_do_not_fit_are_refused(small: LoadedModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_model(small.model, tmp_path / "m", tokenizer=small.tokenizer, reference=None, record={})
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(k for k in tensors if k.endswith(".columns"))
    tensors[name] = torch.full_like(tensors[name], 255)
    save_file(tensors, path, metadata={"format_version": "1"})
    with pytest.raises(CorruptFile, match="do not fit shape"):
        load_model(folder)


def test_a_folder_without_tokenizer_and_an_unknown_name_say_so(small: LoadedModel, tmp_path: Path) -> None:
    folder = save_model(small.model, tmp_path / "m", tokenizer=None, reference=None, record={})
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        from_pretrained(folder)
    with pytest.raises(BadInput, match="did you mean tiny"):
        from_pretrained("tinny")


def test_mean_ablation_without_means_says_so(small: LoadedModel, tmp_path: Path) -> None:
    folder = save_model(small.model, tmp_path / "m", tokenizer=toy_tokenizer(), reference=None, record={})
    model = from_pretrained(folder)
    graph = model.graph("channel")
    circuit = Circuit.from_nodes(
        graph, model.edge_weights(graph), [1], record=Record.now(method="t", config={}, seed=0)
    )
    with pytest.raises(BadInput, match="gossamer means MODEL --corpus FOLDER"):
        model.run(model.encode(planted_task(2).train), ablation=circuit.as_ablation("gao-mean"))
    model.run(model.encode(planted_task(2).train), ablation=circuit.as_ablation("zero-complement"))


def test_positional_channels_are_read_only() -> None:
    model = random_model(position="channels", d_pos=4, topk_places=(), activation_fraction=1.0).model.double()
    assert dict(model.config.locations())["0.attn.act_in"] == 20
    assert dict(model.config.locations())["0.attn.resid_delta"] == 16
    reads: dict[str, list[Tensor]] = {}
    x, y = some_tokens(2, 6, seed=0), some_tokens(2, 6, seed=1)
    for tokens in (x, y):
        model(tokens, lambda name, a: (reads.setdefault(name, []).append(a), a)[1])
    where = model.wpe.weight[:6]
    where = where / (where.square().mean(-1, keepdim=True) + torch.finfo(torch.float64).eps).sqrt()
    for i, block in enumerate(model.blocks):  # whatever was written in between, a layer reads the same positions
        for sub, gain in (("attn", block.ln_p1.weight), ("mlp", block.ln_p2.weight)):
            for a in reads[f"{i}.{sub}.act_in"]:
                assert torch.allclose(a[..., 16:], (where * gain).expand(2, 6, 4), atol=1e-12)
            assert not torch.allclose(*(a[..., :16] for a in reads[f"{i}.{sub}.act_in"]))


def test_one_layer_is_blind_to_order_until_it_has_positions() -> None:
    x = some_tokens(2, 6)
    shuffled = x[:, [2, 1, 0, 3, 4, 5]]
    blind = random_model(n_layer=1, position="none").model.double()
    assert torch.allclose(blind(x)[:, -1], blind(shuffled)[:, -1], atol=1e-12)
    model = random_model(n_layer=1, position="channels", d_pos=4).model.double()
    assert not torch.allclose(model(x)[:, -1], model(shuffled)[:, -1], atol=1e-3)


def test_push_to_hub_uploads_the_folder_as_it_is(
    small: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    from gossamer.models import hub

    store = tmp_path / "hub"

    class Api:
        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, repo: str, **_: object) -> None:
            (store / repo).mkdir(parents=True)

        def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str]) -> str:
            for pattern in allow_patterns:
                for file in Path(folder_path).glob(pattern):
                    shutil.copy(file, store / repo_id)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(store / repo))
    folder = save_model(small.model, tmp_path / "m", tokenizer=small.tokenizer, reference=small.reference, record={})
    assert hub.push_to_hub(load_model(folder), "me/toy") == "https://hub/me/toy"
    assert from_pretrained("me/toy").hashes() == small.hashes()
    with pytest.raises(BadInput, match="save it first"):
        hub.push_to_hub(small, "me/toy")


def test_hashes_see_one_changed_bit(small: LoadedModel) -> None:
    other = random_model()
    assert other.hashes() == small.hashes()
    w = other.model.wte.weight.data
    w[0, 0] = torch.from_numpy(np.nextafter(w[0, :1].numpy(), np.float32(9)))[0]
    assert (
        LoadedModel(name="o", model=other.model, tokenizer=other.tokenizer, reference=None, record={}).hashes()[0]
        != (small.hashes()[0])
    )
