"""Statistics are a commutative monoid, exact to the bit, and a file of them is not trusted."""

import json
import os
import random
import subprocess
import sys
from fractions import Fraction
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from intact.core.errors import CalibrationError, ModelFileError
from intact.core.native import native
from intact.core.statistics import BINS_PER_SIGN, Statistics, TensorStatistics, _describe

quick = settings(max_examples=80, deadline=None, derandomize=True)
LARGEST = float(np.finfo(np.float32).max)
finite = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-126, LARGEST, -LARGEST, 1.0, -1.0]),
    st.floats(-4, 4, width=32),
)
samples = arrays.arrays(np.float32, st.integers(1, 40), elements=finite)
many = st.lists(samples, min_size=1, max_size=8)
of = TensorStatistics.of


def merged(parts: Any) -> TensorStatistics:
    return reduce(TensorStatistics.merge, parts, TensorStatistics())


@quick
@given(samples, samples, samples)
def test_merge_is_a_commutative_monoid(a: Any, b: Any, c: Any) -> None:
    x, y, z = of(a), of(b), of(c)
    assert x.merge(y) == y.merge(x)
    assert hash(x.merge(y)) == hash(y.merge(x))
    assert x.merge(y).merge(z) == x.merge(y.merge(z))
    assert x.merge(TensorStatistics()) == x == TensorStatistics().merge(x)


@quick
@given(many)
def test_counts_and_extremes_are_exact(parts: list[NDArray[np.float32]]) -> None:
    stats, together = merged(map(of, parts)), np.concatenate(parts)
    assert (stats.samples, stats.count) == (len(parts), together.size)
    assert (stats.low, stats.high) == (together.min(), together.max())
    assert stats.counts.sum() == stats.count
    assert stats.counts[0] > 0
    assert stats.counts[-1] > 0


@quick
@given(many)
def test_histogram_is_that_of_all_values_at_once(parts: list[NDArray[np.float32]]) -> None:
    stats, together = merged(map(of, parts)), np.concatenate(parts)
    at_once = of(together)
    assert (stats.exponent, stats.first) == (at_once.exponent, at_once.first)
    np.testing.assert_array_equal(stats.counts, at_once.counts)
    # And bin by bin: trunc(x / width), in exact arithmetic.
    width = Fraction(2) ** stats.exponent
    index = [int(Fraction(float(x)) / width) for x in together]
    expected = np.bincount(np.array(index) - stats.first, minlength=stats.counts.size)
    np.testing.assert_array_equal(stats.counts, expected)
    assert max(map(abs, index)) < BINS_PER_SIGN


@quick
@given(samples)
def test_every_value_lies_in_its_bin(x: NDArray[np.float32]) -> None:
    stats = of(x)
    assert stats.edges.size == stats.counts.size + 1
    assert (np.diff(stats.edges) > 0).all()
    counts, _ = np.histogram(x.astype(np.float64), stats.edges)
    # A histogram's bins are closed below, ours toward zero, so values on an edge may move by one.
    on_an_edge = np.isin(x.astype(np.float64), stats.edges).sum()
    assert np.abs(np.cumsum(counts - stats.counts)).max() <= on_an_edge
    assert (stats.edges[:-1] < stats.centers).all()
    assert (stats.centers < stats.edges[1:]).all()
    assert stats.edges[0] <= stats.low <= stats.high <= stats.edges[-1]


@quick
@given(many)
def test_moments_of_ranges_are_exact(parts: list[NDArray[np.float32]]) -> None:
    stats = merged(map(of, parts))
    for values, mean, std in (
        ([Fraction(float(p.min())) for p in parts], stats.low_mean, stats.low_std),
        ([Fraction(float(p.max())) for p in parts], stats.high_mean, stats.high_std),
    ):
        exact_mean = sum(values) / len(values)
        variance = sum((v - exact_mean) ** 2 for v in values) / len(values)
        assert mean == float(exact_mean)
        assert std == pytest.approx(_root(variance), rel=1e-12)


def _root(x: Fraction) -> float:
    """The square root of a fraction that float64 may not be able to hold."""
    shift = 2**600
    return float(np.sqrt(float(x * shift))) / 2.0**300 if x < 1 else float(np.sqrt(float(x)))


