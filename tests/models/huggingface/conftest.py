"""A real pretrained decoder, where the shared data is."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossamer.models.huggingface import Decoder, load_decoder

STORIES = Path(__file__).parents[4] / "shared" / "data" / "stories260k" / "hf"


@pytest.fixture(scope="session")
def stories() -> Decoder:
    if not STORIES.is_dir():
        pytest.skip("shared data is absent")
    return load_decoder(STORIES)
