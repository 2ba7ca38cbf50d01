"""What may be built: search spaces, usable with plain PyTorch and any Optuna-like trial."""

from search_spaces.base import (
    Architecture,
    ForeignModel,
    Shape,
    Space,
    Student,
    Suggests,
    TappedModel,
    crossover,
    decode,
    features,
    mutate,
    neighbours,
    sample,
    tap_shapes,
)
from search_spaces.composition import CompositionSpace
from search_spaces.darts import DARTSSpace
from search_spaces.detector import DetectorSpace
from search_spaces.errors import KdnasError, RunError, first_line
from search_spaces.mlp import MLPSpace
from search_spaces.mobilenet import MobileNetSpace
from search_spaces.nasbench101 import NASBench101Space
from search_spaces.nasbench201 import NASBench201Space
from search_spaces.nasbench_macro import NASBenchMacroSpace
from search_spaces.registry import Registry
from search_spaces.resnet import ResNetSpace
from search_spaces.speech import SpeechSpace
from search_spaces.vit_tiny import ViTSpace

SPACES: Registry[type] = Registry(
    "space",
    ("resnet", ResNetSpace),
    ("mobilenet", MobileNetSpace),
    ("vit_tiny", ViTSpace),
    ("nasbench_macro", NASBenchMacroSpace),
    ("composition", CompositionSpace),
    ("nasbench101", NASBench101Space),
    ("nasbench201", NASBench201Space),
    ("darts", DARTSSpace),
    ("mlp", MLPSpace),
    ("speech", SpeechSpace),
    ("detector", DetectorSpace),
    needs=("suggest", "build", "taps"),
)

__all__ = [
    "SPACES",
    "Architecture",
    "CompositionSpace",
    "DARTSSpace",
    "DetectorSpace",
    "ForeignModel",
    "KdnasError",
    "MLPSpace",
    "MobileNetSpace",
    "NASBench101Space",
    "NASBench201Space",
    "NASBenchMacroSpace",
    "Registry",
    "ResNetSpace",
    "RunError",
    "Shape",
    "Space",
    "SpeechSpace",
    "Student",
    "Suggests",
    "TappedModel",
    "ViTSpace",
    "crossover",
    "decode",
    "features",
    "first_line",
    "mutate",
    "neighbours",
    "sample",
    "tap_shapes",
]
