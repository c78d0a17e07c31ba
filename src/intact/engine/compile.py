"""A quantized ONNX model as programs of the native engine, one for each set of input shapes."""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import CommonSubexpressionEliminationPass

from intact.core.errors import InputError, RuntimeUnavailable
from intact.core.native import native
from intact.engine.assemble import Weights, assemble
from intact.engine.chain import chain
from intact.engine.foreign import element_type, extract, macs_of_instructions, macs_of_model
from intact.engine.fuse import fuse
from intact.engine.lowering import Refused, lower
from intact.engine.memory import place
from intact.engine.program import Instruction, Storage, Tensor, Unsupported
from intact.engine.samples import OneSample, one_sample
from intact.engine.segments import PRODUCTS, Segments, Stage, segments, unknown
from intact.engine.values import Constant, Opaque, Value

__all__ = ["Executable", "Model"]

Array = NDArray[Any]
Session = Callable[[Mapping[str, Array]], list[Array]]
_Shapes = tuple[tuple[int, ...], ...]

_KEPT: Final = 16  # programs of different input shapes that are kept
_MOST_ELSEWHERE: Final = 4  # stages; each costs two borders
_LEAST_SHARE: Final = 0.5  # of the multiply-accumulates; below it the other runtime does better

_WHOLE: Final = "biu"  # numpy's kinds of what the engine holds as int64


