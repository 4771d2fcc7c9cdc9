"""Training-free vision-token pruning methods, compared fairly over unmodified Hugging Face models."""

from adaptinfer_eval.cost import Audit, audit
from adaptinfer_eval.image_method import ImageMethod
from adaptinfer_eval.layer_method import LayerMethod
from adaptinfer_eval.method import Method, available_methods, get_method
from adaptinfer_eval.pruning import pruned
from adaptinfer_eval.pruning.attention import Attention, Embeddings
from adaptinfer_eval.pruning.prefix import SharedPrefix
from adaptinfer_eval.pruning.trace import Trace
from adaptinfer_eval.schedule import Schedule, Stage

__all__ = [
    "Attention",
    "Audit",
    "Embeddings",
    "ImageMethod",
    "LayerMethod",
    "Method",
    "Schedule",
    "SharedPrefix",
    "Stage",
    "Trace",
    "audit",
    "available_methods",
    "get_method",
    "pruned",
]
