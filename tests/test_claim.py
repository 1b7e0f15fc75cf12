"""claim.yaml: strict, hashed whatever its layout, and compared in words."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.claim import CHECKS, Claim, Kind, load_claim
from gossamer.errors import BadInput, CorruptFile
from gossamer.evidence import load_record, save_evidence
from gossamer.record import Record

KINDS: tuple[Kind, ...] = ("channel", "head")
RECORD = Record(method="verify", config={}, seed=0)


def of_text(text: str) -> Claim:
    return Claim.of(yaml.safe_load(text))


@pytest.mark.parametrize("kind", KINDS)
def test_a_default_claim_survives_its_file_and_explains_every_line(kind: Kind, tmp_path: Path) -> None:
    claim = Claim.default(kind, model="gpt2", task="ioi")
    path = claim.save(tmp_path / "deep" / "claim.yaml")
    assert load_claim(path) == claim
    assert [p.name for p in path.parent.iterdir()] == ["claim.yaml"]
    assert list(claim.checks) == list(CHECKS[kind])
    for line in path.read_text().splitlines():
        assert line.startswith("#") or len(line.partition(" # ")[2]) > 5, line


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


several = st.lists(st.integers(-5, 10**12), min_size=1, max_size=3, unique=True)
near_one = st.fixed_dictionaries({"at_least": st.floats(0, 1), "at_most": st.floats(1, 1e9)})
contents = st.fixed_dictionaries(
    {
        "kind": st.just("head"),
        "model": names,
        "task": names,
        "splits": st.lists(names, min_size=1, max_size=3, unique=True),
        "seeds": several,
        "ablations": st.lists(st.sampled_from(["zero", "mean", "noise"]), min_size=1, unique=True),
        "pairs": st.integers(2, 10**6),
        "level": st.floats(1e-12, 0.49),
        "power": st.floats(0.5, 0.999),
        "checks": st.fixed_dictionaries({"faithfulness": near_one}, optional={"divergence": st.just({})}),
    }
)


@settings(max_examples=80, deadline=None)
@given(contents)
def test_any_claim_survives_its_file_and_has_one_hash_in_any_order(content: dict[str, Any]) -> None:
    claim = Claim.of(content)
    again = of_text(claim.to_yaml())
    assert (again, again.sha256) == (claim, claim.sha256)
    shuffled = {k: content[k] for k in random.Random(0).sample(sorted(content), len(content))}
    for field in ("splits", "seeds", "ablations"):
        shuffled[field] = shuffled[field][::-1]
    assert Claim.of(shuffled).sha256 == claim.sha256
    assert of_text(json.dumps(shuffled | {"level": 0.05})).sha256 == claim.model_copy(update={"level": 0.05}).sha256
    assert not claim.differences_from(Claim.of(shuffled))
    assert Claim.of(content | {"pairs": claim.pairs + 1}).sha256 != claim.sha256


def test_the_hash_is_of_the_content_not_of_the_text() -> None:
    short = of_text("kind: head\nablations: [resample]\nchecks: {necessity: {lost_above: 0.5}}\n")
    long = of_text("checks:\n  necessity:\n    lost_above: 5.0e-1\nablations:\n- resample\nseeds: [0]\nkind: head\n")
    assert short.sha256 == long.sha256
    canonical = (
        '{"ablations":["resample"],"checks":{"necessity":{"lost_above":0.5}},"correction":"benjamini-hochberg",'
        '"format_version":1,"kind":"head","level":0.05,"model":"","pairs":128,"power":0.9,"random_circuits":100,'
        '"seeds":[0],"splits":["heldout"],"task":""}'
    )
    assert short.sha256 == hashlib.sha256(canonical.encode()).hexdigest()
    whole = of_text("kind: head\nablations: [resample]\nchecks: {necessity: {lost_above: 1}}\n")
    real = of_text("kind: head\nablations: [resample]\nchecks: {necessity: {lost_above: 1.0}}\n")
    assert whole.sha256 == real.sha256 != short.sha256


@pytest.mark.parametrize(
    "change, told",
    [
        ({"pair": 3}, "unknown key 'pair': did you mean pairs"),
        ({"kind": "heads"}, "kind: Input should be 'channel' or 'head'"),
        ({"pairs": 1}, "pairs: Input should be greater than or equal to 2"),
        ({"pairs": "128"}, "pairs: Input should be a valid integer"),
        ({"pairs": True}, "pairs: Input should be a valid integer"),
        ({"level": "1e-3"}, "level is the text '1e-3'; YAML reads numbers like 1.0e-3"),
        ({"level": math.nan}, "level: Input should be"),
        ({"seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"seeds": [1, 1]}, "seeds has 1 twice"),
        ({"ablations": ["resampel"]}, "ablations.0: Input should be 'zero'"),
        ({"checks": {}}, "checks: Dictionary should have at least 1 item"),
        (
            {"checks": {"faithfullness": {}}},
            "unknown check 'faithfullness' of head circuits: did you mean faith",
        ),
        ({"checks": {"sufficiency": {"loss_at_most": 0.1}}}, "unknown check 'sufficiency' of head circuits"),
        ({"checks": {"necessity": {"lost_abov": 0.5}}}, "unknown threshold 'lost_abov' of necessity: did you mean"),
        ({"checks": {"necessity": {}}}, r"necessity does not say its threshold lost_above \(by default 0.5\)"),
        ({"checks": {"necessity": {"lost_above": 2}}}, "lost_above of necessity is 2, expected 0 to 1"),
        ({"ablations": ["mean"]}, "restoration has a meaning under resample alone"),
        ({"format_version": 2}, "format_version: Input should be 1"),
    ],
)
def test_what_no_claim_can_say_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    content = yaml.safe_load(Claim.default("head").to_yaml())
    assert Claim.of(content) == Claim.default("head")
    with pytest.raises(BadInput, match=told) as error:
        Claim.of({**content, **change})
    assert "\n" not in str(error.value)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(BadInput, match="unknown key 'pair'") as error:
        of_text("kind: head\npair: 3\nlevel: high\n")
    for told in ("level", "checks", "ablations"):
        assert told in str(error.value)
    with pytest.raises(BadInput, match="did you mean head"):
        Claim.default("heads")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="did you mean necessity"):
        Claim.default("head").thresholds_for("neccessity")


@pytest.mark.parametrize(
    "text, kind, told",
    [
        ("kind: head\nkind: channel\n", CorruptFile, "the key 'kind' is given twice"),
        ("checks:\n  necessity: {lost_above: 0.5, lost_above: 0.1}\n", CorruptFile, "'lost_above' is given twice"),
        ("kind: [head\n", CorruptFile, "not a YAML file"),
        ("- head\n", BadInput, "names with values"),
        ("1: head\n", BadInput, "names with values"),
        ("", BadInput, "names with values"),
        ("kind: !!python/object/apply:os.getcwd []\n", CorruptFile, "not a YAML file"),
    ],
)
def test_a_file_that_is_no_claim_is_refused(text: str, kind: type[Exception], told: str, tmp_path: Path) -> None:
    path = tmp_path / "claim.yaml"
    path.write_text(text)
    with pytest.raises(kind, match=told) as error:
        load_claim(path)
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="found none"):
        load_claim(tmp_path / "none.yaml")


def test_differences_are_told_in_words_one_by_one() -> None:
    claim = Claim.default("head")
    used = {name: claim.thresholds_for(name) for name in claim.checks}
    assert claim.differences(used) == ()
    used["faithfulness"] = {"at_least": 0.8, "at_most": 1.1}
    used["accuracy"] = {}
    used["necessity"]["margin"] = 0.1
    del used["restoration"]
    assert set(claim.differences({**used, "minimality": {}})) == {
        "faithfulness: at_least is 0.9 in the claim, the verdict used 0.8",
        "accuracy: above is 0.5 in the claim, not stated by the verdict",
        "necessity: margin is 0.1 in the verdict, not in the claim",
        "restoration: claimed, not tried",
        "minimality: tried, not claimed",
    }
    other = claim.model_copy(update={"pairs": 64, "seeds": (1, 0)})
    assert claim.differences_from(other) == (
        "seeds is 0 in the claim, 0, 1 was used",
        "pairs is 128 in the claim, 64 was used",
    )


def test_the_record_of_a_trial_carries_the_hash(tmp_path: Path) -> None:
    claim, other = Claim.default("head"), Claim.default("channel")
    record = claim.recorded(RECORD.model_copy(update={"details": {"means_of": "training"}}))
    assert record.details == {"means_of": "training", "claim_sha256": claim.sha256}
    assert RECORD.details == {}
    loaded = load_record(save_evidence([], tmp_path / "evidence.json", record))
    assert claim.differs_from_record(loaded) == ""
    assert f"another claim (sha256 {claim.sha256[:12]})" in other.differs_from_record(loaded)
    assert "no claim on record" in claim.differs_from_record(RECORD)
