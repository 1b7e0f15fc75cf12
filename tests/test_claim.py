"""claim.yaml: strict, hashed whatever its layout, and compared in words."""

from __future__ import annotations

import hashlib
import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.claim import Checks, Claim, load_claim
from gossamer.errors import BadInput, CorruptFile
from gossamer.evidence import load_record, save_evidence
from gossamer.record import Record
from gossamer.verify import asks, known_checks

GRAINS = ("channel", "head")
CHANNELS, HEADS = map(known_checks, GRAINS)
RECORD = Record(method="verify", config={}, seed=0)


def whole(known: Checks = HEADS, **fields: Any) -> Claim:
    """Of every check there is."""
    return Claim.of({"checks": {name: {} for name in known}, **fields}, known)


def of_text(text: str) -> Claim:
    return Claim.of(yaml.safe_load(text), HEADS)


@pytest.mark.parametrize("grain", GRAINS)
def test_a_claim_survives_its_file_which_explains_every_line(grain: str, tmp_path: Path) -> None:
    known = known_checks(grain)
    claim = whole(known, model="gpt2", task="ioi")
    assert claim.checks == known
    path = claim.save(tmp_path / "deep" / "claim.yaml", asks(grain))
    assert load_claim(path, known) == claim
    assert [p.name for p in path.parent.iterdir()] == ["claim.yaml"]
    for line in path.read_text().splitlines():
        assert line.startswith(("#", "    ")) or len(line.partition(" # ")[2]) > 5, line
    for name, asked in asks(grain).items():
        assert f"{name}:" in path.read_text()
        assert f"# {asked}\n" in path.read_text()


def test_the_checks_of_a_grain_are_those_that_can_be_made_of_it() -> None:
    for_both = {"accuracy", "necessity", "every-value"}
    assert CHANNELS.keys() >= {"sufficiency", *for_both}
    assert HEADS.keys() >= {"faithfulness", "restoration", "divergence", *for_both}
    assert "sufficiency" not in HEADS
    assert not CHANNELS.keys() & {"faithfulness", "restoration", "divergence"}


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
finite = st.floats(-1e9, 1e9, allow_subnormal=False).map(lambda x: x + 0.0)  # no minus zero
contents = st.fixed_dictionaries({
    "model": names, "task": names, "ablation": names, "seed": st.integers(0, 10**12), "pairs": st.integers(2, 10**6),
    "level": st.floats(1e-12, 0.49),
    "correction": st.sampled_from(["benjamini-hochberg", "benjamini-yekutieli"]),
    "checks": st.fixed_dictionaries(
        {"faithfulness": st.fixed_dictionaries({}, optional={"target": finite})},
        optional={"divergence": st.just({}), "every-value": st.fixed_dictionaries({"kept": finite, "lost": finite})},
    ),
})  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(contents)
def test_any_claim_survives_its_file_and_has_one_hash_in_any_order(content: dict[str, Any]) -> None:
    claim = Claim.of(content, HEADS)
    again = of_text(claim.to_yaml())
    assert (again, again.sha256) == (claim, claim.sha256)
    shuffled = {k: content[k] for k in random.Random(0).sample(sorted(content), len(content))}
    shuffled["checks"] = dict(reversed({k: {**HEADS[k], **v} for k, v in content["checks"].items()}.items()))
    assert Claim.of(shuffled, HEADS).sha256 == claim.sha256
    assert of_text(yaml.safe_dump(shuffled, default_flow_style=True)).sha256 == claim.sha256
    assert claim.differences(Claim.of(shuffled, HEADS).checks) == ()
    assert Claim.of(content | {"pairs": claim.pairs + 1}, HEADS).sha256 != claim.sha256
    other = {**content["checks"], "faithfulness": {"target": claim.checks["faithfulness"]["target"] / 2 + 1e10}}
    assert Claim.of(content | {"checks": other}, HEADS).sha256 != claim.sha256


def test_the_hash_is_of_the_content_not_of_the_text() -> None:
    short = of_text("checks: {faithfulness: {}}\n")
    long = of_text("pairs: 128\nseed: 0\nchecks:\n  faithfulness:\n    target: 9.0e-1  # as usual\nmodel: ''\n")
    assert short.sha256 == long.sha256
    canonical = (
        '{"ablation":"","checks":{"faithfulness":{"target":0.9}},"correction":"benjamini-hochberg","format_version":1,'
        '"granularity":"edge","hypothesis":null,"level":0.05,"model":"","pairs":128,"positions":"","seed":0,"task":""}'
    )
    assert short.sha256 == hashlib.sha256(canonical.encode()).hexdigest()
    integer, real = (of_text(f"checks: {{faithfulness: {{target: {x}}}}}\n") for x in ("1", "1.0"))
    assert integer.sha256 == real.sha256 != short.sha256


