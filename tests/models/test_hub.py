"""Laws of finding a model: what a name means, where it was found, and when the network is asked."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from gossamer.errors import BadInput
from gossamer.models import LoadedModel, any_model, from_pretrained, shipped_models
from gossamer.models.files import save_model


@pytest.fixture
def home(small: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, which is also the home, with a model folder of a shipped model's name."""
    save_model(small.model, tmp_path / "tiny", tokenizer=small.tokenizer, reference=small.reference, record={})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the Hub was asked for; it knows nothing."""
    names: list[str] = []

    def download(repo: str, **_: object) -> str:
        names.append(repo)
        raise OSError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return names


def test_a_bare_shipped_name_is_the_shipped_model_and_a_path_the_folder(home: Path, small: LoadedModel) -> None:
    shipped = from_pretrained("tiny")
    assert (shipped.source, shipped.name, shipped.folder) == ("tiny", "tiny", str(shipped_models()["tiny"]))
    assert shipped.hashes() != small.hashes()
    for place in (
        "./tiny",
        Path("tiny"),
        str(home / "tiny"),
        "~/tiny",
        Path("~/tiny"),
        "tiny/",
        "../" + home.name + "/tiny",
    ):
        found = from_pretrained(place)
        assert (found.source, found.name, found.folder) == (str(home / "tiny"), "tiny", str(home / "tiny"))
        assert found.hashes() == small.hashes()


def test_a_source_finds_the_model_again_from_anywhere(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "mine").mkdir()
    (home / "tiny").rename(home / "mine" / "toy")
    sources = [(m.source, m.hashes()) for m in map(from_pretrained, ("tiny", "mine/toy"))]
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    for source, hashes in sources:
        assert from_pretrained(source).hashes() == hashes


def test_a_hub_name_is_its_own_source(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(home / "tiny"))
    assert from_pretrained("me/toy-1.0_b").source == "me/toy-1.0_b"


@pytest.mark.parametrize(
    "name",
    ["../toy", "./toy", "/toy", "toy/", "/toy/", "a/b/c", ".a/b", "a/.b", "~a/b", "~/toy", "a b/c", "a/b c", "ä/b",
     "a/b\n", "a:b/c", "a\\b", "toy", "", Path("me/toy"), Path("tiny2")],
)  # fmt: skip
def test_only_an_owner_and_a_name_are_asked_of_the_hub(
    name: str | Path, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="model folder"):
        from_pretrained(name)
    assert asked == []


def test_a_hub_name_that_is_not_there_is_one_clear_error(asked: list[str]) -> None:
    with pytest.raises(BadInput, match=r"Hub model named me/toy"):
        from_pretrained("me/toy")
    assert asked == ["me/toy"]


def test_a_name_the_hub_library_refuses_is_one_clear_error() -> None:
    with pytest.raises(BadInput, match="HFValidationError"):  # refused before anything is sent
        from_pretrained("me/a--b")


def test_a_bare_name_is_looked_for_on_the_hub_unless_it_is_nearly_one_that_ships(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def absent(name: str, device: str, dtype: str) -> None:
        asked.append(name)
        raise BadInput("the Hub did not answer")

    monkeypatch.setattr("gossamer.models.huggingface.load_decoder", absent)
    for name in ("gpt2", "tiney", "no/such folder"):
        with pytest.raises(BadInput, match="Unknown model"):
            any_model(name)
    assert asked == ["gpt2"]
