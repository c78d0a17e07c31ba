"""What the user may ask for: which operators, how, and with which range method."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal, get_args

import onnx_ir as ir

from intact.core.errors import PlanError
from intact.core.plan import Mode
from intact.core.ranges import METHODS, Method

__all__ = ["Options", "Override", "Selector", "matches"]

Selector = str | type
_MODES: Final[tuple[Mode, ...]] = get_args(Mode)


@dataclass(frozen=True)
class Override:
    """What is asked for one operator; None keeps the general choice."""

    mode: Mode | None = None
    method: Method | None = None


@dataclass(frozen=True)
class Options:
    """How a plan is made.

    mode: what becomes of every operator that can be quantized.
    method: the range method of static activations.
    activations: "uint8" (asymmetric) or "int8" (symmetric), for static activations.
    include: if given, only operators with weights that one of these selects are quantized.
    exclude: operators that one of these selects stay float.
    overrides: selector -> mode, or an Override.

    A selector is an operator type ("Conv"), a pattern of operator or module names ("layer4.*",
    see fnmatch), or a torch module class (torch.nn.Linear).
    """

    mode: Literal["static", "dynamic"] = "static"
    method: Method = "mse"
    activations: Literal["uint8", "int8"] = "uint8"
    include: Collection[Selector] | None = None
    exclude: Collection[Selector] = ()
    overrides: Mapping[Selector, Mode | Override] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require("mode", self.mode, ("static", "dynamic"))
        _require("method", self.method, tuple(METHODS))
        _require("activations", self.activations, ("uint8", "int8"))
        for selector, asked in self.overrides.items():
            override = as_override(asked)
            if override.mode is not None:
                _require(f"overrides[{selector!r}]", override.mode, _MODES)
            if override.method is not None:
                _require(f"overrides[{selector!r}].method", override.method, tuple(METHODS))

    def override(self, node: ir.Node) -> Override:
        """What is asked for this operator; later overrides win."""
        chosen = Override()
        for selector, asked in self.overrides.items():
            if matches(node, selector):
                new = as_override(asked)
                chosen = Override(new.mode or chosen.mode, new.method or chosen.method)
        return chosen

    def require_used(self, nodes: Collection[ir.Node]) -> None:
        """Raise PlanError if a pattern selects nothing: it is most likely misspelt.

        Of module classes in `include` one must be there: `{Linear, LSTM}` is a usual thing to ask.
        """
        include = tuple(self.include or ())
        used = [s for s in include if any(matches(node, s) for node in nodes)]
        for selector in (*include, *self.exclude, *self.overrides):
            spare = isinstance(selector, type) and bool(used) and selector in include
            if not spare and not any(matches(node, selector) for node in nodes):
                raise PlanError(
                    f"{selector!r} selects no operator of the model; give an operator type, a "
                    "pattern of names (see `intact inspect`) or a torch module class"
                )


def as_override(asked: Mode | Override) -> Override:
    """A bare mode as an Override."""
    return asked if isinstance(asked, Override) else Override(asked)


def matches(node: ir.Node, selector: Selector) -> bool:
    """Whether the selector selects the operator."""
    if isinstance(selector, type):
        name = f"{selector.__module__}.{selector.__qualname__}"
        return node.metadata_props.get("intact.module_class") == name
    module = node.metadata_props.get("intact.module", "")
    return selector == node.op_type or any(
        fnmatchcase(name, selector) for name in (str(node.name), module) if name
    )


def _require(name: str, given: object, allowed: tuple[object, ...]) -> None:
    if given not in allowed:
        raise PlanError(f"{name} is {given!r}; it must be one of {', '.join(map(str, allowed))}")
