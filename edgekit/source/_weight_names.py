"""Names of weights: the parts that wrappers add, optional weights, and weights of adapters."""

from __future__ import annotations

import re

# Parts of names from torch.compile, DataParallel and DDP, FSDP, DeepSpeed and activation checkpointing.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module"}
# Weights that a classifier does not need: other heads of the pretraining, computed buffers, weights of a loss.
_OPTIONAL = re.compile(
    r"(^|\.)(cls|lm_head|mlm|mlm_head|predictions|lm_predictions|mask_predictions"
    r"|generator_predictions|generator_lm_head|discriminator_predictions"
    r"|vocab_transform|vocab_layer_norm|vocab_projector|sop_classifier|decoder)\."
    r"|(^|\.)(position_ids|token_type_ids|n_averaged|num_batches_tracked)$"
    r"|(^|\.)(loss\w*|criterion\w*|\w*loss_?(fct|fn|func)?|metrics?|(train|val|test)_\w+)\."
    r"|^(bert|roberta|electra|mpnet|deberta)\.pooler\.|(^|\.)(lm_head|decoder)\.bias$"
)
_ADAPTER = re.compile(
    r"(^|\.)(lora_\w+|base_layer|modules_to_save|adapters?|ia3_\w+|prompt_encoder|oft_\w+|hada_\w+)(\.|$)"
)


def strip_wrappers(name: str) -> str:
    """Return a name without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def is_optional(name: str) -> bool:
    """Return whether a model computes the same without the weight."""
    return bool(_OPTIONAL.search(name))


def is_adapter(name: str) -> bool:
    """Return whether the name is that of an adapter's weight."""
    return bool(_ADAPTER.search(name))
