"""What a run was started with; a resumed run must share it, or its bits would differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.train.presets import TrainConfig
from gossamer.whole_file import write_whole

START = "start.json"


class Start(BaseModel):
    """start.json of a `.training` folder. corpus: the folder of text, None for this machine's Python source. data: the
    `.training` folder whose text is read instead. Each kind of run adds its recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: Path | None
    data: Path | None

    @classmethod
    def read(cls, path: Path) -> Self:
        """A stored start; a damaged file is CorruptFile."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise CorruptFile(f"{path} is damaged ({one_line(error)}); start the run again.") from error

    def resuming(self, work: Path) -> Self:
        """The start stored in `work`; BadInput when there is none, or it differs from this one."""
        path = work / START
        if not path.is_file():
            raise BadInput(f"Nothing to resume at {work}; leave out --resume.")
        stored = self.read(path)
        mine = self.model_copy(update={k: getattr(self, k) or getattr(stored, k) for k in ("corpus", "data")})
        if stored != mine:
            ours, theirs = (_flat(json.loads(s.model_dump_json())) for s in (mine, stored))
            differ = [f"{k} was {theirs[k]}, now {v}" for k, v in ours.items() if theirs[k] != v]
            raise BadInput(f"{work} was started with other options ({'; '.join(differ)}); resume with the same ones.")
        return stored

    def note(self, work: Path) -> None:
        """Write it into `work`, made if need be."""
        work.mkdir(parents=True, exist_ok=True)
        write_whole(self.model_dump_json(indent=1), work / START)


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe among the others."""
    inner = [v for v in fields.values() if isinstance(v, dict)]
    return {k: v for part in (*inner, fields) for k, v in part.items() if not isinstance(v, dict)}


class ModelStart(Start):
    """The start of a model's training."""

    recipe: TrainConfig
    dtype: str
    micro_batch: int | None

    def check_sibling(self) -> None:
        """BadInput unless the run in `data` has its text ready and this recipe reads it in the same order."""
        assert self.data is not None
        if self.corpus is not None:
            raise BadInput("Expected --corpus or --data, got both; --data brings its own text.")
        missing = [name for name in ("text.json", START) if not (self.data / name).is_file()]
        if missing:
            raise BadInput(
                f"Expected the .training folder of an earlier run at {self.data}; it has no {' and no '.join(missing)}."
            )
        theirs = ModelStart.read(self.data / START).recipe
        order = ("n_ctx", "batch_size", "vocab_size", "seed")
        differ = [f"{k} {getattr(theirs, k)}" for k in order if getattr(theirs, k) != getattr(self.recipe, k)]
        if differ:
            raise BadInput(f"A run on the text of {self.data} needs its order of text: {', '.join(differ)}.")
