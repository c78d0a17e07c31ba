"""A plan is data: it survives JSON exactly, and JSON that is no plan is refused in words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intact.core.errors import OutputPathError, PlanError
from intact.core.plan import Decision, Plan
from intact.core.qparams import BOUNDS, QParams, symmetric

quick = settings(max_examples=60, deadline=None, derandomize=True)
scales = st.floats(2.0**-149, float(np.finfo(np.float32).max), width=32)
names = st.text(min_size=1, max_size=8)


@st.composite
def some_qparams(draw: st.DrawFn) -> QParams:
    dtype = draw(st.sampled_from(sorted(BOUNDS)))
    points = st.integers(*BOUNDS[dtype])
    axis = draw(st.sampled_from([None, 0, 1, -1]))
    if axis is None:
        return QParams(np.float32(draw(scales)), np.int32(draw(points)), dtype)
    size = draw(st.integers(1, 5))
    drawn = [draw(st.lists(part, min_size=size, max_size=size)) for part in (scales, points)]
    return QParams(np.array(drawn[0], np.float32), np.array(drawn[1], np.int32), dtype, axis)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    tensors = draw(st.dictionaries(names, some_qparams(), max_size=5))
    decisions = {
        operator: Decision(
            draw(st.sampled_from(["static", "dynamic", "float"])),
            draw(names),
            draw(st.text(max_size=20)),
            {name: tensors[name] for name in draw(st.sets(st.sampled_from(sorted(tensors))))}
            if tensors
            else {},
            draw(st.dictionaries(names, st.one_of(st.text(max_size=5), st.floats(-1e9, 1e9)))),
        )
        for operator in draw(st.lists(names, unique=True, max_size=5))
    }
    return Plan(decisions)


@quick
@given(plans())
def test_json_keeps_everything(plan: Plan) -> None:
    text = plan.to_json()
    again = Plan.from_json(text)
    assert again == plan
    assert list(again) == list(plan)
    assert again.to_json() == text
    for name, qparams in plan.tensors.items():
        assert again.tensors[name].scale.dtype == np.float32
        assert again.tensors[name].scale.tobytes() == qparams.scale.tobytes()


def example() -> Plan:
    x, w = QParams(np.float32(0.1), np.int32(3)), symmetric(np.ones(2, np.float32), axis=0)
    return Plan(
        {
            "conv": Decision("static", "Conv", "measured", {"x": x, "w": w}, {"sqnr": 30.5}),
            "softmax": Decision("float", "Softmax", "has no integer form"),
        }
    )


def test_saving_and_loading(tmp_path: Path) -> None:
    example().save(tmp_path / "plan.json")
    assert Plan.load(str(tmp_path / "plan.json")) == example()
    with pytest.raises(OutputPathError):
        example().save(tmp_path / "missing" / "plan.json")


def test_a_file_edited_by_hand_may_hold_any_letters(tmp_path: Path) -> None:
    text = example().to_json().replace("measured", "gemessen für größere Genauigkeit")
    (tmp_path / "plan.json").write_bytes(text.encode("utf-8"))
    assert Plan.load(tmp_path / "plan.json")["conv"].reason.endswith("Genauigkeit")


def test_printing_names_every_operator_and_counts_the_modes() -> None:
    text = str(example())
    assert text.splitlines()[0] == "1 static, 1 float"
    assert "has no integer form" in text
    assert str(Plan({})) == ""


def test_one_tensor_with_two_parameters_is_refused() -> None:
    one, other = (QParams(np.float32(scale), np.int32(0)) for scale in (0.1, 0.2))
    with pytest.raises(PlanError, match=r"'x'.*'a'.*'b'"):
        Plan(
            {
                "a": Decision("static", "Add", "", {"x": one}),
                "b": Decision("static", "Add", "", {"x": other}),
            }
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("1" * 10_000, "not JSON"),
        ("null", "format"),
        ("[]", "format"),
        ("{}", "format"),
        ('{"format": "intact-plan-0", "decisions": {}}', "format"),
        ('{"format": "intact-plan-1"}', "decisions"),
        ('{"format": "intact-plan-1", "decisions": []}', "decisions"),
        ('{"format": "intact-plan-1", "decisions": null}', "decisions"),
        ('{"format": "intact-plan-1", "decisions": {"a": 1, "a": 2}}', "'a' occurs twice"),
    ],
    ids=lambda value: value[:12],
)
def test_text_that_is_no_plan_is_refused(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_json(text)


def edited(path: list[str], value: Any) -> str:
    content = json.loads(example().to_json())
    place = content["decisions"]
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["conv"], None, "conv"),
        (["conv"], [], "conv"),
        (["conv"], "static", "conv"),
        (["conv", "mode"], "int4", "static, dynamic, float"),
        (["conv", "mode"], ["static"], "static, dynamic, float"),
        (["conv", "mode"], KeyError, "lacks 'mode'"),
        (["conv", "reason"], KeyError, "lacks 'reason'"),
        (["conv", "reason"], 3, "text"),
        (["conv", "op_type"], None, "text"),
        (["conv", "evidence"], None, "conv"),
        (["conv", "evidence"], {"a": [1]}, "evidence"),
        (["conv", "tensors"], [], "conv"),
        (["conv", "tensors", "x"], None, "'x'"),
        (["conv", "tensors", "x", "scale"], KeyError, "lacks 'scale'"),
        (["conv", "tensors", "x", "scale"], 0, "'x'.*positive"),
        (["conv", "tensors", "x", "scale"], -0.5, "'x'.*positive"),
        (["conv", "tensors", "x", "scale"], 1e300, "'x'.*finite"),
        (["conv", "tensors", "x", "scale"], 1e-300, "'x'.*positive"),
        (["conv", "tensors", "x", "scale"], 10**400, "'x'"),
        (["conv", "tensors", "x", "scale"], float("nan"), "'x'.*finite"),
        (["conv", "tensors", "x", "scale"], "0.1", "'x'.*numbers"),
        (["conv", "tensors", "x", "scale"], None, "'x'"),
        (["conv", "tensors", "x", "scale"], [0.1], "'x'.*shape"),
        (["conv", "tensors", "w", "scale"], [0.1, [0.2]], "'w'"),
        (["conv", "tensors", "w", "scale"], [0.1, 0.2, 0.3], "'w'.*agree"),
        (["conv", "tensors", "x", "zero_point"], 256, "'x'.*bounds|'x'.*outside"),
        (["conv", "tensors", "x", "zero_point"], -1, "'x'.*outside"),
        (["conv", "tensors", "x", "zero_point"], -(2**63), "'x'.*outside"),
        (["conv", "tensors", "x", "zero_point"], 10**400, "'x'"),
        (["conv", "tensors", "x", "zero_point"], 1.5, "'x'.*whole"),
        (["conv", "tensors", "x", "zero_point"], True, "'x'.*whole"),
        (["conv", "tensors", "x", "dtype"], "uint4", "'x'.*uint4"),
        (["conv", "tensors", "x", "dtype"], ["uint8"], "'x'"),
        (["conv", "tensors", "w", "axis"], "0", "'w'.*axis"),
        (["conv", "tensors", "w", "axis"], 0.0, "'w'.*axis"),
        (["conv", "tensors", "w", "axis"], None, "'w'.*axis"),
    ],
    ids=str,
)
def test_an_edited_decision_that_is_wrong_is_named(
    path: list[str], value: Any, message: str
) -> None:
    with pytest.raises(PlanError, match=message) as raised:
        Plan.from_json(edited(path, value))
    assert "conv" in str(raised.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "binary"):
        with pytest.raises(PlanError, match="cannot be read"):
            Plan.load(path)
