# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 4 · Quantization: what bits cost
#
# [![Open in Colab](attachment:colab.png)]({{COLAB}})
#
# A model is trained with 16 or 32 bits for each of its numbers. Most people run it with four. In this notebook you round
# weights by hand, measure what that does to the model, and find out where it hurts.
#
# ![Bytes of a model against the damage done, for many formats](attachment:04_quantization.png)
#
# | | |
# |---|---|
# | **Time** | {{MINUTES}} minutes in {{SECTIONS}} sections, about {{EXERCISE_MINUTES}} of them for six exercises; three extra sections take {{EXTRA_MINUTES}} more. Each section can be done alone |
# | **Contains** | {{EXERCISES}}, {{PREDICTIONS}}, {{CLAIMS}} from articles put to the test |
# | **Runs on** | any computer with {{MEMORY}} of free memory; no GPU, no account; sections 6 and 7 use labkit's default model (93 MB, fetched once) |
# | **You need** | to read Python and a little PyTorch (a tensor, its shape, `@` for a matrix product) |
# | **You will be able to** | say what a 4-bit format really takes and what it costs, choose one for your machine, and see through a comparison that proves nothing |

# %% [markdown]
# ## Set-up
# In Colab the first cell installs labkit, without touching the PyTorch that is there. Elsewhere it only checks. The second
# loads a small model that is part of labkit, trained in full precision on five kinds of text. It writes nothing worth
# reading, and is all you need to measure. One of its matrices is our example.
#
# **Run these two. Then start at any section.**

# %%
# set-up

# %%
import torch

lab = lk.load("labkit-dense", dtype="float32", device="cpu")
texts = lk.quantization.texts(10, characters=350)  # held-out passages, ten of each kind
name = "model.layers.2.mlp.down_proj"  # one of its 42 matrices
weight = lab.model.get_submodule(name).weight.detach()


def moved(weight, other):
    """How far a matrix has moved, as a share of its own size."""
    return ((weight - other).norm() / weight.norm()).item()


lab

# %% [markdown]
# ## 1 · From weights to whole numbers
# *8 minutes · easy · the idea*
#
# Here is that matrix as a histogram. Its weights are 32-bit numbers; nearly all lie close to zero.

# %%
lk.views.grid(lk.quantization.matrix(lab, name, "int4", group_size="tensor"))

# %% [markdown]
# To **quantize** is to allow a weight only a few values, the **grid**, drawn here as lines. A weight is stored as the number
# of its line, its **code**. Four bits can count 16 lines; a grid that lies evenly around zero uses 15. Beside the codes only
# the **scale** is stored, the distance between two lines. Every weight is replaced by the line nearest to it.

# %%
# exercise: quantization.absmax

# %% [markdown]
# The same by hand and by labkit, and what it costs with fewer and fewer bits:

# %%
largest = 2**3 - 1
scale = weight.abs().max() / largest
by_hand = (weight / scale).round() * scale
library = lk.quantization.formats.of(
    "int4", group_size="tensor", scale_dtype=torch.float32
).pack(weight)

# %% tags=["nbval-check-output"]
print("the same as labkit's:", torch.equal(by_hand, library.unpack()))
for bits in (8, 4, 3, 2):
    packed = lk.quantization.formats.of(f"int{bits}", group_size="tensor").pack(weight)
    print(f"{bits} bits: the matrix moves by {moved(weight, packed.unpack()):6.1%} of its size")

# %% [markdown]
# **To take away:** a weight becomes a code of a few bits; code times scale leads back. The error is at most half a step, and
# the largest weight decides how wide a step is.

# %% [markdown]
# ## 2 · One grid for every group
# *16 minutes · medium · what all formats do*
#
# If the largest weight sets the step, what does a single large weight do to all others? Let us put one into the matrix, ten
# times as large as the largest:

# %%
outlier = weight.clone()
outlier[7, 11] = 10 * weight.abs().max()
question = "With the outlier, 4 bits and one scale: how far do all other weights move?"
moved_others = lk.predict("quantization.outlier", question, unit="%", low=0, high=100)
moved_others

