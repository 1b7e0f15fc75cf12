"""The authors' released folder layout, against an independent forward written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.models.authors import load_authors_model, load_authors_weights

BASE: dict[str, Any] = {
    "block_size": 12, "vocab_size": 23, "n_layer": 2, "n_head": 3, "d_head": 4, "d_model": 12, "d_mlp": 20,
    "dropout": 0.0, "bias": True, "ln_bias": True, "rms_norm": True, "activation_type": "gelu", "afrac": 0.5,
    "afrac_loctypes": "attn_in,attn_q,attn_k,attn_v,attn_out,mlp_in,mlp_neuron,mlp_out", "tied_unembed": False,
    "enable_bigram_table": True, "learnable_bigram_table": True, "flash": True, "tokenizer_name": "tinypython_2k",
}  # fmt: skip


def release(
    folder: Path, *, config: dict[str, Any] | None = None, sink: bool, drop: tuple[str, ...] = (), **more: Any
) -> dict[str, Tensor]:
    """A folder as the authors write it, with random weights; returns the state dict."""
    given = {**BASE, "sink": sink, **(config or {})}
    for key in drop:
        given.pop(key)
    g = torch.Generator().manual_seed(0)
    d, a, m, v = given["d_model"], 12, 20, given["vocab_size"]
    pos = given.get("d_pos_emb") or 0

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g) * (torch.rand(*shape, generator=g) < 0.6)

    state = {"transformer.wte.weight": rand(v, d), "transformer.wpe.weight": rand(12, pos or d) * (1 if pos else 0)}
    for i in range(2):
        p = f"transformer.h.{i}."
        state |= {
            p + "ln_1.weight": 1 + 0.1 * rand(d), p + "ln_2.weight": 1 + 0.1 * rand(d),
            p + "attn.c_attn.weight": rand(3 * a, d + pos), p + "attn.c_attn.bias": rand(3 * a),
            p + "attn.c_proj.weight": rand(d, a), p + "attn.c_proj.bias": rand(d),
            p + "mlp.c_fc.weight": rand(m, d + pos), p + "mlp.c_fc.bias": rand(m),
            p + "mlp.c_proj.weight": rand(d, m), p + "mlp.c_proj.bias": rand(d),
        }  # fmt: skip
        if pos:
            state |= {p + "ln_p1.weight": 1 + 0.1 * rand(pos), p + "ln_p2.weight": 1 + 0.1 * rand(pos)}
        if sink:
            state[p + "attn.attn_imp.sink_logit"] = torch.randn(3, generator=g)
    state |= {"transformer.ln_f.weight": 1 + 0.1 * rand(d), "lm_head.weight": rand(v, d)}
    state |= {"bigram_table": rand(v, v), "final_logits_bias": 0.1 * rand(v)}
    state |= more.get("extra", {})
    for key in more.get("without", ()):
        state.pop(key)
    folder.mkdir()
    (folder / "beeg_config.json").write_text(json.dumps(given))
    torch.save(state, folder / "final_model.pt")
    return state


def independent(sd: dict[str, Tensor], tokens: Tensor, *, sink: bool, bigram: bool = True, pos: int = 0) -> Tensor:
    """The released architecture in a few lines, float64, one head at a time."""
    sd = {k: v.double() for k, v in sd.items()}

    def top(x: Tensor) -> Tensor:
        k = int(0.5 * x.shape[-1])
        return x * (x.abs() >= x.abs().sort(-1, descending=True).values[..., k - 1 : k])

    def rms(x: Tensor, w: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).rsqrt() * w

    x, t = sd["transformer.wte.weight"][tokens], tokens.shape[1]
    where = sd["transformer.wpe.weight"][:t].expand(len(tokens), t, -1)
    x = x if pos else x + where
    for i in range(2):
        w = {k.removeprefix(f"transformer.h.{i}."): v for k, v in sd.items() if f".h.{i}." in k}
        a = rms(x, w["ln_1.weight"])
        a = top(torch.cat([a, rms(where, w["ln_p1.weight"])], -1) if pos else a)
        q, k, v = (top(s) for s in (a @ w["attn.c_attn.weight"].T + w["attn.c_attn.bias"]).split(12, -1))
        heads = []
        for h in range(3):
            s = slice(4 * h, 4 * h + 4)
            e = (q[..., s] @ k[..., s].transpose(1, 2) / 2).exp().tril()
            z = e.sum(-1, keepdim=True) + (w["attn.attn_imp.sink_logit"][h].exp() if sink else 0)
            heads.append((e / z) @ v[..., s])
        x = x + top(torch.cat(heads, -1) @ w["attn.c_proj.weight"].T + w["attn.c_proj.bias"])
        a = rms(x, w["ln_2.weight"])
        a = top(torch.cat([a, rms(where, w["ln_p2.weight"])], -1) if pos else a)
        m = top(F.gelu(a @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"]))
        x = x + top(m @ w["mlp.c_proj.weight"].T + w["mlp.c_proj.bias"])
    logits = rms(x, sd["transformer.ln_f.weight"]) @ sd["lm_head.weight"].T + sd.get("final_logits_bias", 0)
    return logits + sd["bigram_table"][tokens] if bigram else logits


TOKENS = torch.randint(0, 23, (4, 10), generator=torch.Generator().manual_seed(5))


def check(folder: Path, state: dict[str, Tensor], **how: Any) -> None:
    """float32 against float64: a k-th gap below rounding could flip a channel; this seed has none."""
    ours = load_authors_weights(folder)(TOKENS).double()
    theirs = independent(state, TOKENS, **how)
    assert torch.allclose(ours, theirs, atol=2e-4), float((ours - theirs).abs().max())


@pytest.mark.parametrize("sink", [True, False])
def test_logits_equal_an_independent_forward(tmp_path: Path, sink: bool) -> None:
    check(tmp_path / "m", release(tmp_path / "m", sink=sink), sink=sink)


def test_drifted_config_keys(tmp_path: Path) -> None:
    state = release(
        tmp_path / "m", sink=False, drop=("sink", "d_mlp", "ln_bias", "d_head"),
        config={"n_mlp": 20, "pfrac": 0.25, "bigram_table_rank": None, "use_tied_aux_matrix": False, "new_key": 1},
        without=("final_logits_bias",),
        extra={"transformer.h.0.attn.bias": torch.ones(1, 1, 12, 12).tril()},
    )  # fmt: skip
    check(tmp_path / "m", state, sink=False)


def test_a_sink_missing_from_the_config_is_not_dropped(tmp_path: Path) -> None:
    check(tmp_path / "m", release(tmp_path / "m", sink=True, drop=("sink",)), sink=True)


def test_without_bigram_and_with_positional_channels(tmp_path: Path) -> None:
    state = release(tmp_path / "m", sink=False, config={"d_pos_emb": 6, "enable_bigram_table": False})
    check(tmp_path / "m", state, sink=False, bigram=False, pos=6)


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ({"rms_norm": False}, Unsupported, "LayerNorm"),
        ({"afrac_loctypes": "attn_in,resid_post_attn"}, Unsupported, "resid_post_attn"),
        ({"residual_activation_type": "relu"}, Unsupported, "residual stream"),
        ({"vocab_size": None}, BadInput, "vocab_size"),
        ({"activation_type": "swish"}, BadInput, "activation"),
        ({"n_head": 0}, BadInput, "n_head 0"),
        ({"d_model": "12"}, BadInput, "d_model '12'"),
        ({"n_head": 5, "d_head": None}, BadInput, "divisible by n_head"),
        ({"afrac_loctypes": ["attn_in"]}, BadInput, "between commas"),
        ({"d_pos_emb": "few", "afrac": 7, "d_mlp": -1}, BadInput, "d_mlp: .*activation_fraction: .*d_pos: "),
    ],
)
def test_what_is_not_built_is_refused(tmp_path: Path, config: dict[str, Any], error: type, says: str) -> None:
    release(tmp_path / "m", sink=False)
    (tmp_path / "m" / "beeg_config.json").write_text(json.dumps({**BASE, "sink": False, **config}))
    with pytest.raises(error, match=says) as raised:
        load_authors_weights(tmp_path / "m")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"[]", b'"text"', b"\xff\xfe", b"{"])
def test_a_config_that_is_no_json_object_is_corrupt(tmp_path: Path, content: bytes) -> None:
    release(tmp_path / "m", sink=False)
    (tmp_path / "m" / "beeg_config.json").write_bytes(content)
    with pytest.raises(CorruptFile, match="JSON"):
        load_authors_weights(tmp_path / "m")


@pytest.mark.parametrize(
    "state", [[torch.ones(2)], torch.ones(2), {"a": 1}, {"a": [torch.ones(2)]}, {3: torch.ones(2)}], ids=str
)
def test_a_checkpoint_that_is_no_state_dict_is_corrupt(tmp_path: Path, state: Any) -> None:
    release(tmp_path / "m", sink=False)
    torch.save(state, tmp_path / "m" / "final_model.pt")
    with pytest.raises(CorruptFile, match="Expected a state dict"):
        load_authors_weights(tmp_path / "m")


@pytest.mark.parametrize("shape", [(1,), (22,), (1, 23), ()])
def test_an_output_bias_of_another_shape_is_corrupt(tmp_path: Path, shape: tuple[int, ...]) -> None:
    release(tmp_path / "m", sink=False, extra={"final_logits_bias": torch.ones(shape)})
    with pytest.raises(CorruptFile, match="final_logits_bias has shape"):
        load_authors_weights(tmp_path / "m")


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "text"])
def test_any_damage_to_a_checkpoint_is_one_line(tmp_path: Path, damage: str) -> None:
    release(tmp_path / "m", sink=False)
    path = tmp_path / "m" / "final_model.pt"
    content = path.read_bytes()
    noise = bytes(torch.randint(0, 256, (500,), generator=torch.Generator().manual_seed(0)).tolist())
    path.write_bytes({"cut": content[:-500], "noise": noise, "empty": b"", "text": b"version https://git-lfs"}[damage])
    with pytest.raises(CorruptFile, match="download it again") as raised:
        load_authors_weights(tmp_path / "m")
    assert "\n" not in str(raised.value)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize(("encoder", "merges"), [("{", "a b"), ("{}", "a b c"), ('{"a": 0}', "a b"), ("[]", "")])
def test_a_damaged_tokenizer_is_corrupt(tmp_path: Path, encoder: str, merges: str) -> None:
    release(tmp_path / "m", sink=False)
    (tmp_path / "m" / "encoder.json").write_text(encoder)
    (tmp_path / "m" / "vocab.bpe").write_text(merges)
    with pytest.raises(CorruptFile, match="not a tokenizer"):
        load_authors_model(tmp_path / "m")


def test_contradicting_sinks_extra_tensors_and_damage_are_errors(tmp_path: Path) -> None:
    release(tmp_path / "a", sink=True, config={"sink": False})
    release(tmp_path / "b", sink=False, extra={"mystery.weight": torch.ones(3)})
    release(tmp_path / "c", sink=False)
    path = tmp_path / "c" / "final_model.pt"
    path.write_bytes(path.read_bytes()[:1000])
    for name, says in (("a", "sink"), ("b", "mystery"), ("c", "damaged")):
        with pytest.raises(CorruptFile, match=says):
            load_authors_weights(tmp_path / name)


def test_a_missing_unembedding_is_the_embedding_only_where_the_config_ties_them(tmp_path: Path) -> None:
    release(tmp_path / "tied", sink=False, without=("lm_head.weight",), config={"tied_unembed": True})
    model = load_authors_weights(tmp_path / "tied")
    assert torch.equal(model.lm_head.weight, model.wte.weight)
    release(tmp_path / "untied", sink=False, without=("lm_head.weight",))
    with pytest.raises(CorruptFile, match=r"lacks lm_head\.weight"):
        load_authors_weights(tmp_path / "untied")


def test_a_loss_that_would_leave_out_the_output_bias_is_refused(tmp_path: Path) -> None:
    release(tmp_path / "m", sink=False)
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(Unsupported, match="output bias"), torch.no_grad():
        load_authors_weights(tmp_path / "m").loss(tokens, tokens)


def test_no_code_runs_from_a_checkpoint(tmp_path: Path) -> None:
    release(tmp_path / "m", sink=False)
    flag = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (flag,))

    torch.save({"x": Evil()}, tmp_path / "m" / "final_model.pt")
    with pytest.raises(CorruptFile):
        load_authors_weights(tmp_path / "m")
    assert not flag.exists()