def test_ranges_that_never_vary_have_no_deviation_however_large_their_offset() -> None:
    stats = merged([of(np.array([16777215, 16777216], np.float32))] * 1000)
    assert (stats.low_std, stats.high_std) == (0, 0)


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [-0.0, -0.0],
        [2.0**-149],
        [-(2.0**-149), 2.0**-149],
        [LARGEST, -LARGEST],
        [2.0**-101, 2.0**-100, 2.0**-99],
        [5.0, 5.0],
        [-5.0],
    ],
)
def test_extreme_values_survive(values: list[float], tmp_path: Path) -> None:
    x = np.array(values, np.float32)
    stats = of(x)
    assert (stats.low, stats.high, stats.count) == (x.min(), x.max(), x.size)
    assert str(stats.low) != "-0.0"
    whole = Statistics("g", ({"x": stats}, {"x": TensorStatistics()}))
    whole.save(tmp_path / "s")
    assert Statistics.load(tmp_path / "s") == whole


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.uint8])
def test_other_dtypes_count_as_their_float32_values(dtype: Any) -> None:
    x = (
        np.array([[0, 3], [7, 100]], dtype) / dtype(2)
        if dtype().dtype.kind == "f"
        else np.arange(9)
    )
    assert of(x) == of(x.astype(np.float32))


def test_an_empty_sample_leaves_no_trace() -> None:
    assert of(np.zeros((0, 3), np.float32)) == TensorStatistics()


@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
def test_values_that_are_not_finite_are_refused(value: float, word: str) -> None:
    with pytest.raises(CalibrationError, match=word):
        of(np.array([0, value, 1], np.float32))


def test_observing_leaves_the_sample_as_it_was() -> None:
    x = np.linspace(3, 9, 50, dtype=np.float32)
    before = x.copy()
    of(x)
    np.testing.assert_array_equal(x, before)


# --- whole statistics and their files


def observed(names: list[str], seed: int, count: int = 12) -> list[Statistics]:
    """The statistics of single samples, whose magnitudes differ widely."""
    rng = np.random.default_rng(seed)
    result = []
    for i in range(count):
        mine = {
            name: of(
                (rng.standard_normal(rng.integers(1, 60)) * 10.0 ** rng.integers(-30, 30)).astype(
                    np.float32
                )
            )
            for name in names
        }
        nothing = {name: TensorStatistics() for name in names}
        result.append(Statistics("g", (mine, nothing) if i % 2 else (nothing, mine)))
    return result


def tree_merge(parts: list[Statistics], rng: random.Random) -> Statistics:
    """Merged in a random order and in a tree of random shape."""
    parts = parts.copy()
    while len(parts) > 1:
        a = parts.pop(rng.randrange(len(parts)))
        b = parts.pop(rng.randrange(len(parts)))
        parts.append(a.merge(b))
    return parts[0]


@pytest.mark.parametrize("seed", range(4))
def test_any_order_and_any_split_give_byte_identical_files(seed: int, tmp_path: Path) -> None:
    names = sorted(["conv/out", "x", "Ω", "a.b.c"])
    parts = observed(names, seed)
    rng = random.Random(seed)
    contents = set()
    for i in range(25):
        path = tmp_path / str(i)
        result = Statistics.empty("g", reversed(names)).merge(tree_merge(parts, rng))
        if i % 2:
            result.save(path)
            result = Statistics.load(path)
        result.save(path)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    assert result.samples == len(parts)


def test_every_process_writes_the_same_bytes(tmp_path: Path) -> None:
    """Hash seeds and hash maps differ from process to process; files must not."""
    script = (
        "import sys, numpy as np\n"
        "from intact.core.statistics import Statistics, TensorStatistics as T\n"
        "part = {n: T.of(np.arange(5, dtype=np.float32)) for n in 'abcdef'}\n"
        "Statistics('g', (part, part)).save(sys.argv[1])\n"
    )
    contents = set()
    for i in range(4):
        path = tmp_path / str(i)
        environment = {
            **os.environ,
            "PYTHONHASHSEED": str(i),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, env=environment)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_statistics_of_another_graph_do_not_merge() -> None:
    one, other = Statistics.empty("g", ["x"]), Statistics.empty("h", ["x"])
    with pytest.raises(CalibrationError, match=r"graph g .* graph h"):
        one.merge(other)
    with pytest.raises(CalibrationError):
        one.merge(Statistics.empty("g", ["y"]))


