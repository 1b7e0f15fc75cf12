"""Laws of a model folder: nothing altered is loaded, nothing whole is lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from toys import random_model

from gossamer.errors import BadInput, CorruptFile, GossamerError, Unsupported
from gossamer.models import LoadedModel
from gossamer.models.files import load_model, load_weights, read_safetensors, save_model, write_safetensors

Change = Callable[[dict[str, Tensor], dict[str, str]], object]


def saved(model: LoadedModel, folder: Path) -> Path:
    return save_model(model.model, folder, tokenizer=model.tokenizer, reference=model.reference, record={})


def rewrite(path: Path, change: Change) -> None:
    """The file again with changed tensors or metadata and, like those of earlier versions, no hash."""
    with safe_open(path, framework="pt") as f:
        meta = dict(f.metadata())
    tensors = load_file(path)
    meta.pop("sha256")
    change(tensors, meta)
    save_file(tensors, path, metadata=meta)


@pytest.mark.parametrize("file", ["model.safetensors", "reference.safetensors"])
def test_one_flipped_bit_anywhere_in_the_numbers_is_noticed(small: LoadedModel, tmp_path: Path, file: str) -> None:
    path = saved(small, tmp_path / "m") / file
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for at in np.linspace(start, len(content) - 1, 20).astype(int):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(CorruptFile, match="altered or damaged"):
            load_model(tmp_path / "m")


def test_a_changed_number_of_the_metadata_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_safetensors({"a": torch.ones(2)}, path, {"step": "200"})
    path.write_bytes(path.read_bytes().replace(b'"200"', b'"300"'))
    with pytest.raises(CorruptFile, match="altered or damaged"):
        read_safetensors(path)


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.uint8,
     torch.uint16, torch.int32, torch.int64],
    ids=str,
)  # fmt: skip
def test_tensors_of_any_dtype_and_shape_come_back_and_a_flipped_bit_is_noticed(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    path = tmp_path / "t.safetensors"
    whole = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]).to(dtype)
    given = {"whole": whole, "one": whole[1, 1].clone(), "none": whole[:0], "turned": whole.T}
    write_safetensors(given, path, {"format_version": "1"})
    found, meta = read_safetensors(path)
    assert meta["format_version"] == "1"
    assert found.keys() == given.keys()
    for name, t in given.items():
        assert found[name].dtype == dtype
        assert found[name].shape == t.shape
        assert torch.equal(found[name].double(), t.double())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile):
        read_safetensors(path)


def test_renamed_and_reshaped_tensors_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_safetensors({"a": torch.ones(2, 3)}, path, {})
    content = path.read_bytes()
    for old, new in ((b'"a":', b'"b":'), (b"[2,3]", b"[3,2]"), (b'"F32"', b'"I32"')):
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))
        with pytest.raises(CorruptFile, match="altered or damaged"):
            read_safetensors(path)


def test_a_folder_of_an_earlier_version_has_no_hash_and_loads(small: LoadedModel, tmp_path: Path) -> None:
    folder = saved(small, tmp_path / "m")
    for file in ("model.safetensors", "reference.safetensors"):
        rewrite(folder / file, lambda tensors, meta: None)
    assert load_model(folder).hashes() == small.hashes()


def test_an_output_bias_survives_saving(tmp_path: Path) -> None:
    model = random_model(seed=4)
    model.model.final_logits_bias.copy_(torch.linspace(-1, 1, 16))
    again = load_weights(saved(model, tmp_path / "m"))
    tokens = torch.arange(8)[None]
    assert torch.equal(again(tokens), model.model(tokens))


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (b"\xff\xfe{}", CorruptFile, "cannot be read as JSON"),
        (b"{", CorruptFile, "cannot be read as JSON"),
        (b"[1, 2]", CorruptFile, "Expected a JSON object"),
        (b'{"model_type": "gpt2", "n_ctx": 1024}', Unsupported, r"model_type 'gpt2'.*this works on gossamer-sparse"),
        (b'{"model_type": "gossamer-sparse", "n_ctx": 0}', CorruptFile, r"n_ctx: .*greater than 0.*d_mlp: Field"),
    ],
)
def test_a_config_of_something_else_is_told_in_one_line(
    small: LoadedModel, tmp_path: Path, content: bytes, error: type[GossamerError], says: str
) -> None:
    folder = saved(small, tmp_path / "m")
    (folder / "config.json").write_bytes(content)
    (folder / "tokenizer.json").unlink()  # another library's folder may lack one: not what is to be told
    with pytest.raises(error, match=says) as raised:
        load_model(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"[]", b"\xff", b"{"])
def test_a_damaged_record_is_not_loaded(small: LoadedModel, tmp_path: Path, content: bytes) -> None:
    folder = saved(small, tmp_path / "m")
    (folder / "record.json").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"record\.json"):
        load_model(folder)


REFERENCE_DEFECTS: dict[str, Change] = {
    "no excerpt": lambda tensors, meta: tensors.pop("excerpt"),
    "flat excerpt": lambda tensors, meta: tensors.update(excerpt=tensors["excerpt"].flatten()),
    "excerpt of fractions": lambda tensors, meta: tensors.update(excerpt=tensors["excerpt"].float()),
    "no n_tokens": lambda tensors, meta: meta.pop("n_tokens"),
    "n_tokens in words": lambda tensors, meta: meta.update(n_tokens="many"),
    "no means": lambda tensors, meta: tensors.pop("mean.final_resid"),
}


@pytest.mark.parametrize("defect", REFERENCE_DEFECTS)
def test_a_reference_that_lacks_something_is_not_loaded(small: LoadedModel, tmp_path: Path, defect: str) -> None:
    folder = saved(small, tmp_path / "m")
    rewrite(folder / "reference.safetensors", REFERENCE_DEFECTS[defect])
    with pytest.raises(CorruptFile, match="compute"):
        load_model(folder)


def test_a_killed_replacement_leaves_the_old_model_whole_or_the_new_one_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = random_model(seed=0), random_model(seed=1)

    class Killed(BaseException):
        pass

    def replacement_killed_at(step: int, place: Path) -> bool:
        """From the step-th rename or deletion on, nothing has any effect: clean-up code does not run either."""
        folder, steps, real = saved(old, place / "m"), 0, (os.replace, shutil.rmtree)

        def mortal(action: Callable[..., object]) -> Callable[..., object]:
            def act(*given: object, **how: object) -> object:
                nonlocal steps
                steps += 1
                if steps >= step:
                    raise Killed
                return action(*given, **how)

            return act

        monkeypatch.setattr(os, "replace", mortal(real[0]))
        monkeypatch.setattr(shutil, "rmtree", mortal(real[1]))
        try:
            saved(new, folder)
        except Killed:
            return True
        finally:
            monkeypatch.undo()
        assert load_model(folder).hashes() == new.hashes()
        assert [p.name for p in place.iterdir()] == ["m"]
        return False

    step, in_place = 1, []
    while replacement_killed_at(step, tmp_path / str(step)):
        folder = tmp_path / str(step) / "m"
        whole = [load_model(c.parent).hashes() for c in (tmp_path / str(step)).rglob("m/config.json")]
        assert old.hashes() in whole or load_model(folder).hashes() == new.hashes(), step
        in_place.append(folder.is_dir())
        step += 1
    assert in_place.count(False) == 1  # between the two renames: the old one is whole beside its empty place


def test_a_replacement_that_fails_puts_the_old_model_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, folder, real = random_model(seed=0), tmp_path / "m", os.replace
    saved(old, folder)

    def fails(source: Path, target: Path) -> None:
        if Path(target) == folder and ".partial." in str(source):
            raise OSError("disk full")
        real(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        saved(random_model(seed=1), folder)
    assert load_model(folder).hashes() == old.hashes()
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_only_a_model_folder_is_ever_replaced(small: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for name in ("thesis", "file"):
        with pytest.raises(BadInput, match=r"no config\.json"):
            saved(small, tmp_path / name)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "a file"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "thesis"]


def test_extra_files_appear_with_the_model_or_not_at_all(small: LoadedModel, tmp_path: Path) -> None:
    metrics = tmp_path / "log"
    metrics.write_text(json.dumps({"step": 1}))
    given = {"tokenizer": small.tokenizer, "reference": small.reference, "record": {}}
    folder = save_model(small.model, tmp_path / "m", **given, extra={"metrics.jsonl": metrics})
    assert (folder / "metrics.jsonl").read_text() == metrics.read_text()
    with pytest.raises(FileNotFoundError):
        save_model(small.model, tmp_path / "n", **given, extra={"metrics.jsonl": tmp_path / "none"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "m"]