@dataclass(frozen=True, eq=False)
class Part:
    """A stage of the engine, for inputs of known shapes.

    instructions: what it does, for people. outputs: names, and memory. arena: bytes that it works
    in. inputs: names of what it reads. constants: arrays that it reads behind the inputs.
    known: constants and shapes of the graph that later stages may need. samples: of how many
    samples of a batch the instructions compute one, on each thread (see `samples`).
    """

    program: Any
    instructions: list[Instruction]
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, Tensor], ...]
    arena: int
    constants: list[Array]
    known: dict[str, Value]
    samples: int = 1

    @property
    def lines(self) -> list[str]:
        """What it does, for people."""
        lines = [str(instruction) for instruction in self.instructions]
        return lines if self.samples == 1 else [f"of each of {self.samples} samples:", *lines]

    def run(self, env: dict[str, Array]) -> None:
        """Add the outputs to what has been computed. Raises InputError for an index too large."""
        inputs, outputs = self.arrays(env)
        try:
            self.program.run(inputs, outputs)
        except IndexError as error:
            raise InputError(str(error)) from None
        env.update(zip((name for name, _ in self.outputs), outputs, strict=True))

    def arrays(self, env: Mapping[str, Array]) -> tuple[list[Array], list[Array]]:
        """What the program reads and writes."""
        inputs = [_readable(env[name]) for name in self.inputs]
        outputs = [np.empty(tensor.shape, tensor.dtype) for _, tensor in self.outputs]
        return (inputs + self.constants) if self.constants else inputs, outputs


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """A stage that another runtime runs. constants: its inputs that are known before."""

    session: Session
    proto: onnx.ModelProto
    inputs: tuple[tuple[str, np.dtype[Any]], ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    names: tuple[str, ...]

    def run(self, env: dict[str, Array], known: Mapping[str, Value]) -> None:
        """Add the outputs to what has been computed. known: what `constants` are."""
        feeds = {}
        for name, dtype in self.inputs:
            if name not in env:
                raise Unsupported(f"'{name}' is not computed")
            feeds[name] = np.asarray(env[name], dtype)
        for name in self.constants:
            value = known.get(name)
            if not isinstance(value, Constant):
                raise Unsupported(f"'{name}' is not known before it is needed")
            feeds[name] = value.array
        env.update(zip(self.outputs, self.session(feeds), strict=True))

    def __str__(self) -> str:
        return f"{', '.join(self.outputs)} = elsewhere({', '.join(self.names)})"


@dataclass(frozen=True, eq=False)
class Executable:
    """What runs for inputs of known shapes, one part after another."""

    parts: tuple[Part | Elsewhere, ...]

    @property
    def instructions(self) -> list[Instruction]:
        """The instructions of the engine's parts."""
        return [i for part in self.parts if isinstance(part, Part) for i in part.instructions]

    @property
    def arena(self) -> int:
        """Bytes that the programs work in."""
        return max(part.arena for part in self.parts if isinstance(part, Part))

    @property
    def lines(self) -> list[str]:
        """Everything that is done, for people."""
        return [
            line
            for part in self.parts
            for line in (part.lines if isinstance(part, Part) else (str(part),))
        ]


@dataclass
class _Plan:
    """A partition of the graph. checked: whether enough of the work is the engine's."""

    segments: Segments
    checked: bool = False
    programs: OrderedDict[tuple[int, _Shapes], Part] = field(default_factory=OrderedDict)


class Model:
    """A model that the engine runs.

    threads: number of threads. isa: the instruction set, "" for the best that the CPU has.
    open_session: opens the bytes of an ONNX model in the runtime that computes what the engine
        does not know (see `segments`); called only where there is such a part.
    Raises RuntimeUnavailable, naming the operator, if the engine cannot run it.
    """

    def __init__(
        self,
        model: ir.Model | onnx.ModelProto,
        threads: int,
        open_session: Callable[[bytes], Session],
        isa: str = "",
    ) -> None:
        if native is None:
            raise RuntimeUnavailable(
                "intact's native engine is not built here; install intact where a C++20 compiler "
                'is found, or use runtime="onnxruntime"'
            )
        try:
            self.engine = native.Engine.create(threads, isa)
        except ValueError as error:
            raise RuntimeUnavailable(f"{error}; choose one of these with INTACT_ISA") from None
        try:
            self._model = ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model
            self._graph = self._model.graph
            self._constants = dict(_constants(self._graph))
            # A mask, for one, is written out again for every layer.
            CommonSubexpressionEliminationPass()(self._model)
            self._unknown = unknown(self._graph)
            self._first = self._planned(self._unknown)
        except Exception as error:  # onnx_ir's own errors about damaged graphs share no base
            raise _refusal(error) from None
        self._open = open_session
        self._lock = threading.RLock()
        self._weights = Weights(self.engine)
        self._alone: list[Any] = []  # engines of one thread, for samples
        self._plans: dict[_Shapes, _Plan] = {}
        self._sessions: dict[tuple[ir.Node, ...], Elsewhere] = {}
        self._refused = ""  # why the first operator runs elsewhere
        self._latest = self._first
        self._outputs = [(str(v.name), _array_type(v)) for v in self._graph.outputs]
        # Name, the type that it is turned into, and whether it must be of whole numbers.
        self._inputs = [
            (str(v.name), np.float32 if v.dtype == ir.DataType.FLOAT else None,
             v.dtype is not None and v.dtype.is_integer())
            for v in self._graph.inputs
            if str(v.name) not in self._constants
        ]  # fmt: skip

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Names of the operators that the other runtime ran for the latest inputs."""
        stages = self._latest.segments.stages
        return tuple(str(n.name) for stage in stages if stage.elsewhere for n in stage.nodes)

    def executable(self, feeds: Mapping[str, Array]) -> Executable:
        """What runs for inputs of these shapes. Raises RuntimeUnavailable."""
        return Executable(tuple(self._walk(self._checked(feeds), last=False)[0]))

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs for the inputs `feeds`."""
        _, env = self._walk(self._checked(feeds), last=True)
        return [env[name].astype(dtype, copy=False) for name, dtype in self._outputs]

    def profile(self, feeds: Mapping[str, Array], repetitions: int) -> list[tuple[str, float]]:
        """Each operator of the program and the least seconds that it took, in order."""
        parts, env = self._walk(self._checked(feeds), last=True)
        steps: list[tuple[str, float]] = []
        known: dict[str, Value] = {}
        for part in parts:
            if isinstance(part, Part):
                seconds = part.program.profile(*part.arrays(env), repetitions)
                steps += zip(part.program.labels, seconds, strict=True)
                known = part.known
                continue
            times = [time.perf_counter()]
            for _ in range(repetitions):
                part.run(dict(env), known)
                times.append(time.perf_counter())
            label = f"elsewhere {', '.join(part.names)}"
            steps.append((label, min(b - a for a, b in pairwise(times))))
        return steps

    def _checked(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs by name."""
        found = {}
        for name, dtype, whole in self._inputs:
            if name not in feeds:
                raise InputError(f"input '{name}' is missing; give all of the model's inputs")
            array = np.asarray(feeds[name], dtype)
            if whole and array.dtype.kind == "f":
                raise InputError(f"input '{name}' is {array.dtype}; give whole numbers")
            found[name] = array
        return found

    def _walk(
        self, feeds: dict[str, Array], last: bool
    ) -> tuple[list[Part | Elsewhere], dict[str, Array]]:
        """The parts for these inputs, and everything that they compute.

        last: whether the last part runs too. What is refused moves elsewhere, and all begins again.
        """
        shapes = tuple(array.shape for array in feeds.values())
        while True:
            plan = self._latest = self._plans.get(shapes, self._first)
            try:
                parts, env = self._walk_plan(plan, feeds, shapes, last)
                if not plan.checked:
                    self._check_share(parts, env)
                    plan.checked = True
                return parts, env
            except Refused as error:
                with self._lock:
                    self._plans[shapes] = self._without(plan, error)
                    if len(self._plans) > _KEPT:
                        self._plans.pop(next(iter(self._plans)))
            except Unsupported as error:
                raise _refusal(error) from None

    def _walk_plan(
        self, plan: _Plan, feeds: dict[str, Array], shapes: _Shapes, last: bool
    ) -> tuple[list[Part | Elsewhere], dict[str, Array]]:
        env, parts = dict(feeds), list[Part | Elsewhere]()
        known: dict[str, Value] = {}
        stages = plan.segments.stages
        for i, stage in enumerate(stages):
            runs = last or i + 1 < len(stages)
            if stage.elsewhere:
                other = self._foreign(plan.segments, stage)
                if other.constants and not known:
                    known = self._part(plan, i, shapes, env, known).known
                if runs:
                    other.run(env, known)
                    shapes += tuple(env[name].shape for name in other.outputs)
                parts.append(other)
                continue
            part = self._part(plan, i, shapes, env, known)
            if runs:
                part.run(env)
            known = part.known
            parts.append(part)
        return parts, env

    def _part(
        self, plan: _Plan, at: int, shapes: _Shapes, env: Mapping[str, Array],
        known: Mapping[str, Value],
    ) -> Part:  # fmt: skip
        with self._lock:  # callers of one session may meet a new shape together
            key = (at, shapes)
            found = plan.programs.pop(key, None) or self._compile(plan, at, env, known)
            plan.programs[key] = found  # the last used comes last
            if len(plan.programs) > _KEPT * len(plan.segments.stages):
                plan.programs.popitem(last=False)
        return found

    def _compile(
        self, plan: _Plan, at: int, env: Mapping[str, Array], known: Mapping[str, Value]
    ) -> Part:
        """The program of one stage; of one elsewhere, only what is known before it."""
        parts, stage = plan.segments, plan.segments.stages[at]
        names, tensors, given = [], list[Tensor](), dict[str, Value | Tensor](known)
        for name, array in env.items():
            given[name] = Opaque(array.shape)
        for value in () if stage.elsewhere else stage.reads:
            name = str(value.name)
            if name not in env:
                raise Unsupported(f"'{name}' is not computed")
            array = env[name]
            if array.size == 0:
                raise Unsupported(f"'{name}' is empty")
            if array.dtype == np.float32 or array.dtype.kind in _WHOLE:
                dtype = "float32" if array.dtype == np.float32 else "int64"
                storage = Storage(array.size * np.dtype(dtype).itemsize, ("input", len(tensors)))
                tensors.append(Tensor(storage, array.shape, dtype))  # type: ignore[arg-type]
                given[name] = tensors[-1]
                names.append(name)
        inside = set() if stage.elsewhere else set(stage.nodes)
        nodes = [node for node in self._graph if node in inside or node in parts.free]
        writes = () if stage.elsewhere else stage.writes
        try:
            lowered = lower(nodes, self._constants, given, writes)
            program, outputs, threads = lowered.state.program, lowered.outputs, self.engine.threads
            constants = [tensor for tensor, _ in lowered.state.constants]
            one = one_sample(program, tensors, constants, outputs, threads)
            if one is None:
                program, arena = _laid_out(program, outputs, threads)
                in_all = arena
            else:
                program, arena = _laid_out(one.instructions, one.outputs, 1)
                in_all = threads * arena
            _check_memory(in_all + sum(tensor.storage.bytes for tensor in outputs))
            if one is None:
                read = tensors + constants
                runs = assemble(program, self.engine, arena, read, outputs, self._weights)
            else:
                runs = self._samples(one, program, arena)
        except Unsupported:
            raise
        except Exception as error:  # whatever else an untrusted file brings about
            raise Unsupported(str(error)) from None
        written = (str(value.name) for value in writes)
        return Part(
            runs, program, tuple(names), tuple(zip(written, outputs, strict=True)), in_all,
            [array for _, array in lowered.state.constants],
            lowered.known if len(parts.stages) > 1 else {},
            1 if one is None else one.count,
        )  # fmt: skip

    def _samples(self, one: OneSample, program: list[Instruction], arena: int) -> Any:
        """The native program of one sample, on each thread."""
        assert native is not None
        while len(self._alone) < self.engine.threads:
            self._alone.append(native.Engine.create(1, self.engine.isa))
        programs = [
            assemble(
                [replace(i, parameters=dict(i.parameters)) for i in program],
                engine, arena, one.inputs, one.outputs, self._weights,
            )
            for engine in self._alone
        ]  # fmt: skip
        return native.Samples(self.engine, programs, one.count, one.common)

    def _planned(self, elsewhere: frozenset[ir.Node]) -> _Plan:
        found = segments(self._graph, elsewhere)
        plan = _Plan(found, checked=not elsewhere)
        ours = any(n.op_type in PRODUCTS for s in found.stages if not s.elsewhere for n in s.nodes)
        few = sum(stage.elsewhere for stage in found.stages) <= _MOST_ELSEWHERE
        if not elsewhere or (ours and few):
            return plan
        first = next(node for node in self._graph if node in elsewhere)
        raise Unsupported(f"operator '{first.name}' is a {_kind(first)}")

    def _without(self, plan: _Plan, error: Refused) -> _Plan:
        """The partition with the refused operator elsewhere. Raises RuntimeUnavailable."""
        node = error.node
        if node in plan.segments.elsewhere or node.graph is not self._graph:
            raise _refusal(error)
        self._refused = self._refused or str(error)
        try:
            return self._planned(plan.segments.elsewhere | {node})
        except Unsupported:
            raise _refusal(self._refused) from None

    def _foreign(self, parts: Segments, stage: Stage) -> Elsewhere:
        with self._lock:
            if stage.nodes not in self._sessions:
                try:
                    found = extract(self._model, parts, stage)
                except Exception as error:  # onnx_ir's own errors about damaged graphs
                    raise Unsupported(str(error)) from None
                self._sessions[stage.nodes] = Elsewhere(
                    self._open(found.proto.SerializeToString()),
                    found.proto,
                    tuple((str(v.name), element_type(v).numpy()) for v in stage.reads),
                    found.constants,
                    tuple(str(value.name) for value in stage.writes),
                    tuple(str(node.name) for node in stage.nodes),
                )
            return self._sessions[stage.nodes]

    def _check_share(self, parts: list[Part | Elsewhere], env: Mapping[str, Array]) -> None:
        """Raises Unsupported where the other runtime would do most of the work."""
        shapes = {name: array.shape for name, array in env.items()}
        ours = theirs = 0
        for part in parts:
            if isinstance(part, Part):
                ours += part.samples * macs_of_instructions(part.instructions)
            else:
                theirs += macs_of_model(part.proto, shapes)
        if ours <= _LEAST_SHARE * (ours + theirs):
            first = next(n for n in self._graph if n in self._latest.segments.elsewhere)
            raise Unsupported(self._refused or f"operator '{first.name}' is a {_kind(first)}")


def _constants(graph: ir.Graph) -> Iterator[tuple[str, Constant]]:
    """The stored values, where they lie."""
    for name, initializer in graph.initializers.items():
        held = initializer.const_value
        if held is None:
            raise Unsupported(f"'{name}' is an initializer without a value")
        if isinstance(held, ir.ExternalTensor):
            raise Unsupported("it has weights outside the file")
        yield name, Constant(held.numpy())


def _kind(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _readable(array: Array) -> Array:
    """As a program reads it."""
    return np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else np.int64)


def _array_type(value: ir.Value) -> np.dtype[Any]:
    return np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()


def _laid_out(
    program: list[Instruction], outputs: list[Tensor], threads: int
) -> tuple[list[Instruction], int]:
    """The program for so many threads, every tensor in its place, and the bytes of its arena."""
    program = fuse(program, outputs, threads)
    chain(program, outputs, threads)
    return program, place(program, outputs)


def _check_memory(wanted: int) -> None:
    """Sizes come from a file: what cannot fit must not be tried."""
    try:
        most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        most = 2**34
    if wanted > most:
        raise Unsupported(f"it needs {wanted:,} bytes for activations, more than half of memory")


def _refusal(error: Exception | str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        f'intact\'s native engine cannot run this model: {error}; use runtime="onnxruntime"'
    )