@pytest.mark.parametrize(
    "change, told",
    [
        ({"pair": 3}, "unknown key 'pair': did you mean pairs"),
        ({"pairs": 1}, "pairs: Input should be greater than or equal to 2"),
        ({"pairs": "128"}, "pairs: Input should be a valid integer"),
        ({"pairs": True}, "pairs: Input should be a valid integer"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"level": "1e-3"}, "level is the text '1e-3'; YAML reads numbers like 1.0e-3"),
        ({"level": math.nan}, "level: Input should be a finite number"),
        ({"level": 1}, "level: Input should be less than 0.5"),
        ({"granularity": "nodes"}, "granularity: Input should be 'node', 'edge' or 'branch'"),
        ({"correction": "bonferroni"}, "correction: Input should be 'benjamini-hochberg' or"),
        ({"checks": {}}, "checks: Dictionary should have at least 1 item"),
        ({"checks": None}, "checks: Input should be a valid dictionary"),
        ({"checks": {"necessity": None}}, "checks.necessity: Input should be a valid dictionary"),
        ({"checks": {"faithfullness": {}}}, "unknown check 'faithfullness': did you mean faithfulness"),
        ({"checks": {"sufficiency": {}}}, "unknown check 'sufficiency'"),
        (
            {"checks": {"faithfulness": {"targe": 0.5}}},
            "unknown threshold 'targe' of faithfulness: did you mean target",
        ),
        ({"checks": {"necessity": {"lost": 0.5}}}, "unknown threshold 'lost' of necessity: known: none"),
        ({"checks": {"faithfulness": {"target": math.inf}}}, "checks.faithfulness.target: Input should be a finite"),
        ({"checks": {"faithfulness": {"target": "1e-3"}}}, "checks.faithfulness.target is the text '1e-3'"),
        ({"format_version": 2}, "format_version: Input should be 1"),
    ],
)
def test_what_no_claim_can_say_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    content = yaml.safe_load(whole().to_yaml())
    assert Claim.of(content, HEADS) == whole()
    with pytest.raises(BadInput, match=told) as error:
        Claim.of({**content, **change}, HEADS)
    assert "\n" not in str(error.value)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(BadInput) as error:
        Claim.of(
            {"pair": 3, "level": "high", "checks": {"neccessity": {}, "faithfulness": {"targe": 1, "target": "one"}}},
            HEADS, "mine.yaml",
        )  # fmt: skip
    for told in (
        "Expected mine.yaml to hold together: ", "unknown key 'pair': did you mean pairs; ",
        "level: Input should be a valid number; ", "checks.faithfulness.target: Input should be a valid number; ",
        "unknown check 'neccessity': did you mean necessity; ",
        "unknown threshold 'targe' of faithfulness: did you mean target.",
    ):  # fmt: skip
        assert told in str(error.value)
    with pytest.raises(BadInput, match="did you mean necessity"):
        whole().thresholds_for("neccessity")
    assert whole().thresholds_for("faithfulness") == {"target": 0.9}


@pytest.mark.parametrize(
    "text, kind, told",
    [
        ("seed: 1\nseed: 2\n", CorruptFile, "the key 'seed' is given twice"),
        ("checks:\n  every-value: {lost: 0.5, lost: 0.1}\n", CorruptFile, "'lost' is given twice"),
        ("checks:\n  necessity: {}\n  necessity: {}\n", CorruptFile, "'necessity' is given twice"),
        ("checks: [\n", CorruptFile, "not a YAML file"),
        ("- necessity\n", BadInput, "names with values"),
        ("1: necessity\n", BadInput, "names with values"),
        ("", BadInput, "names with values"),
        ("model: !!python/object/apply:os.getcwd []\n", CorruptFile, "not a YAML file"),
    ],
)
def test_a_file_that_is_no_claim_is_refused(text: str, kind: type[Exception], told: str, tmp_path: Path) -> None:
    path = tmp_path / "claim.yaml"
    path.write_text(text)
    with pytest.raises(kind, match=told) as error:
        load_claim(path, HEADS)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    with pytest.raises(BadInput, match="found none; `gossamer claim RUN"):
        load_claim(tmp_path / "none.yaml", HEADS)


def test_differences_are_told_in_words_one_by_one() -> None:
    claim = whole()
    used = {name: claim.thresholds_for(name) for name in claim.checks}
    assert claim.differences(used) == ()
    used["faithfulness"] = {"target": 0.90000001}
    used["every-value"] = {"kept": 0.5, "draws": 40.0, "margin": 1.0}
    del used["restoration"]
    assert set(claim.differences({**used, "of another package": {}})) == {
        "faithfulness: target is 0.9 in the claim, 0.90000001 in the verdict",
        "every-value: lost is 0.5 in the claim, not stated in the verdict",
        "every-value: margin is not stated in the claim, 1 in the verdict",
        "restoration: claimed, not tried",
        "of another package: tried, not claimed",
    }


def test_the_record_of_a_trial_carries_the_hash(tmp_path: Path) -> None:
    claim, other = whole(), whole(CHANNELS)
    record = claim.recorded(RECORD.model_copy(update={"details": {"means_of": "training"}}))
    assert record.details == {"means_of": "training", "claim_sha256": claim.sha256}
    assert RECORD.details == {}
    loaded = load_record(save_evidence([], tmp_path / "evidence.json", record))
    assert claim.differs_from_record(loaded) == ""
    assert f"another claim (sha256 {claim.sha256[:12]})" in other.differs_from_record(loaded)
    assert "no claim on record" in claim.differs_from_record(RECORD)
