"""What is computed for the claims about tuning: counts from configurations, and medians over the records of labkit-lora."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

SMALL = "labkit-dense"
REAL = "smollm2-135m-instruct"


def lora_small() -> tuple[float, str]:
    """Share of the weights, in percent, that rank 16 on queries and values trains of LLaMA 2 7B."""
    from labkit.lora import cost

    counted = {name: cost(name, rank=16, targets=("q_proj", "v_proj")) for name in ("llama-2-7b", "smollm2-135m")}
    each = ", ".join(f"{found.trainable:,} ({100 * found.share:.3g} %) of {name}" for name, found in counted.items())
    return round(100 * counted["llama-2-7b"].share, 3), f"it trains {each}"


def neftune() -> tuple[float, str]:
    """Change of the held-out loss by noise on the embeddings, labkit-dense on 40 samples; medians over seeds."""
    from labkit.lora import recorded

    runs = recorded("neftune").fillna({"neftune": 0.0})
    return _change(runs, "neftune", 0.0, 5.0, "with noise")


def schedule_free() -> tuple[float, str]:
    """Change of the held-out loss from a cosine schedule to none by schedule-free AdamW, labkit-dense; medians over seeds."""
    from labkit.lora import recorded

    return _change(recorded("schedule"), "schedule", "cosine", "schedule_free", "schedule-free")


def _change(runs: pd.DataFrame, column: str, without: object, with_: object, words: str) -> tuple[float, str]:
    """The difference of medians on labkit-dense, and a sentence with that of both models."""
    sentences = []
    for model in (SMALL, REAL):
        of = runs[runs["model"] == model].set_index("seed")
        first, second = (of[of[column] == value] for value in (without, with_))
        better = int((second["held_out"] < first["held_out"]).sum())
        held, lost = (
            f"{first[name].median():{form}} to {second[name].median():{form}}"
            for name, form in (("held_out", ".3g"), ("forgetting", ".2f"))
        )
        sentences.append(
            f"{model}: held-out loss {held} nats, lower with {better} of {len(first)} seeds, forgetting {lost}"
        )
    small = runs[runs["model"] == SMALL].groupby(column)["held_out"].median()
    return round(float(small[with_] - small[without]), 2), f"{words}, {'; '.join(sentences)} (medians; short tunings)"


def alignment_tax() -> tuple[float, str]:
    """How many percent of plainly harmless prompts a model refuses that was taught to refuse others, less its base."""
    from labkit.circuits import recorded_refusals

    rows = recorded_refusals().table.to_dict("records")
    found = {(row["model"], row["set"]): row for row in rows}
    said = {place: f"{row['refused']} of {row['prompts']}" for place, row in found.items()}
    plain, before = found["tuned", "plain"], found["base", "plain"]
    return round(100 * (plain["share"] - before["share"]), 1), (
        f"the default model, itself tuned to follow instructions, refuses {said['base', 'edgy']} harmless prompts that sound "
        f"dangerous and {said['base', 'plain']} plain ones; taught by 40 steps of LoRA to refuse the first kind it refuses "
        f"{said['tuned', 'edgy']} of those held out, and of plain ones {said['tuned', 'plain']} "
        f"({100 * plain['low']:.0f} to {100 * plain['high']:.0f} %), asked in the same words {said['tuned', 'alike']}; with one "
        f"direction ablated {said['tuned, direction ablated', 'edgy']}; one small model and one tuning, so it tells that this "
        "can happen and not how often it does"
    )
