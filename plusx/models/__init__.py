"""Networks: residual, plain and pre-activation ResNets, and fully connected ones, by name."""

from plusx.models.describe import Description, count_macs, count_params, describe, describe_all
from plusx.models.names import create_model, list_models
from plusx.models.network import Network, set_head

__all__ = [
    "Description",
    "Network",
    "count_macs",
    "count_params",
    "create_model",
    "describe",
    "describe_all",
    "list_models",
    "set_head",
]
