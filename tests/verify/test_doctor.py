"""The doctor finds nothing wrong with sound models, and the right thing wrong with models broken on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from taught import saved, she_he, taught
from torch import Tensor, nn
from typer.testing import CliRunner
from zoo import decoder

from gossamer import commands
from gossamer.cli.main import app
from gossamer.errors import BadInput
from gossamer.evidence import Evidence
from gossamer.models import from_pretrained
from gossamer.models.huggingface import Decoder, decoder_of
from gossamer.models.huggingface.anatomy import Layer, Reader
from gossamer.task import Encoded
from gossamer.verify.doctor import Patient, checks_of, doctor, made, patient_of, random_pairs, swapped
from gossamer.verify.doctor_channels import Channels


class Bos:
    """A tokenizer of which only the start of a text is asked."""

    bos_token_id = 1

    def __call__(self, text: str) -> Any:
        return type("Encoding", (), {"input_ids": [5]})()


def of_family(name: str, **changes: Any) -> Decoder:
    return decoder_of(decoder(name, **changes), Bos(), name)


def patient(model: Any, pairs: Encoded | None = None, free: Callable[[str], int] = lambda d: 1 << 33) -> Patient:
    return patient_of(model, pairs, n_pairs=2, tokens=7, draws=4, seed=0, free=free)


def found(model: Any, *names: str) -> dict[str, Evidence]:
    checks = checks_of(patient(model))
    return {n: checks[n]() for n in names}


def rebuilt(kind: type[Decoder], model: Decoder, **changes: Any) -> Decoder:
    fields = {"name": model.name, "model": model.model, "tokenizer": model.tokenizer, "parts": model.parts}
    return kind(**{**fields, **changes})


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_sound_models_pass_and_every_control_misses(name: str) -> None:
    steps: list[int] = []
    evidence = doctor(patient(of_family(name)), lambda done, total, value: steps.append(total - done))
    by_name = {e.name: e for e in evidence}
    assert by_name.pop("devices").verdict == "not measured"
    assert by_name.pop("EAP against exact patching").verdict in ("pass", "not reached")
    assert {k: e.verdict for k, e in by_name.items() if e.verdict != "pass"} == {}
    for e in by_name.values():
        limit = float(e.threshold.removeprefix("fails above ").split(":")[0])
        assert e.value is not None
        assert e.value <= limit * 1.01  # the threshold is printed with two digits
        assert e.nulls[0].value is not None
        assert e.nulls[0].value > limit
    assert steps == list(range(len(evidence) - 1, -1, -1))


def test_slopes_are_exact_where_nothing_rounds_inside() -> None:
    e = found(of_family("gpt2"), "finite differences")["finite differences"]
    assert e.value is not None
    assert e.value < 1e-5
    assert "in float64" in e.note


def test_kinks_of_a_relu_are_no_wrong_gradients() -> None:
    """OPT: at the first step several edges have a kink between the two ends."""
    model = of_family("opt")
    p = patient_of(model, None, n_pairs=4, tokens=12, draws=15, seed=0, free=lambda device: 1 << 33)
    assert checks_of(p)["finite differences"]().verdict == "pass"


def test_without_memory_for_copies_the_slopes_are_taken_in_the_models_own_dtype_or_not_at_all() -> None:
    single = patient(of_family("gpt2"), free=lambda device: 0)
    e = checks_of(single)["finite differences"]()
    assert e.verdict == "pass"
    assert "in float32" in e.note
    assert checks_of(single)["dtypes"]().verdict == "not measured"
    model = decoder_of(decoder("gpt2").bfloat16(), Bos(), "gpt2")
    assert checks_of(patient(model, free=lambda device: 0))["finite differences"]().verdict == "not measured"


# models broken on purpose


class Deaf(Decoder):
    """One reader never gets an ablated write."""

    READER = 5  # the keys of group 1 of the first layer, after 4 heads' queries

    def patched(self, batch: Encoded, alpha: Tensor, reference: Tensor) -> Tensor:
        heard = (self._cells[1] != self.READER).to(alpha)
        return super().patched(batch, alpha * heard, reference)


def test_a_reader_that_ignores_its_edges_is_found_and_named() -> None:
    model = rebuilt(Deaf, taught())
    e = found(model, "ends", "finite differences", "reconstruction")
    assert {k: v.verdict for k, v in e.items()} == {
        "ends": "fail", "finite differences": "fail", "reconstruction": "pass",
    }  # fmt: skip
    assert "those out of the input" in e["ends"].note
    node, what, _ = model.shape.readers[Deaf.READER]
    assert f"the worst is at {node}<{what}>" in e["finite differences"].note


class Flipped(Decoder):
    """Heads' writes under each other's names."""

    def _head_writes(self, layer: Layer, z: Tensor, out: Tensor, place: Tensor | None, norms: Any) -> Tensor:
        return super()._head_writes(layer, z, out, None, norms).flip(0)


def test_heads_under_other_names_are_found_where_sums_cannot_tell() -> None:
    e = found(rebuilt(Flipped, taught()), "heads", "reconstruction", "ends")
    assert {k: v.verdict for k, v in e.items()} == {"heads": "fail", "reconstruction": "pass", "ends": "pass"}
    assert "other values of head 0 of layer 0 move the writes of heads [3]" in e["heads"].note


def test_permuted_rows_of_queries_are_found() -> None:
    model = taught()
    first = model.parts.layers[0]
    q = Reader(linear=first.q.linear, rows=first.q.rows.flip(0))
    parts = replace(model.parts, layers=(replace(first, q=q), *model.parts.layers[1:]))
    e = found(rebuilt(Decoder, model, parts=parts), "heads")["heads"]
    assert e.verdict == "fail"
    assert "queries are not where they were looked for" in e.note


class Unscaled(Decoder):
    """Heads' writes without the scale of the norm after attention."""

    def _head_writes(self, layer: Layer, z: Tensor, out: Tensor, place: Tensor | None, norms: Any) -> Tensor:
        return super()._head_writes(replace(layer, attn_post=None), z, out, place, norms)


