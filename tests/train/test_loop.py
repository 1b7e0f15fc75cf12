"""Laws of a training run: kill and resume, the twin's text, refusals before any work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gossamer.corpora.tokens import TokenFile
from gossamer.errors import BadInput
from gossamer.models import from_pretrained
from gossamer.models.quantise import from_rounded_rows, rounded_rows
from gossamer.train.learner import Learner
from gossamer.train.loop import train
from gossamer.train.measure import validation_loss
from gossamer.train.presets import TrainConfig, preset

RECIPE = {
    "d_model": 16, "d_head": 4, "n_layer": 1, "n_ctx": 32, "vocab_size": 300, "batch_size": 4, "density": 0.4,
    "embed_density": 0.5, "tokens": 4 * 32 * 60, "min_alive": 2,
}  # fmt: skip

SCRIPT = """
import sys, json, torch
from pathlib import Path
from gossamer.train.loop import train
from gossamer.train.presets import preset
torch.set_num_threads(1)
out, text, resume = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "1"
train(out, preset("tiny", **json.loads(sys.argv[4])), corpus=text, threads=1, resume=resume, checkpoint_every=7)
"""


def recipe(**changes: object) -> TrainConfig:
    return preset("tiny", **{**RECIPE, **changes})


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_killed_at_any_step_and_resumed_ends_with_the_same_bits(tmp_path: Path, text_folder: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(resume: bool) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SCRIPT, str(killed), str(text_folder), "01"[resume], json.dumps(RECIPE)]
        return subprocess.Popen(command, env=environment)

    assert train(whole, recipe(), corpus=text_folder, threads=1, checkpoint_every=7)
    metrics = tmp_path / "killed.training" / "metrics.jsonl"
    resume = False
    for kill_at in (2, 4):  # lines of metrics, one every 10 steps: killed in the middle of anything
        process = start(resume)
        deadline = time.time() + 120
        while len(lines(metrics)) < kill_at and process.poll() is None and time.time() < deadline:
            time.sleep(0.002)
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not killed.exists()
        resume = True
    assert train(killed, recipe(), corpus=text_folder, threads=1, resume=True, checkpoint_every=7)
    a, b = from_pretrained(whole), from_pretrained(killed)
    assert a.hashes() == b.hashes()
    assert lines(whole / "metrics.jsonl") == lines(killed / "metrics.jsonl")
    assert [line["step"] for line in lines(killed / "metrics.jsonl")] == [10, 20, 30, 40, 50, 60]


def test_a_finished_run_is_a_model_with_its_record(tmp_path: Path, text_folder: Path) -> None:
    seen = []
    model = train(tmp_path / "m", recipe(), corpus=text_folder, threads=1, progress=seen.append)
    assert model is not None
    details = model.record["details"]
    assert details["text"]["file_list_sha256"]
    assert set(details["text"]["validation_packages"]).isdisjoint(details["text"]["train_packages"])
    assert seen[-1].step == seen[-1].steps == 60
    assert seen[-1].eta_seconds == 0
    assert seen[-1].density == pytest.approx(0.4)
    assert seen[0].loss_nats > seen[-1].loss_nats
    assert model.reference is not None
    assert model.reference.excerpt.shape[1] == 32
    assert list((tmp_path / "m.training" / "tensorboard").glob("events*"))
    w = model.model.blocks[0].mlp.c_fc.weight
    assert int(w.count_nonzero()) == round(0.4 * w.numel())


def test_the_dense_twin_reads_the_same_text_in_the_same_order(tmp_path: Path, text_folder: Path) -> None:
    train(tmp_path / "sparse", recipe(), corpus=text_folder, threads=1)
    twin = train(
        tmp_path / "dense", recipe(density=1, embed_density=1, d_model=8), data=tmp_path / "sparse.training", threads=1
    )
    sparse = from_pretrained(tmp_path / "sparse")
    assert twin is not None
    assert sparse.record["details"]["text"] == twin.record["details"]["text"]
    assert sparse.tokenizer.to_str() == twin.tokenizer.to_str()
    assert float(twin.model.wte.weight.count_nonzero()) == twin.model.wte.weight.numel()


def test_reference_means_are_the_mean_activations_over_the_text(tmp_path: Path, text_folder: Path) -> None:
    from gossamer.corpora.tokens import TokenFile
    from gossamer.train.measure import reference_means

    model = train(tmp_path / "m", recipe(), corpus=text_folder, threads=1)
    assert model is not None
    work = tmp_path / "m.training"
    text = TokenFile(path=work / "train.npy", n_tokens=json.loads((work / "text.json").read_text())["train_tokens"])
    found = reference_means(model.model, text, 32, torch.zeros(0, 32), n_tokens=64 * 32)
    chosen = torch.linspace(0, text.n_windows(32) - 1, 64, dtype=torch.float64).long().numpy()
    rows = text.windows(chosen, 32)[:, :-1]
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        model.model.hidden(rows, lambda name, x: seen.setdefault(name, x))
    for name, x in seen.items():
        assert torch.allclose(found.means[name], x.double().mean((0, 1)).float(), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"density": 0.01}, {}, "--density of at least"),
        ({}, {"device": "tpu"}, "use cpu, cuda"),
        ({}, {"device": "cuda" if torch.backends.mps.is_available() else "mps"}, "this machine has none"),
        ({}, {"dtype": "int8"}, "float32, bfloat16"),
        ({}, {"resume": True}, "Nothing to resume"),
        ({}, {"corpus": "EMPTY"}, "no text|text"),
        ({"batch_size": 2**23, "tokens": 2**34}, {}, "--micro-batch [0-9]+ fits"),
        ({"d_model": 2**18, "d_head": 2**10}, {}, "lower the width"),
        ({}, {"micro_batch": 5}, "1 to 4 sequences"),
        ({}, {"checkpoint_every": 0}, "at least 1"),
        ({}, {"threads": -1}, "at least 1"),
        ({"n_ctx": 300, "tokens": 10**6}, {"corpus": "SHORT"}, "at least 1,201 training tokens"),
        ({}, {"data": Path("nowhere"), "corpus": None}, "text.json"),
        ({}, {"data": Path("nowhere")}, "got both"),
    ],
)
def test_bad_input_is_one_error_and_writes_nothing(
    tmp_path: Path, text_folder: Path, changes: dict[str, object], options: dict[str, object], says: str
) -> None:
    (tmp_path / "EMPTY").mkdir()
    for name in "ab":
        (tmp_path / "SHORT" / name).mkdir(parents=True)
        (tmp_path / "SHORT" / name / "text.py").write_text(f"{name} = 1\n" * 40)
    if isinstance(options.get("corpus"), str):
        options = {**options, "corpus": tmp_path / str(options["corpus"])}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match=says):
        train(tmp_path / "m", recipe(**changes), **{"corpus": text_folder, **options})  # type: ignore[arg-type]
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unfinished_run_is_not_overwritten_and_another_recipe_does_not_resume_it(
    tmp_path: Path, text_folder: Path
) -> None:
    assert train(tmp_path / "m", recipe(), corpus=text_folder, threads=1, stop_after=10) is None
    with pytest.raises(BadInput, match="--resume"):
        train(tmp_path / "m", recipe(), corpus=text_folder)
    with pytest.raises(BadInput, match=r"other options \(lr was 0.02, now 0.5; micro_batch was None, now 2\)"):
        train(tmp_path / "m", recipe(lr=0.5), corpus=text_folder, resume=True, micro_batch=2)
    assert train(tmp_path / "m", recipe(), corpus=text_folder, threads=1, resume=True) is not None


def test_a_resumed_twin_goes_on_with_its_siblings_text(tmp_path: Path, text_folder: Path) -> None:
    assert train(tmp_path / "m", recipe(), corpus=text_folder, threads=1, stop_after=1) is None
    data = tmp_path / "m.training"
    assert train(tmp_path / "twin", recipe(density=1), data=data, threads=1, stop_after=10) is None
    twin = train(tmp_path / "twin", recipe(density=1), threads=1, resume=True)
    assert twin is not None
    assert twin.record["details"]["text"] == json.loads((data / "text.json").read_text())


def test_a_resumed_run_keeps_its_corpus(tmp_path: Path, text_folder: Path) -> None:
    assert train(tmp_path / "m", recipe(), corpus=text_folder, threads=1, stop_after=1) is None
    with pytest.raises(BadInput, match=r"corpus was .*, now "):
        train(tmp_path / "m", recipe(), corpus=tmp_path, resume=True)
    (tmp_path / "m.training" / "text.json").unlink()  # killed while it read its text
    model = train(tmp_path / "m", recipe(), threads=1, resume=True)
    assert model is not None
    assert model.record["details"]["text"]["corpus"] == str(text_folder.resolve())


def test_a_twin_reads_its_siblings_text_in_its_order_or_not_at_all(tmp_path: Path, text_folder: Path) -> None:
    assert train(tmp_path / "m", recipe(), corpus=text_folder, threads=1, stop_after=1) is None
    with pytest.raises(BadInput, match="needs its order of text: n_ctx 32, seed 0"):
        train(tmp_path / "twin", recipe(density=1, n_ctx=16, seed=1), data=tmp_path / "m.training")
    assert not (tmp_path / "twin.training").exists()


def test_a_float16_overflow_skips_the_step_and_leaves_every_number_finite() -> None:
    learner = Learner(recipe(), "cpu", "float16")
    batch = torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(0))
    learner.step(batch, 0)
    before = {k: v.clone() for k, v in learner.model.state_dict().items()}
    learner.scaler.update(2.0**60)
    learner.step(batch, 1)
    assert all(torch.equal(v, before[k]) for k, v in learner.model.state_dict().items())
    assert learner.scaler.get_scale() < 2.0**60
    learner.scaler.update(8.0)
    learner.step(batch, 2)
    assert not torch.equal(learner.model.wte.weight, before["wte.weight"])
    assert all(v.isfinite().all() for v in learner.model.state_dict().values())


def test_the_excerpt_is_standard_library_text_whatever_the_corpus(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / "own" / name / "secret.txt").write_text(f"the private words of {name}, zyx qwv\n" * 400)
    model = train(tmp_path / "m", recipe(), corpus=tmp_path / "own", threads=1)
    assert model is not None
    assert model.reference is not None
    shown = [model.tokenizer.decode(row.tolist()) for row in model.reference.excerpt]
    assert not any("private words" in text for text in shown)
    assert any("import" in text or "def " in text for text in shown)


def test_a_batch_in_parts_has_the_gradient_of_the_whole() -> None:
    config = recipe()
    batch = torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(0))
    found = []
    for micro_batch in (4, 2, 3):
        learner = Learner(config, "cpu", micro_batch=micro_batch)
        loss = sum(learner.accumulate(part, len(part) / 4) * len(part) / 4 for part in batch.split(micro_batch))
        found.append((loss, [p.grad.clone() for p in learner.model.parameters() if p.grad is not None]))
    for loss, grads in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        for mine, whole in zip(grads, found[0][1], strict=True):
            assert torch.allclose(mine, whole, atol=1e-7)  # float32 sums in another order


PEAK = """
import re, resource, sys
from gossamer.train.estimate import estimate
from gossamer.train.presets import preset
import torch
torch.set_num_threads(1)