# %%
others = torch.ones_like(weight, dtype=torch.bool)
others[7, 11] = False


def error(format):
    back = format.pack(outlier).unpack()
    return 100 * moved(outlier[others], back[others])


moved_others.show(error(lk.quantization.formats.of("int4", group_size="tensor")))

# %% [markdown]
# Nearly all of them are rounded to zero. Real models have such outliers, large models above all (Dettmers et al. 2022). Every
# format has the same remedy: small **groups** of weights, each with a scale of its own, so that an outlier spoils only its
# neighbours. And where a group's weights don't lie evenly around zero, a grid from the smallest to the largest of them fits
# better.

# %%
# exercise: quantization.round_trip

# %% tags=["nbval-check-output"]
for size in ("tensor", "channel", 64, 32, 16):
    grid = lk.quantization.formats.of("int4", group_size=size, symmetric=False)
    packed = grid.pack(weight)
    print(
        f"group {size!s:8} {packed.bits_per_weight:5.2f} bits a weight: "
        f"{moved(weight, packed.unpack()):6.1%} off, with the outlier {error(grid):5.1f} %"
    )

# %% [markdown]
# (A *channel* is a row of the matrix.) Smaller groups lower the error and raise the price: scales and zero points are stored
# too. So "4 bits" are not 4 bits.

# %%
# exercise: quantization.bits_per_weight

# %% [markdown]
# An article states that GPTQ at 4 bits makes a model "75 % smaller". Let us count it for LLaMA 2 7B: the usual groups of 128,
# a scale of 16 bits and a zero point of 4 for each, against 16 bits before. Embedding, output head and norms stay as they are.

# %%
question = "How much smaller is LLaMA 2 7B at 4 bits than at 16, everything counted?"
smaller = lk.predict("quantization.smaller", question, unit="%", low=0, high=100)
smaller

# %%
gptqs = lk.quantization.Format("4 bits, GPTQ's", lk.quantization.ZeroPoint(4), 128)
sizes = lk.quantization.sizes("llama-2-7b", ("int8", gptqs, "nf4", "int3", "int2"))
saved = sizes.set_index("format")["saved"]
smaller.show(100 * saved[gptqs.name])

# %% tags=["nbval-check-output"]
print(f"before: {sizes.original_bytes / 1e9:.2f} GB")
for _, row in sizes.iterrows():
    print(
        f"{row['format']:16}{row['bits_per_weight']:5.2f} bits a weight,"
        f"{row['size_bytes'] / 1e9:5.2f} GB: {row['saved']:.1%} less"
    )
tiny = lk.quantization.sizes("smollm2-135m", "int4", group_size=32)
print(f"SmolLM2 135M, 4 bits in groups of 32: {tiny['saved'].iloc[0]:.1%} less")

# %% [markdown]
# Not 75 %, if not far from it. Of a small model, which is mostly embedding, much less remains of the promise. (The article
# also says that it gets faster; that is section 7.)
#
# **To take away:** a format is a grid and a group size. Small groups contain the damage of outliers and cost bits. Count all
# bytes: codes, scales, and what is not quantized.

# %% [markdown]
# ## 3 · What it does to the model
# *14 minutes · medium · the measure that counts*
#
# A matrix is not there to be looked at. What matters is what the model predicts: the quantized model reads the same text and
# gives other probabilities for the next token. How far they are from the original's is the **KL divergence**, in nats; it is
# 0 where nothing changed.

# %%
# exercise: quantization.kl_damage

# %% [markdown]
# `quantize` makes a second model; the first stays as it is. `damage` compares the two on text. Beside the KL divergence it
# has **top-1 agreement**, how often both hold the same token for the most probable, and **perplexity**, e to the mean loss: as
# if the model had to guess among so many equally likely tokens.

# %%
four = lk.quantization.quantize(lab, "int4", group_size=64, progress=False)
harm, same = lk.quantization.damage(lab, [four, lab], texts, progress=False)
harm[["kind", "tokens", "kl", "top1", "original_perplexity", "perplexity"]].round(3)

