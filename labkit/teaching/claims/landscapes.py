"""What is computed for the claims about hardware: memory and time by formula, from published configurations."""

from __future__ import annotations

HOURS = 72
SEVEN_B, SEVEN_B_TOKENS = "llama-2-7b", 2.0e12  # Touvron et al. 2023 (2307.09288), table 1
FALCON, FALCON_TOKENS = "falcon-180b", 3.5e12  # Almazrouei et al. 2023 (2311.16867): 4,096 A100 of 40 GB, 64 x 8 x 8
YEAR = 24 * 365


def seven_b_72h() -> tuple[float, str]:
    """Billions of tokens that a model of 7 billion parameters is trained on in 72 hours on four A100."""
    from labkit.landscape import Training, plan

    how = Training(zero=2, micro=2)
    found = plan(SEVEN_B, hardware="4xA100-80GB", use="training", tokens=2048, batch=512, training=how)
    assert found.fits
    assert found.tokens_per_second is not None
    tokens = found.tokens_per_second * HOURS * 3600
    years = SEVEN_B_TOKENS / found.tokens_per_second / 3600 / YEAR
    return (
        round(tokens / 1e9, 2),
        f"in {HOURS} hours four A100-80GB at {100 * how.utilisation:.0f} % of their operations train {SEVEN_B} on "
        f"{tokens / 1e9:.2f} billion tokens, {100 * tokens / SEVEN_B_TOKENS:.2f} % of the {SEVEN_B_TOKENS / 1e12:g} trillion it "
        f"was trained on, which would take {years:.1f} years: time for a tuning, not for a training",
    )


def falcon_256() -> tuple[float, str]:
    """Years that Falcon 180B's training takes on 256 A100, and whether its state fits there."""
    from labkit.landscape import Training, plan

    how = Training(zero=1, tensor=8, pipeline=8, checkpointing=True, dataset_tokens=FALCON_TOKENS)
    asked = {"use": "training", "tokens": 2048, "batch": 2048, "training": how}
    found = plan(FALCON, hardware="256xA100-40GB", **asked)  # type: ignore[arg-type]
    many = plan(FALCON, hardware="4096xA100-40GB", **asked)  # type: ignore[arg-type]
    assert found.fits
    assert found.tokens_per_second is not None
    assert many.tokens_per_second is not None
    years = FALCON_TOKENS / found.tokens_per_second / 3600 / YEAR
    days = FALCON_TOKENS / many.tokens_per_second / 3600 / 24
    state = sum(found.table.set_index("part")["bytes"].loc[["weights", "gradients", "optimizer"]])
    return (
        round(years, 1),
        f"its state fits 256 A100-40GB with tensor 8, pipeline 8 and data 4 ({state / 1e9:.1f} GB a card), but 3.5 trillion "
        f"tokens take {years:.1f} years there at {100 * how.utilisation:.0f} % of the operations; its makers report up to 4,096 "
        f"cards, on which it is {days:.0f} days",
    )


def matrix_hardware() -> tuple[float, str]:
    """The A100-80GB cards that LLaMA 2 70B takes to run in 16 bits, beside the others of the articles' table."""
    from labkit.landscape import selection

    found = selection()
    each = "; ".join(
        f"{row.model} {row.bits_16}, {row.bits_8} and {row.bits_4} ({row.stated} stated)" for row in found.itertuples()
    )
    value = int(found.set_index("model").loc["llama-2-70b", "bits_16"])
    return value, f"A100-80GB to run it with 4,096 tokens at 16, 8 and 4 bits: {each}"
