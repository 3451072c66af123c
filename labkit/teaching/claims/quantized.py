"""What is computed for the claims about quantization: sizes from configurations, damage on models that come with labkit."""

from __future__ import annotations

PHONE_BANDWIDTH = 51.2e9  # bytes a second: LPDDR5 at 6,400 million transfers a second, 64 bits wide
STATED_TOKENS = 3
GROUP = 32  # of labkit-squeeze's record
FEW_BITS = "int2"
TUNED_AT = 1e-3  # learning rate of the tunings of its checkpoints, labkit-lora's record
EARLY = 1 / 6  # of its training, where labkit-squeeze-early stands
PASSAGES, CHARACTERS = 20, 350  # of each kind of text, as in labkit-squeeze's record
SPEED_TOKENS, SPEED_ROUNDS = 8, 3
PLAIN = ("float32", "bfloat16")  # what the packed model is held against; the value is that against the first


def gptq_75_2x() -> tuple[float, str]:
    """How much faster the default model generates with torch's packed 4-bit product; and how much smaller LLaMA 2 7B is."""
    from labkit.lab import load
    from labkit.quantization import Format, ZeroPoint, quantize, sizes, speed

    saved = 100 * float(sizes("llama-2-7b", Format("int4", ZeroPoint(4), 128))["saved"].iloc[0])
    lab, half = (load(dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16"))
    unpacked = quantize(lab, "int4", group_size=GROUP, progress=False)
    packed = quantize(lab, "int4", group_size=GROUP, backend="torch", progress=False)
    rate = speed(
        {"float32": lab, "bfloat16": half, "unpacked": unpacked, "packed": packed},
        tokens=SPEED_TOKENS,
        rounds=SPEED_ROUNDS,
    ).set_index("model")["tokens_per_second"]
    against = {
        name: " and ".join(f"{rate[name] / rate[plain]:.1f} times as fast as in {plain}" for plain in PLAIN)
        for name in ("unpacked", "packed")
    }
    return round(float(rate["packed"] / rate["float32"]), 1), (
        f"LLaMA 2 7B in groups of 128 is {saved:.1f} % smaller, scales, zero points, embedding and head counted; the default "
        f"model generates {against['packed']} where the product reads packed weights, and {against['unpacked']} where they "
        "are unpacked first"
    )


def int4_phone() -> tuple[float, str]:
    """Tokens a second that a phone's memory allows Phi-3-mini at 4 bits, at most."""
    from labkit.quantization import sizes

    read = float(sizes("phi-3-mini", "int4", group_size=128)["bytes_per_token"].iloc[0])
    bound = PHONE_BANDWIDTH / read
    return round(bound, 1), (
        f"a token reads {read / 1e9:.2f} GB; memory that gives {PHONE_BANDWIDTH / 1e9:.1f} GB a second allows at most "
        f"{bound:.1f} tokens a second, and {STATED_TOKENS} is {100 * STATED_TOKENS / bound:.0f} % of that: possible; no "
        "phone was at hand"
    )


def harder_to_squeeze() -> tuple[float, str]:
    """Loss that 2 bits add to labkit-squeeze early in its training and at the end of it, measured now."""
    from labkit.lab import load
    from labkit.lora import recorded
    from labkit.quantization import damage, quantize, recorded_squeeze, texts

    added = {}
    for name in ("labkit-squeeze-early", "labkit-squeeze"):
        lab = load(name, dtype="float32", device="cpu")
        small = quantize(lab, FEW_BITS, group_size=GROUP, symmetric=False, progress=False)
        harm = damage(lab, small, texts(PASSAGES, characters=CHARACTERS), tokens=None, progress=False)
        added[name] = (harm.loss_change, *harm.loss_interval)
    early, late = (
        f"{mean:.3f} nats a token ({low:.3f} to {high:.3f})"
        for mean, low, high in (added["labkit-squeeze-early"], added["labkit-squeeze"])
    )
    seen = recorded_squeeze("wide")["tokens"] / 1e6
    tuned = recorded("harder")
    tuned = tuned[tuned["learning_rate"] == TUNED_AT]
    gained = (tuned["held_out_untuned"] - tuned["held_out"]).groupby(tuned["model"]).median()
    return round(added["labkit-squeeze"][0], 3), (
        f"rounding to 2 bits adds {early} after {EARLY * seen.max():.1f} million tokens, and {late} after {seen.max():.1f} "
        f"million: one model, one training, intervals over {PASSAGES} documents of each of five kinds. Of tuning it is not "
        f"so: the same tuning lowers the loss on its task by {gained['labkit-squeeze-early']:.2f} nats early and by "
        f"{gained['labkit-squeeze']:.2f} at the end (medians of three seeds)"
    )


def ternary() -> tuple[float, str]:
    """Loss that ternary matrices cost a model trained through them; beside rounding after training, by size."""
    from labkit.quantization import multiplications, recorded_squeeze, recorded_ternary

    counts = multiplications("llama-2-7b", tokens=1_024).set_index("block")
    table = recorded_ternary()
    last = table[table["step"] == table["step"].max()].set_index("way")
    squeezed = recorded_squeeze(None)
    sizes = squeezed[squeezed["format"] == "ternary"]
    common = min(group["step"].max() for _, group in sizes.groupby("model"))
    by_size = sizes[sizes["step"] == common].set_index("model")["loss_change"]
    through, after = last.loc["trained through"], last.loc["rounded after"]
    additions = 100 * float(counts.loc["transformer", "become_additions"])
    return round(float(through["cost"]), 3), (
        f"{additions:.1f} % of the multiplications of LLaMA 2 7B's layers become additions at 1,024 tokens; in the model "
        f"trained here ternary matrices cost {through['cost']:.2f} nats ({through['cost_low']:.2f} to "
        f"{through['cost_high']:.2f}) when it is trained through them and {after['cost']:.2f} when it is rounded after; "
        f"rounded after, it costs widths of 32, 64 and 128 {by_size['tiny']:.2f}, {by_size['narrow']:.2f} and "
        f"{by_size['wide']:.2f} nats at the same step; training through was tried at one size, so that its gap closes is "
        "not shown"
    )
