"""The default plan: modes, selectors, ranges, and what it says when it cannot choose."""

import numpy as np
import pytest

from intact.choose.default import candidates, choose
from intact.choose.options import Options, Override
from intact.core.errors import CalibrationError, NotObserved, PlanError
from intact.core.plan import Plan
from intact.core.ranges import minmax
from intact.core.statistics import Statistics
from tests.graphs import observe, parse

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 4, 3, 3)).astype(np.float32)
M = RNG.normal(size=(4, 4)).astype(np.float32)
X = RNG.normal(size=(3, 4, 8, 8)).astype(np.float32)

CONVS = """m (float[n,4,8,8] x) => (float[n,4] y) {
    a = Conv <pads=[1,1,1,1]> (x, w1)
    s = Sigmoid (a)
    b = Conv (s, w2)
    g = GlobalAveragePool (b)
    f = Flatten (g)
    y = MatMul (f, w3)
}"""


def model():  # type: ignore[no-untyped-def]
    graph = parse(CONVS, w1=W, w2=W, w3=M)
    for node in graph.graph:
        node.metadata_props["intact.module"] = f"net.{node.name}"
    graph.graph[0].metadata_props["intact.module_class"] = f"{Plan.__module__}.Plan"
    return graph


def plan(**options: object) -> Plan:
    graph = model()
    return choose(graph.graph, Options(**options), observe(graph, [{"x": X}]))  # type: ignore[arg-type]


def modes(chosen: Plan) -> dict[str, str]:
    return {name: decision.mode for name, decision in chosen.decisions.items()}


def test_static_is_all_static() -> None:
    assert set(modes(plan()).values()) == {"static"}


def test_dynamic_needs_no_statistics() -> None:
    chosen = choose(model().graph, Options(mode="dynamic"))
    assert {name for name, mode in modes(chosen).items() if mode == "dynamic"} == {"a", "b", "y"}


def test_known_range_is_not_calibrated() -> None:
    qparams = plan().tensors["s"]
    assert qparams.zero_point == 0
    assert qparams.scale == np.float32(1 / 255)
    assert "s" not in candidates(model().graph).observed


@pytest.mark.parametrize("selector", ["Conv", "?", "net.[ab]", "a"])
def test_exclude_selects_by_type_and_pattern(selector: str) -> None:
    assert modes(plan(exclude=[selector]))["a"] == "float"


def test_exclude_selects_by_module_class() -> None:
    chosen = modes(plan(exclude=[Plan]))
    assert chosen["a"] == "float" and chosen["b"] == "static"


def test_classes_that_a_model_lacks_may_be_included_beside_others() -> None:
    assert modes(plan(include=[Plan, Statistics]))["a"] == "static"
    with pytest.raises(PlanError, match="selects no operator"):
        plan(include=[Statistics])


def test_include_leaves_other_weights_in_float() -> None:
    chosen = modes(plan(include=["MatMul"]))
    assert chosen["y"] == "static" and chosen["a"] == chosen["b"] == "float"


def test_recurrent_operators_are_dynamic_or_float() -> None:
    graph = parse(
        "m (float[t,n,6] x) => (float[t,1,n,5] y) { y = LSTM <hidden_size=5> (x, w, r) }",
        w=RNG.normal(size=(1, 20, 6)).astype(np.float32),
        r=RNG.normal(size=(1, 20, 5)).astype(np.float32),
    ).graph
    assert choose(graph, Options(mode="dynamic"))["y"].mode == "dynamic"
    kept = choose(graph, Options(mode="static"))["y"]
    assert kept.mode == "float" and "overrides" in kept.reason


def test_float_operators_say_why() -> None:
    assert plan(exclude=["a"])["a"].reason == "as asked in exclude"
    assert all(d.reason for d in plan(exclude=["Conv"]).decisions.values())


def test_overrides_win_over_mode_and_exclude() -> None:
    chosen = modes(plan(exclude=["Conv"], overrides={"b": "dynamic", "y": "float"}))
    assert (chosen["a"], chosen["b"], chosen["y"]) == ("float", "dynamic", "float")


