"""The comparison of sparse with dense circuits counts a circuit without a rival as alone, not as not measured."""

from __future__ import annotations

from argparse import Namespace

from canonical import beyond_chance, report

GIVEN = Namespace(sparse="s", dense="d")


def rows_of(sparse: float | None, dense: float | None, verdict: str = "pass") -> list[dict[str, object]]:
    return [
        {"model": model, "task": f"t{i}", "seed": 0, "rivals": {"iou": iou, "chance": 0.2, "verdict": given}}
        for i in range(3) for model, iou, given in (("s", sparse, verdict), ("d", dense, "fail"))
    ]  # fmt: skip


def test_chance_is_0_and_no_rival_is_1() -> None:
    assert beyond_chance({"rivals": {"iou": 0.2, "chance": 0.2, "verdict": "fail"}}, "rivals") == 0
    assert beyond_chance({"rivals": {"iou": None, "chance": 0.2, "verdict": "pass"}}, "rivals") == 1
    assert beyond_chance({"rivals": {"iou": None, "chance": None, "verdict": "not measured"}}, "rivals") is None
    assert beyond_chance({"reached": False}, "rivals") is None


def test_a_model_without_rivals_is_the_more_canonical_one() -> None:
    found = report(rows_of(None, 0.36), GIVEN)["rivals"]
    assert found["left_out"] == []
    assert found["s"]["mean"] == 1
    assert abs(found["d"]["mean"] - 0.2) < 1e-12
    assert found["p"] == 1 / 8
    silent = report(rows_of(None, 0.36, "not measured"), GIVEN)["rivals"]
    assert silent["tasks"] == []
    assert silent["left_out"] == ["t0", "t1", "t2"]
