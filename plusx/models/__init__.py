"""Networks: residual, plain and pre-activation ResNets, and fully connected ones, by name."""

from plusx.models.describe import count_macs as count_macs
from plusx.models.describe import count_params as count_params
from plusx.models.describe import describe as describe
from plusx.models.describe import table as table
from plusx.models.names import create_model as create_model
from plusx.models.names import list_models as list_models
from plusx.models.names import resolve as resolve
from plusx.models.network import Network as Network
from plusx.models.network import set_head as set_head
from plusx.models.probe import droppable_blocks as droppable_blocks
from plusx.models.probe import gradient_norms as gradient_norms
from plusx.models.probe import layer_responses as layer_responses
from plusx.models.probe import without_block as without_block
from plusx.models.whitening import whiten_input as whiten_input
from plusx.models.whitening import whiten_stem as whiten_stem