def test_method_can_be_overridden_for_one_operator() -> None:
    chosen = plan(method="percentile", overrides={"a": Override(method="minmax")})
    assert chosen["a"].evidence["method"] == "minmax"
    assert chosen["y"].evidence["method"] == "percentile"


def test_minmax_plan_covers_what_was_observed() -> None:
    graph = model()
    statistics = observe(graph, [{"x": X}])
    qparams = choose(graph.graph, Options(method="minmax"), statistics).tensors["x"]
    low, high = minmax(statistics["x"])
    assert qparams.scale == pytest.approx((high - low) / 255)


def test_what_the_next_function_cannot_tell_apart_is_not_covered() -> None:
    graph = parse(
        """m (float[n,4,8,8] x) => (float[n,4,4,4] y) {
            a = Conv (x, w1)
            h = HardSwish (a)
            y = Conv (h, w2)
        }""",
        w1=W * 3,
        w2=W,
    )
    statistics = observe(graph, [{"x": X}])
    assert statistics["a"].low < -20
    qparams = choose(graph.graph, Options(method="minmax"), statistics).tensors["a"]
    assert -3.3 < -float(qparams.zero_point * qparams.scale) <= -2.9


def test_symmetric_activations_have_zero_point_zero() -> None:
    qparams = plan(activations="int8").tensors["x"]
    assert qparams.dtype == "int8" and qparams.zero_point == 0


def test_concatenation_shares_parameters_only_where_ranges_are_alike() -> None:
    def shared(factor: float) -> bool:
        graph = parse(
            """m (float[n,4,8,8] x) => (float[n,4,4,4] y) {
                a = Conv (x, w1)
                b = Conv (x, w2)
                c = Concat <axis=1> (a, b)
                y = Conv (c, w3)
            }""",
            w1=W,
            w2=W * np.float32(factor),
            w3=np.concatenate([W, W], axis=1),
        )
        tensors = choose(graph.graph, Options(), observe(graph, [{"x": X}])).tensors
        return tensors["b"] == tensors["c"]

    assert shared(0.9)
    assert not shared(0.1)


def test_static_without_statistics_is_refused() -> None:
    with pytest.raises(CalibrationError, match="calibration"):
        choose(model().graph, Options())


def test_unreached_activation_is_named() -> None:
    graph = model()
    nothing = Statistics.empty("test", candidates(graph.graph).observed)
    with pytest.raises(NotObserved, match="'x' was never reached"):
        choose(graph.graph, Options(), nothing)


def test_constant_activation_is_named() -> None:
    graph = model()
    statistics = observe(graph, [{"x": np.zeros_like(X)}])
    with pytest.raises(CalibrationError, match="'x' has the value 0 in all"):
        choose(graph.graph, Options(), statistics)


@pytest.mark.parametrize("field", ["include", "exclude", "overrides"])
def test_selector_that_selects_nothing_is_refused(field: str) -> None:
    given = {"layer9.*": "float"} if field == "overrides" else ["layer9.*"]
    with pytest.raises(PlanError, match=r"layer9\.\*"):
        plan(**{field: given})


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "both"},
        {"method": "best"},
        {"activations": "int4"},
        {"overrides": {"a": "quick"}},
        {"overrides": {"a": Override(method="best")}},  # type: ignore[arg-type]
    ],
)
def test_unknown_option_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(PlanError, match="must be one of"):
        Options(**options)  # type: ignore[arg-type]


def test_what_has_no_dynamic_form_is_refused_only_when_asked_for() -> None:
    text = """m (float[t,n,6] x) => (float[t,1,n,5] y) { y = GRU <hidden_size=5> (x, w, r) }"""
    graph = parse(
        text,
        w=RNG.normal(size=(1, 15, 6)).astype(np.float32),
        r=RNG.normal(size=(1, 15, 5)).astype(np.float32),
    ).graph
    chosen = choose(graph, Options(mode="dynamic"))
    assert chosen["y"].mode == "float" and "linear_before_reset" in chosen["y"].reason
    with pytest.raises(PlanError, match="linear_before_reset"):
        choose(graph, Options(overrides={"GRU": "dynamic"}))
