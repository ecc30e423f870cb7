"""The table of common lowerings, which serve every backend that has no better one."""

from __future__ import annotations

from collections.abc import Mapping

from tallow.lower.concat import lower_concat
from tallow.lower.group import Lowering
from tallow.lower.pool_index import lower_pool_index
from tallow.lower.recurrent import lower_recurrence
from tallow.lower.recurrent_bytes import lower_recurrence_of_bytes
from tallow.lower.reduce import lower_arg, lower_cumulative, lower_reduce
from tallow.lower.scatter import lower_scatter
from tallow.lower.sorting import lower_topk

COMMON: Mapping[str, Lowering] = {
    "reduce": lower_reduce,
    "argmax": lower_arg,
    "argmin": lower_arg,
    "cumulative": lower_cumulative,
    "concat": lower_concat,
    "lstm_steps": lower_recurrence,
    "gru_steps": lower_recurrence,
    "rnn_steps": lower_recurrence,
    "lstm_steps_bytes": lower_recurrence_of_bytes,
    "scatter_elements": lower_scatter,
    "scatter_nd": lower_scatter,
    "topk": lower_topk,
    "max_pool_with_index": lower_pool_index,
}