def test_indexing_joins_the_halves() -> None:
    x, y = of(np.ones(3, np.float32)), of(np.zeros(2, np.float32))
    stats = Statistics("g", ({"a": x}, {"a": y}))
    assert stats["a"] == x.merge(y)
    assert "a" in stats
    assert "b" not in stats
    assert stats.samples == 2


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "stats.safetensors"
    reduce(Statistics.merge, observed(["a", "b"], 0)).save(path)
    return path


def refused(path: Path, match: str | None = None) -> None:
    with pytest.raises(ModelFileError, match=match) as raised:
        Statistics.load(path)
    assert str(path) in str(raised.value)


def test_every_truncation_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for length in {0, 1, 7, 8, 9, len(content) // 2, *range(len(content) - 9, len(content))}:
        saved.write_bytes(content[:length])
        refused(saved)
    saved.write_bytes(content + b"\0")
    refused(saved)


def test_every_changed_byte_is_refused_or_changes_nothing_but_numbers(saved: Path) -> None:
    """Random damage never escapes as another error than ours, nor as impossible statistics."""
    content = saved.read_bytes()
    rng = random.Random(0)
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 3, 20])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        saved.write_bytes(damaged)
        try:
            stats = Statistics.load(saved)
        except ModelFileError:
            continue
        for name in stats.names:
            assert np.isfinite([stats[name].low_std, stats[name].high_mean]).all()
            assert (stats[name].counts >= 0).all()


def test_a_missing_file_a_directory_and_other_formats_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "does not exist")
    refused(tmp_path)
    (tmp_path / "text").write_text("not statistics")
    refused(tmp_path / "text")
    save_file({"x": np.zeros(3)}, tmp_path / "plain")
    refused(tmp_path / "plain", "format")
    save_file({"x": np.zeros(3)}, tmp_path / "listed", {"statistics": "[]"})
    refused(tmp_path / "listed")
    save_file({"x": np.zeros(3)}, tmp_path / "deep", {"statistics": "[" * 100000})
    refused(tmp_path / "deep")


def rewrite(path: Path, scalars: Any = None, counts: Any = None, **header: Any) -> None:
    """Replace parts of the entry `0/a` in a file of statistics."""
    with safe_open(path, "numpy") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        content = json.loads(file.metadata()["statistics"])
    content["scalars"]["0/a"].update(scalars or {})
    content.update(header)
    if counts is not None:
        tensors["0/a"] = counts
    save_file(tensors, path, {"statistics": json.dumps(content)})


HUGE = 10**400


@pytest.mark.parametrize(
    "scalars",
    [
        {"samples": 0},
        {"samples": -1},
        {"samples": HUGE},
        {"samples": True},
        {"samples": 1.0},
        {"samples": None},
        {"count": HUGE},
        {"count": -1},
        {"low": HUGE},
        {"low": -HUGE},
        {"low": 1e300},
        {"low": float("nan")},
        {"low": float("-inf")},
        {"low": "0"},
        {"low": 0},
        {"high": float("nan")},
        {"high": float("inf")},
        {"high": -1e38},
        {"high": [1.0]},
        {"exponent": HUGE},
        {"exponent": -101},
        {"exponent": 0},
        {"first": HUGE},
        {"first": -(2**63)},
        {"first": 5},
        {"low_sum": HUGE},
        {"low_sum": 2**600},
        {"low_sum": 0.5},
        {"low_square": 0},
        {"low_square": -HUGE},
        {"high_sum": -HUGE},
        {"high_square": HUGE},
        {"unknown": 1},
        {"counts": [1]},
    ],
    ids=str,
)
def test_impossible_numbers_are_refused(saved: Path, scalars: dict[str, Any]) -> None:
    rewrite(saved)
    Statistics.load(saved)
    rewrite(saved, scalars)
    refused(saved)


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.float64, np.float32, np.float16, bool])
def test_counts_of_another_dtype_are_refused(saved: Path, dtype: Any) -> None:
    counts = Statistics.load(saved).halves[0]["a"].counts
    rewrite(saved, counts=counts.astype(dtype))
    refused(saved, "64-bit")


