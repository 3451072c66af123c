"""What is computed for the claim about Qwen's positions: how attention falls with distance where all tokens are the same.

Of a text of one token repeated, keys and queries of the first layer differ by their positions alone. ALiBi adds to each score
a number in proportion to the distance (Press et al. 2022, arXiv:2108.12409), so the logarithm of the weights is a straight
line over the distance. Rotation (Su et al. 2021, arXiv:2104.09864) makes it a sum of cosines. MPT, which has ALiBi, is seen
in the same way, so that the look is known to find it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

TOKENS, SEEDS = 24, 1
STRAIGHT = 0.999_9  # R² from which a line counts as straight; ALiBi's are so up to rounding
CONTROL = "mpt-7b"
TINY: Mapping[str, object] = {  # of the published configurations: sizes alone; what acts on positions stays
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16},
    **{
        "shared_expert_intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    **{"num_experts": 4, "num_experts_per_tok": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "d_model": 32, "n_layers": 2, "n_heads": 8},
}


def qwen_alibi() -> tuple[float, str]:
    """How many of the Qwen architectures of the table attend in a straight line over the distance, beside one with ALiBi."""
    from labkit.models import published

    entries = [entry for name in published.names() if (entry := published.get(name)) is not None]
    first = {str(e.config["model_type"]): e for e in reversed(entries) if e.name.startswith("qwen")}
    fits = {kind: _fits_of(dict(entry.config)) for kind, entry in first.items()}
    control = published.get(CONTROL)
    assert control is not None
    known = min(_fits_of(dict(control.config)))
    found = sum(min(each) >= STRAIGHT for each in fits.values())
    middle = max(statistics.median(each) for each in fits.values())
    return float(found), (
        f"of the {len(fits)} Qwen architectures in the table {found} attend in straight lines over the distance (R² of the "
        f"middle head {middle:.1f} at most); MPT, which has ALiBi, does in every head (R² {known:.4f}). What Qwen does to "
        "positions is rotate queries and keys, from its first generation on"
    )


def _fits_of(config: dict[str, object]) -> list[float]:
    """R² of a line through log weight by distance, of each head of untrained models."""
    return [fit for seed in range(SEEDS) for fit in _fits(config, seed)]


def _fits(config: dict[str, object], seed: int) -> list[float]:
    import numpy as np

    weights = _first_layer(config, seed)[:, -1]  # (heads, keys) of the last query
    distance = np.arange(TOKENS)[::-1].astype(float)
    fits = []
    for head in np.log(weights.astype(np.float64)):
        rest = head - np.polyval(np.polyfit(distance, head, 1), distance)
        fits.append(float(1 - rest.var() / head.var()))
    return fits


def _first_layer(config: dict[str, object], seed: int) -> np.ndarray:
    """(heads, T, T): attention of layer 0 of an untrained model of this architecture, over one token repeated."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from labkit.lab import Lab, load

    config = config | {name: value for name, value in TINY.items() if name in config}
    if isinstance(heads := config.get("head_dim"), int) and heads:
        config["head_dim"] = 16
    if "layer_types" in config or config["model_type"] == "qwen3_next":
        config["layer_types"] = ["full_attention", "linear_attention"]
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "mrope_section" in rope:
        config["rope_parameters"] = rope | {"mrope_section": [1, 1, 0]}
    kind = str(config.pop("model_type"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config)).float().eval()
        with torch.no_grad():  # as they come, queries and keys are too small for any head to prefer a distance
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.3)
    lab = Lab(model, load("labkit-dense").tokenizer, name=f"untrained {kind}")
    weights: np.ndarray = lab.trace([5] * TOKENS, keep="attention").attention(0).numpy()
    return weights