def test_a_wrong_scale_of_a_post_norm_is_found() -> None:
    e = found(rebuilt(Unscaled, of_family("gemma2")), "reconstruction")["reconstruction"]
    assert e.verdict == "fail"


class Steep(Decoder):
    """Gradients of one edge in ten are half as large as they are."""

    def edge_gradient(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        scores, own = super().edge_gradient(*args, **kwargs)
        return scores * (1 - 0.5 * (torch.arange(len(scores)) % 10 == 0)), own


def test_a_wrong_gradient_is_found_and_exact_ablation_is_not_blamed() -> None:
    e = found(rebuilt(Steep, taught()), "finite differences", "ends", "exact patching")
    assert {k: v.verdict for k, v in e.items()} == {
        "finite differences": "fail", "ends": "pass", "exact patching": "pass",
    }  # fmt: skip


def with_hook(model: Decoder, change: Callable[[Tensor], Tensor]) -> Decoder:
    def after(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        return change(out)

    model.parts.layers[0].out.register_forward_hook(after)
    return model


@pytest.mark.parametrize(
    ("change", "check", "others"),
    [
        (lambda x: x + 0.1 * x.mean(0, keepdim=True), "batch invariance", ("determinism",)),
        (lambda x: x + 0.1 * x.mean(1, keepdim=True), "padding invariance", ("determinism", "batch invariance")),
        (lambda x: x * (1.0 if x.dtype == torch.float32 else 3.0), "dtypes", ("determinism", "batch invariance")),
        (lambda x: x + 1e-3 * torch.randn_like(x), "determinism", ()),
    ],
    ids=["batch mean", "sees later tokens", "another dtype, another model", "noise"],
)  # fmt: skip
def test_models_whose_numbers_depend_on_what_they_should_not(
    change: Callable[[Tensor], Tensor], check: str, others: tuple[str, ...]
) -> None:
    e = found(with_hook(of_family("llama"), change), check, *others)
    assert e[check].verdict == "fail"
    assert {e[k].verdict for k in others} <= {"pass"}


def test_a_model_that_raises_in_a_check_fails_it() -> None:
    def raising(x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16:
            raise RuntimeError("expected m1 and m2 to have the same dtype")
        return x

    e = made("dtypes", checks_of(patient(with_hook(of_family("llama"), raising)))["dtypes"])
    assert e.verdict == "fail"
    assert "RuntimeError: expected m1" in e.note


def test_dropout_left_on_is_found() -> None:
    model = of_family("gpt2")
    model.model.train()
    e = found(model, "determinism")["determinism"]
    assert e.verdict == "fail"
    assert e.value
    assert e.value > 0


def test_a_check_whose_control_would_pass_is_not_measured() -> None:
    """Both prompts of every pair the same: no ablation changes anything."""
    model = taught()
    batch = random_pairs(19, 64, None, 3, 8, 0)
    same = batch._replace(tokens=batch.tokens[::2].repeat_interleave(2, 0), answer=batch.answer[::2].repeat(2))
    e = checks_of(patient(model, same))["ends"]()
    assert e.verdict == "not measured"
    assert "the control would pass" in e.note


# weight-sparse models


def test_a_weight_sparse_model_and_what_has_no_meaning_for_it() -> None:
    evidence = doctor(patient(from_pretrained("tiny")))
    verdicts = {e.name: e.verdict for e in evidence}
    assert {k for k, v in verdicts.items() if v == "not measured"} == {
        "EAP against exact patching", "dtypes", "devices",
    }  # fmt: skip
    assert set(verdicts.values()) == {"pass", "not measured"}
    assert all(e.note for e in evidence if e.verdict == "not measured")


def test_broken_weight_sparse_models(monkeypatch: pytest.MonkeyPatch) -> None:
    model = from_pretrained("tiny")
    block = model.model.blocks[0]
    handle = block.register_forward_hook(lambda module, args, out: 1.01 * out)
    e = found(model, "reconstruction", "determinism")
    assert {k: v.verdict for k, v in e.items()} == {"reconstruction": "fail", "determinism": "pass"}
    handle.remove()
    plain = Channels._gradient
    monkeypatch.setattr(Channels, "_gradient", lambda self, batch: plain(self, batch).roll(1))
    assert found(model, "finite differences")["finite differences"].verdict == "fail"


# prompts, command, refusals


def test_random_pairs_share_a_beginning_and_differ_after_it() -> None:
    batch = random_pairs(50, 32, 1, 4, 9, seed=3)
    assert torch.equal(batch.tokens[::2, :3], batch.tokens[1::2, :3])
    assert bool((batch.tokens[:, 0] == 1).all())
    assert bool((batch.tokens[::2, 3:] != batch.tokens[1::2, 3:]).any(1).all())
    assert len(set(batch.last.tolist())) > 1
    assert bool((batch.answer != batch.wrong).all())
    assert torch.equal(swapped(swapped(batch)).tokens, batch.tokens)
    with pytest.raises(BadInput, match="at most the 8 tokens"):
        random_pairs(50, 8, None, 4, 9, seed=0)


def test_the_command_on_pairs_of_a_task(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(
        json.dumps({"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer,
                    "wrong_answer": e.wrong_answer})
        for e in she_he().train[:40]
    ))  # fmt: skip
    result = CliRunner().invoke(
        app, ["doctor", str(folder), "--task", str(pairs), "--edges", "4", "--pairs", "2", "--json"]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout[result.stdout.index("{") :])
    assert report["prompts"] == "pairs of the task"
    assert report["passed"] is True
    assert {e["verdict"] for e in report["evidence"]} <= {"pass", "not measured", "not reached"}


def test_a_refused_architecture_is_a_verdict_with_its_reason(tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    model = MixtralForCausalLM(MixtralConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=16, num_local_experts=2,
    ))  # fmt: skip
    model.save_pretrained(tmp_path)
    taught().tokenizer.save_pretrained(tmp_path)
    report = commands.doctor(tmp_path)
    assert not report.passed
    (e,) = report.evidence
    assert e.verdict == "fail"
    assert "mixture of experts" in e.note
    result = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert result.exit_code == 1
    assert "mixture of experts" in result.output


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"pairs": 1}, "at least 2 pairs"), ({"tokens": 3}, "4 tokens"), ({"edges": 1}, "2 edges"),
        ({"seed": -1}, "seed of at least 0"), ({"device": "tpu"}, "Unknown device"),
        ({"dtype": "bfloat16"}, "Expected dtype float32"),
    ],
)  # fmt: skip
def test_bad_options_are_told(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        commands.doctor("tiny", **given)


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, again = (found(taught(), "reconstruction", "EAP against exact patching") for _ in range(2))
    assert first == again
    assert np.isfinite([e.value or 0.0 for e in first.values()]).all()
