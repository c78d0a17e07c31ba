"""intact: int8 models that keep their accuracy, from PyTorch and ONNX, for any ONNX runtime."""

from intact.api import compare, convert, inspect, load, plan, prepare, quantize
from intact.calibrate.adequacy import Adequacy
from intact.calibrate.prepared import Prepared
from intact.choose.options import Options, Override
from intact.core.errors import IntactError
from intact.core.plan import Decision, Plan
from intact.core.qparams import QParams
from intact.core.statistics import Statistics, TensorStatistics
from intact.evaluate.compare import Comparison
from intact.evaluate.inspect import Inspection
from intact.run.model import QuantizedModel
from intact.version import __version__

__all__ = [
    "Adequacy",
    "Comparison",
    "Decision",
    "Inspection",
    "IntactError",
    "Options",
    "Override",
    "Plan",
    "Prepared",
    "QParams",
    "QuantizedModel",
    "Statistics",
    "TensorStatistics",
    "__version__",
    "compare",
    "convert",
    "inspect",
    "load",
    "plan",
    "prepare",
    "quantize",
]