def test_counts_of_a_dtype_unknown_to_numpy_are_refused(saved: Path) -> None:
    content = saved.read_bytes()
    at = content.index(b'"I64"')
    for name in (b'"F8_E4M3"', b'"BF16"', b'"F4"', b'"X"'):
        header = content[8 : content.index(b"}}", at) + 2].replace(b'"I64"', name, 1)
        size = int.from_bytes(content[:8], "little")
        saved.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
        refused(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c[:-1],
        lambda c: c[1:],
        lambda c: np.append(c, 0),
        lambda c: np.append(c, 1),
        lambda c: c * 2,
        lambda c: -c,
        lambda c: c[None],
        lambda c: c[:0],
        lambda c: np.concatenate([c[:1] + 2**62, c[1:] + 2**62]),
        lambda c: np.zeros(10**6, np.int64),
    ],
)
def test_mismatched_counts_are_refused(saved: Path, change: Any) -> None:
    counts = Statistics.load(saved).halves[0]["a"].counts
    rewrite(saved, counts=np.ascontiguousarray(change(counts)))
    refused(saved)


def test_sums_that_wrap_64_bits_are_refused(saved: Path) -> None:
    counts = Statistics.load(saved).halves[0]["a"].counts.copy()
    assert counts.size >= 4
    counts[[0, 1, 2, -1]] += 2**62  # adds up to the same number modulo 2**64
    rewrite(saved, counts=counts)
    refused(saved, "add up")


@pytest.mark.parametrize(
    "keys", [["0/a"], ["2/a", "0/a"], ["-1/a", "0/a"], ["a"], ["0/a", "1/b"], ["0/missing"]]
)
def test_entries_must_come_in_two_halves(saved: Path, keys: list[str]) -> None:
    with safe_open(saved, "numpy") as file:
        scalars = json.loads(file.metadata()["statistics"])["scalars"]["0/a"]
    rewrite(saved, scalars=None)
    with safe_open(saved, "numpy") as file:
        counts = file.get_tensor("0/a")
        content = json.loads(file.metadata()["statistics"])
    content["scalars"] = dict.fromkeys(keys, scalars)
    tensors = {key: counts for key in keys if "missing" not in key}
    save_file(tensors, saved, {"statistics": json.dumps(content)})
    refused(saved)


@pytest.mark.parametrize(
    "header", [{"format": "other"}, {"scalars": []}, {"scalars": {"0/a": 3}}, {"scalars": None}]
)
def test_a_wrong_header_is_refused(saved: Path, header: dict[str, Any]) -> None:
    with safe_open(saved, "numpy") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        content = json.loads(file.metadata()["statistics"])
    save_file(tensors, saved, {"statistics": json.dumps({**content, **header})})
    refused(saved)


def test_raised_statistics_are_those_of_raised_values() -> None:
    x = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    stats = TensorStatistics.of(x)
    for floor in (-0.5, -2.0, 0.0, -100.0):
        ours, direct = stats.raised(floor), TensorStatistics.of(np.maximum(x, np.float32(floor)))
        assert (ours.low, ours.high, ours.count) == (direct.low, direct.high, direct.count)
        assert (ours.first, ours.exponent) == (direct.first, direct.exponent)
        np.testing.assert_array_equal(ours.counts, direct.counts)
    below = TensorStatistics.of(np.float32([-8, -9])).raised(-3.0)
    assert (below.low, below.high, int(below.counts.sum())) == (-3.0, -3.0, 2)


NATIVE = pytest.mark.skipif(native is None, reason="the native part is not built")


@NATIVE
@quick
@given(
    st.one_of(samples, arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32)))
)
def test_native_description_is_numpys(values: NDArray[np.float32]) -> None:
    assert native is not None
    many_times = np.tile(values, 101)  # whole vectors, and a rest
    expected, found = _describe(many_times), native.describe(many_times)
    if not np.isfinite(values).all():
        assert not np.isfinite(found[:2]).all()
        assert np.isnan(found[:2]).any() == np.isnan(values).any()
        return
    assert found[:4] == expected[:4]
    assert found[4].dtype == expected[4].dtype
    assert found[4].tolist() == expected[4].tolist()


@NATIVE
def test_native_description_of_nothing_is_refused() -> None:
    assert native is not None
    with pytest.raises(ValueError, match="no values"):
        native.describe(np.zeros(0, np.float32))