def held(what):
    if sys.platform == "linux":  # ru_maxrss is never below what the parent, a test worker, held at the start
        return int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = held("VmRSS")
need = estimate(preset("tiny", batch_size=int(sys.argv[1])), "cpu")
print(need.memory_bytes, held("VmHWM") - before)
"""


@pytest.mark.parametrize("sequences", [32, 128])
def test_the_memory_estimate_is_what_a_step_takes(sequences: int) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, str(sequences)], capture_output=True, text=True, check=True)
    estimated, measured = map(int, done.stdout.split())
    assert 0.75 < estimated / measured < 1.6  # what libraries keep differs between builds


def test_the_cost_of_rounding_the_bigram_table_is_in_the_record(tmp_path: Path, text_folder: Path) -> None:
    model = train(tmp_path / "m", recipe(bigram=True), corpus=text_folder, threads=1)
    assert model is not None
    table = model.model.bigram_table
    assert table is not None
    assert torch.equal(from_rounded_rows(*rounded_rows(table)), table)
    details = model.record["details"]
    cost = details["validation_loss_nats"] - details["validation_loss_before_rounding_nats"]
    assert 0 < abs(cost) < 1e-3
    path = tmp_path / "m.training" / "val.npy"
    val = TokenFile(path=path, n_tokens=len(np.load(path)))
    assert details["validation_loss_nats"] == pytest.approx(validation_loss(model.model, val, 32), rel=1e-6)


def test_bfloat16_autocast_trains(tmp_path: Path, text_folder: Path) -> None:
    model = train(tmp_path / "m", recipe(tokens=4 * 32 * 12), corpus=text_folder, dtype="bfloat16", threads=1)
    assert model is not None
    assert model.model.wte.weight.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_trains_to_about_the_same_loss(tmp_path: Path, text_folder: Path) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        model = train(tmp_path / device, recipe(), corpus=text_folder, device=device)
        assert model is not None
        losses.append(model.record["details"]["validation_loss_nats"])
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
