"""Networks: residual, plain and pre-activation ResNets, and fully connected ones, by name."""

from plusx.models.describe import count_macs, count_params, describe, table
from plusx.models.names import create_model, list_models, resolve
from plusx.models.network import Network, set_head
from plusx.models.probe import droppable_blocks, gradient_norms, layer_responses, without_block
from plusx.models.whitening import whiten_input, whiten_stem

__all__ = [
    "Network",
    "count_macs",
    "count_params",
    "create_model",
    "describe",
    "droppable_blocks",
    "gradient_norms",
    "layer_responses",
    "list_models",
    "resolve",
    "set_head",
    "table",
    "whiten_input",
    "whiten_stem",
    "without_block",
]
