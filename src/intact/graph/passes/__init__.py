"""One pass a file: each brings the graph nearer to the form that the other rooms rely on."""

from intact.graph.passes.affine import FoldAffine
from intact.graph.passes.attention import MarkAttention
from intact.graph.passes.functions import RecognizeFunctions
from intact.graph.passes.layer_norm import RecognizeLayerNorm
from intact.graph.passes.padding import ExplicitPadding
from intact.graph.passes.pooling import GlobalPooling

__all__ = [
    "ExplicitPadding",
    "FoldAffine",
    "GlobalPooling",
    "MarkAttention",
    "RecognizeFunctions",
    "RecognizeLayerNorm",
]