# %% tags=["nbval-check-output"]
passage = texts["prose"][0]
# the last token of a text predicts one that is not there
log_p = lab.trace(passage, keep="logits").logits[:-1].log_softmax(-1)
log_q = four.trace(passage, keep="logits").logits[:-1].log_softmax(-1)
by_hand = (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()
library = lk.quantization.damage(lab, four, [passage], progress=False).kl
print("KL by hand as labkit has it, to 1e-5:", abs(by_hand - library) < 1e-5)
print("KL of the model with itself:", same.kl)

# %% [markdown]
# That was 4 bits. What will 2 bits cost?

# %%
question = "KL divergence of 2 bits in groups of 64"
two = lk.predict("quantization.two_bits", question, unit="nats", low=0, high=5)
two

# %%
compared = ("int8", "int4", "int3", "int2", "nf4", "q4_0", "q5_0", "ternary")
table = lk.quantization.by_format(lab, texts, compared, progress=False)
rows = table.set_index("format")
two.show(rows["kl"]["int2"])

# %% tags=["nbval-check-output"]
for name_of_format, row in rows.sort_values("kl").iterrows():
    print(
        f"{name_of_format:8} KL {row['kl']:7.4f} nats, top-1 {row['top1']:4.0%}, "
        f"perplexity {row['perplexity']:6.1f}"
    )
print(f"original {'':28} perplexity {table.original_perplexity:6.1f}")

# %%
lk.views.formats(table)

# %% [markdown]
# 8 bits change nothing that matters, 4 bits about one first choice in ten, 3 bits one in five; with 2 bits it falls apart.
# Where the curve bends depends on the model (section 8).
#
# Fewer bits need not be worse. *int2* has three values around zero, one of them the largest weight of a group; *ternary*
# has three as well, puts them where the weights are, takes less room and does less harm. Where the lines lie matters as much
# as how many there are: *nf4* has them closer together near zero (section 10). *q4_0* and *q5_0* are the even grids of
# llama.cpp's files, in groups of 32.
#
# Turn it yourself: choose a matrix, bits, group and method. Histogram and error follow at once; below, the whole model is
# quantized in the background and writes beside the original.

# %%
lk.views.quantization(lab)

# %% [markdown]
# **To take away:** measure on text, with KL divergence. Perplexity can stay the same while many predictions change.

# %% [markdown]
# ## 4 · Let other weights make up for it
# *11 minutes · hard · GPTQ, and why the error of the weights misleads*
#
# What should stay the same is not the matrix W but its output W x, and only for the inputs x that there are. **GPTQ**
# (Frantar et al. 2022) rounds a row's weights one after the other, and after each lets those to come make up for the error.
# How much each takes over follows from how the inputs depend on one another.

# %%
# exercise: quantization.gptq_row

# %% [markdown]
# The inputs come from some **calibration** text. Ours is not among the passages that we measure on.

# %%
calibration = [t for kind in lk.quantization.texts(4, skip=20).values() for t in kind]
rtn = lk.quantization.quantize(lab, "int3", group_size=64, progress=False)
gptq = lk.quantization.quantize(
    lab, "int3", group_size=64, method="gptq", calibration=calibration, progress=False
)
nearest, made_up = lk.quantization.damage(lab, [rtn, gptq], texts, progress=False)

# %% tags=["nbval-check-output"]
for method, quantized, each in (("nearest", rtn, nearest), ("gptq", gptq, made_up)):
    off = moved(weight, quantized.model.get_submodule(name).weight)
    print(f"{method:8} our matrix {off:5.1%} off, KL of the model {each.kl:.3f} nats")

# %% [markdown]
# GPTQ's weights are *farther* from the original, and its predictions are nearer. Whoever ranks methods by the error of the
# weights chooses the wrong one.
#
# **To take away:** choose by what comes out on text. Calibrate and measure on different text.

# %% [markdown]
# ## 5 · Where it hurts
# *6 minutes · medium · not all matrices are equal*
#
# Each matrix quantized alone, all others left as they are: what does it cost?

# %%
hurts = lk.quantization.sensitivity(lab, texts, bits=3, progress=False)
lk.views.sensitivity(hurts)

# %% tags=["nbval-check-output"]
worst = hurts.nlargest(4, "kl")
print(worst[["layer", "matrix", "kl"]].round(4).to_string(index=False))
print(f"median of all {len(hurts)}: {hurts['kl'].median():.4f}")

# %% [markdown]
# So why give every matrix as many bits? Within a budget of bytes one can spend more where it hurts and less where it does
# not. `mix` adds up what each matrix costs alone, in each format, and finds the best choice. Move the budget:

# %% tags=["answer"]
three = lk.quantization.quantize(lab, "int3", progress=False)
budget = lk.quantization.contents(three).size_bytes  # what 3 bits for all take
mix = lk.quantization.mix(
    lab,
    budget_bytes=budget,
    texts=lk.quantization.texts(10, skip=30, characters=350),
    measured_on=texts,
    tokens=1_000,
    progress=False,
)
lk.views.mix(mix)

# %% [markdown]
# A sum of costs is a forecast, and a mix is flattered by the texts it was chosen on. So it is measured on others, beside the
# same bits for all and beside mixes drawn at random:

# %% tags=["nbval-check-output"]
measured = mix.measured.set_index("what")
for _, row in measured.loc[["uniform int3", "mix", "random mix"]].iterrows():
    print(f"{row.name:13}{row['size_bytes']:10,.0f} bytes: KL {row['kl']:.4f} nats")

# %% [markdown]
# **To take away:** a few matrices carry most of the damage. Spend bits there, and judge the mix on text it was not chosen on.

# %% [markdown]
# ## 6 · How to fool yourself
# *2 minutes · easy · the trap in this lab's default model*
#
# labkit's default model is a real one, and its file was quantized before it came here: its weights lie on a 4-bit grid in
# groups of 32 (GGUF's Q4_1). The numbers themselves show it:

# %%
default = lk.load(dtype="float32", device="cpu")
found = lk.quantization.on_grid(default)
ours = lk.quantization.on_grid(lab)

# %% tags=["nbval-check-output"]
print(f"default model: at most {found.largest} different values in a group of 32")
print(f"labkit-dense: up to {ours.largest}")
print(f"random numbers: {found.null_fewest} to {found.null_most}")

# %% [markdown]
# What would a comparison of formats on it show?

# %%
few = [text[:500] for text in (texts["prose"][0], texts["encyclopaedia"][0])]
misleading = lk.quantization.by_format(default, few, ("q4_1", "q5_0", "q4_0"), progress=False)

# %% tags=["nbval-check-output"]
for _, row in misleading.iterrows():
    print(
        f"{row['format']}: {row['bits_per_weight']:.1f} bits a weight, KL {row['kl']:.4f} nats"
    )

# %% [markdown]
# Q4_1 "costs nothing": it is the grid that the weights lie on. Q5_0, with twice as many lines, looks worse. Both say how the
# file was made, and nothing about formats. The same trap waits wherever somebody else quantized a model before you: look at
# the weights first. That is why this notebook measures on models trained here in full precision.
#
# **To take away:** a ranking of formats on weights that are quantized already is an artefact.

# %% [markdown]
# ## 7 · Fast or slow?
# *8 minutes · medium · why fewer bits can be faster, and often are not*
#
# To write one token, a computer reads every weight from memory once. For a single text that is what takes the time, not the
# arithmetic. So there is a bound:

# %%
# exercise: quantization.most_tokens_per_second as checked

# %% [markdown]
# An article states that Phi-3 at INT4 writes 3 tokens a second on a phone. Memory of phones of its year gives 51.2 GB a
# second (LPDDR5: 6,400 million transfers a second, 64 bits each). What is the bound?

# %% tags=["nbval-check-output"]
phi = lk.quantization.sizes("phi-3-mini", "int4", group_size=128)
per_token = phi["bytes_per_token"].iloc[0]
bound = 51.2e9 / per_token
print(f"{per_token / 1e9:.2f} GB are read for a token: at most {bound:.1f} tokens a second")
if checked.passed:
    print(
        "the same by your function:", most_tokens_per_second(per_token, 0, 51.2e9, 1) == bound
    )
lk.claim("int4-phone", round(bound, 1), note="3 a second are well below")

# %% [markdown]
# Three tokens a second are possible, and far below what the memory allows: that tells of the phone's program or its heat, not
# of 4 bits.
#
# A bound is not a speed. Fewer bits are faster only where unpacking costs less than the reading that was saved, and that
# takes code made for it. Here the default model writes in four ways on your processor:

# %%
default = lk.load(dtype="float32", device="cpu")
ways = {
    "float32": default,
    "bfloat16": lk.load(dtype="bfloat16", device="cpu"),
    "unpacked": lk.quantization.quantize(default, "int4", group_size=32, progress=False),
}
# torch has no packed product for processors without vector instructions
if torch.backends.cpu.get_cpu_capability() != "DEFAULT":
    ways["packed"] = lk.quantization.quantize(
        default, "int4", group_size=32, backend="torch", progress=False
    )
speeds = lk.quantization.speed(ways, tokens=8, rounds=2)
for _, row in speeds.iterrows():
    print(
        f"{row['model']:9} {row['weight_bytes'] / 1e6:4.0f} MB, "
        f"{row['tokens_per_second']:5.1f} tokens a second, "
        f"{row['share_of_limit']:.0%} of what the memory allows"
    )

# %% [markdown]
# *unpacked* is labkit's own: for every token it makes whole matrices of the codes and multiplies as before. It is smaller and
# **slower**. *packed* is torch's product, which unpacks in the processor's registers while it multiplies, and is faster than
# float32. By how much depends on the machine, its memory and its threads. *bfloat16* has half the bytes; whether that is
# faster depends on whether the processor can multiply such numbers. "Are 4 bits faster?" is a question about code.

# %%
rate = speeds.set_index("model")["tokens_per_second"]
claim = None
if "packed" in rate:
    claim = lk.claim(
        "gptq-75-2x",
        round(rate["packed"] / rate["float32"], 1),
        note="the size is in section 2",
    )
claim

# %% [markdown]
# **To take away:** bits always save memory. They save time where the product reads packed weights, and cost time elsewhere.

# %% [markdown]
# ## 8 · Harder to squeeze
# *5 minutes · easy · do well-trained models lose more?*
#
# An article states: the better a model is trained, the less room it leaves for quantizing. So labkit trained a small model,
# kept it at several points of its training, and rounded each to few bits. What do 2 bits add to the loss, by how much the
# model had read? Sketch it.

# %%
squeezed = lk.quantization.recorded_squeeze()
two_bits = squeezed[squeezed["format"] == "int2"]
along = lk.predict(
    "quantization.squeeze",
    "Loss that 2 bits add, by million tokens read in training",
    kind="curve",
    x=[round(tokens / 1e6, 2) for tokens in two_bits["tokens"]],
    low=0,
    high=0.4,
    x_label="million tokens read",
    y_label="nats added",
)
along

# %%
along.show(two_bits["loss_change"].tolist())

# %%
lk.views.squeeze(squeezed)

# %% [markdown]
# With 2 bits and with three values the cost rises from checkpoint to checkpoint, with 3 and 4 bits on the whole; 8 bits cost
# nothing that can be seen. The recipe is `labkit/recipes/squeeze.py`. Two of its points, computed now on a hundred short
# passages:

# %% tags=["nbval-check-output"]
hundred = lk.quantization.texts(20, characters=350)
for name_of_model in ("labkit-squeeze-early", "labkit-squeeze"):
    model = lk.load(name_of_model, dtype="float32", device="cpu")
    rounded = lk.quantization.quantize(
        model, "int2", group_size=32, symmetric=False, progress=False
    )
    change = lk.quantization.damage(model, rounded, hundred, tokens=None, progress=False)
    low, high = change.loss_interval
    print(f"{name_of_model:21} {change.loss_change:.3f} nats added ({low:.3f} to {high:.3f})")
lk.claim("harder-to-squeeze", round(change.loss_change, 3), note="on these passages")

# %% [markdown]
# With care: this is one small model and one training; the intervals are those of other passages, not of another training.
# Others found the same growth on far larger models (Ouyang et al. 2024, Kumar et al. 2024), and that **size** works the other
# way (section 11).
#
# **To take away:** what a format costs depends on the model, and one that was trained longer has more to lose. A format that
# was fine for an older model need not be for the next.

# %% [markdown]
# ## 9 · Which format for my model?
# *2 minutes · easy · the question you came with*
#
# How many bytes have you got? Sizes are exact, the cache of the text included. What each format costs was measured, and
# `advise` says on what. For a model that is not on this machine:

# %%
import textwrap

advice = lk.quantization.advise("llama-2-7b", budget_bytes=8 * 2**30, tokens=4_096)
print(*(textwrap.fill(sentence, 80) for sentence in advice.sentences), sep="\n\n")

# %% [markdown]
# For a model that you have loaded, it measures:

# %%
here = lk.quantization.advise(
    lab,
    budget_bytes=10_000_000,
    tokens=512,
    formats=("int8", "int4", "nf4"),
    texts=texts,
    progress=False,
)
print(*(textwrap.fill(sentence, 80) for sentence in here.sentences[:2]), sep="\n\n")

# %% [markdown]
# That was the main line. If you stop here, go on to *What you have seen* at the end. Three sections are left for those who
# want more.

# %% [markdown]
# ## 10 · Levels where the weights are
# *Extra, 7 minutes · medium · why NF4 is what it is*
#
# Weights crowd around zero. An even grid spends many of its lines far out, where hardly any weight is.

# %%
# exercise: quantization.to_levels

# %% [markdown]
# The levels of **NF4** lie so that about as many weights fall to each, if weights are normally distributed. GGUF, the
# format of llama.cpp, has even grids in groups of 32 (Q4_0 with a scale, Q4_1 with a minimum besides); MXFP4, that of
# gpt-oss, has levels that double. All on our matrix:

# %% tags=["nbval-check-output"]
for name_of_format in (
    "int4",
    "nf4",
    "mxfp4",
    "q4_0",
    "q4_1",
    "q5_0",
    "q8_0",
    "fp8_e4m3",
    "ternary",
):
    packed = lk.quantization.formats.of(name_of_format).pack(weight)
    print(
        f"{name_of_format:9} {packed.bits_per_weight:5.2f} bits: "
        f"{moved(weight, packed.unpack()):5.1%} off"
    )

# %% [markdown]
# NF4 is nearer than the even grid of as many bits. That is a first guess, no more: section 4 shows how far the error of
# weights can mislead.
#
# **To take away:** where the levels lie matters as much as how many there are.

# %% [markdown]
# ## 11 · Three values
# *Extra, 8 minutes · medium · when multiplications become additions*
#
# With weights of -1, 0 and 1 there is nothing left to multiply: a weight adds its input, takes it away, or leaves it out.

# %%
# exercise: quantization.ternary

# %% [markdown]
# How much of a model is that? What stays are products of activations with activations: attention, norms, gates.

# %% tags=["nbval-check-output"]
counts = lk.quantization.multiplications("llama-2-7b", tokens=(1_024, 65_536))
for _, row in counts.iterrows():
    print(
        f"{row['block']:12} {row['tokens']:6,} tokens: "
        f"{row['become_additions']:.1%} become additions"
    )

# %% [markdown]
# (*matmul-free* is the block of Zhu et al. 2024, which has no attention, so that nothing grows with the text.)
#
# Rounding a finished model to three values ruins it; you saw that in section 3. But one can **train through** the rounding:
# the model computes with the three values, and what it learns goes to full-precision weights behind them. labkit trained
# such a twin of the model of section 8, with the same data and steps.

# %% tags=["nbval-check-output"]
twins = lk.quantization.recorded_ternary()
costs = twins.pivot(index="tokens", columns="way", values="cost")
for tokens, row in costs.iterrows():
    print(
        f"{tokens / 1e6:4.1f} million tokens: rounded after {row['rounded after']:5.2f} nats, "
        f"trained through {row['trained through']:5.2f}"
    )
last = twins[twins["way"] == "trained through"].iloc[-1]
lk.claim("ternary", round(last["cost"], 3), note="one size; for others see below")

# %% [markdown]
# Trained through, three values cost about a tenth of a nat; rounded after, eight times as much. The gap did not close *along*
# the training, it opened: at first there was none. The article states that it closes as models grow. Rounding after training
# does cost less with size, here with each size at the same step; of training through we trained one size, and can't tell.

# %% tags=["nbval-check-output"]
every = lk.quantization.recorded_squeeze(None)
added = every[every["step"] == 1200].pivot(
    index="model", columns="format", values="loss_change"
)
for model, width in (("tiny", 32), ("narrow", 64), ("wide", 128)):
    row = added.loc[model]
    print(f"width {width:3}: 2 bits {row['int2']:.2f} nats, three values {row['ternary']:.2f}")

# %% [markdown]
# **To take away:** with few values, don't round a finished model; train one that lives with them.

# %% [markdown]
# ## 12 · The cache
# *Extra, 3 minutes · easy · what long texts take*
#
# While a model writes, it keeps the keys and values of all tokens so far, the **KV cache**. In long texts it outgrows the
# weights, and it can be quantized too. Keys have a few channels that are large for every token, so a grid for each *channel*
# suits them; values have none, and get a grid for each *token* (KIVI, Liu et al. 2024). Here beside the other way round:

# %% tags=["nbval-check-output"]
longer = lk.quantization.texts(5, characters=1_000)
cache = lk.quantization.cache_damage(lab, longer, bits=(4, 2), progress=False)
whole = cache.table[(cache.table["length_from"] == 1) & (cache.table["length_to"] > 64)]
for _, row in whole.iterrows():
    print(
        f"{row['bits']} bits, {row['bytes_per_token']:.0f} bytes, {row['way']}: "
        f"KL {row['kl']:.4f} ({row['kl_low']:.4f} to {row['kl_high']:.4f})"
    )

# %% [markdown]
# (Bytes are those of a token; the newest tokens stay as they are.) At 4 bits no difference can be seen; at 2 bits the advice holds, even in this small
# model.
#
# **To take away:** the cache can be quantized too, keys by channel, values by token.

# %% [markdown]
# ## What you have seen
# - A weight becomes a code on a grid; groups keep outliers from spoiling everything; "4 bits" take 4.1 to 5, and a model at
#   4 bits is not a quarter of what it was.
# - The damage is measured on text. From 8 to 4 bits it is small, below 4 it grows fast, and the error of the weights does not
#   tell it: GPTQ moves them farther and the predictions less.
# - A few matrices carry most of the damage; a mix spends its bits there.
# - A model that is quantized already makes every comparison of formats worthless.
# - Bits save time only where the product reads packed weights.
# - A model that was trained longer has more to lose. Three values can be lived with, if they are trained with.
#
# Can you say, without looking: why do formats use groups, and what do small ones cost? Why can a format with a smaller error
# of the weights be the worse one? Why was Q5_0 worse than Q4_1 on the default model?
#
# <details><summary>Answers</summary>
#
# Because the largest weight of a group sets the step for all in it; every group stores a scale, and often a zero point.
# Because what counts is the output on the inputs that there are, and there large errors can make up for one another. Because
# its weights lie on Q4_1's grid, and on no other.
# </details>

# %%
lk.progress()

# %% [markdown]
# **To read more:** T. Dettmers et al., *LLM.int8()* (2022) and *QLoRA* (2023), which has NF4; E. Frantar et al., *GPTQ* (2022);
# J. Lin et al., *AWQ* (2023); Z. Liu et al., *KIVI* (2024); S. Ma et al., *The Era of 1-bit LLMs* (2024); R. Zhu et al.,
# *Scalable MatMul-free Language Modeling* (2024); T. Kumar et al., *Scaling Laws for Precision* (2024); X. Ouyang et al.,
# *Low-Bit Quantization Favors Undertrained LLMs* (2024); A. Dutta et al., *Accuracy is Not All You Need* (2024), on measuring
# with KL divergence.
