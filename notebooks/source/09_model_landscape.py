# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 9 · The model landscape: will it fit, how fast, and what does it read?
#
# [![Open in Colab](attachment:colab.png)]({{COLAB}})
#
# A new model comes out every week. Before you download forty gigabytes you can know a lot: how many numbers it has, whether they
# fit on your machine, how fast it can write at best, and how many tokens your language costs. All of it follows from a
# configuration file and some arithmetic. In this notebook you do that arithmetic, and put what articles say to the test.
#
# ![Bytes of a model against the memory of a card](attachment:09_model_landscape.png)
#
# | | |
# |---|---|
# | **Time** | {{MINUTES}} minutes in {{SECTIONS}} sections, two extra sections and an extra exercise take {{EXTRA_MINUTES}} more. Each section can be done alone |
# | **Contains** | {{EXERCISES}}, {{PREDICTIONS}}, {{CLAIMS}} put to the test |
# | **Runs on** | any computer with {{MEMORY}} of free memory; no GPU, no account |
# | **You need** | to read Python; what a layer, a head and a KV cache are (notebooks 01 and 02) |
# | **You will be able to** | plan a model for a machine, see through a table of hardware requirements, and compare tokenizers |

# %% [markdown]
# ## Set-up
# In Colab the first cell installs labkit, without touching the PyTorch that is there. Elsewhere it only checks. Sections 1 to 6 load
# no model at all: everything is counted from published configurations, which come with labkit.
#
# **Run these two. Then start at any section.**

# %%
# set-up

# %%
import pandas as pd
import torch

GIB = 2**30

# %% [markdown]
# ## 1 · From a configuration to a count
# *9 minutes · easy · what the numbers in a name mean*
#
# "7B" on a model's box is its number of **parameters**, rounded. The exact number follows from a few lines of its configuration:
# how wide the residual stream is (`d_model`), how wide the MLP (`d_ff`), how many layers, heads and tokens.

# %%
# exercise: landscape.parameters as checked

# %% [markdown]
# The same for real models, by labkit from their published configurations, which it builds without memory (on torch's "meta"
# device) and counts:

# %% tags=["nbval-check-output"]
for name in ("smollm2-135m", "llama-2-7b", "llama-2-70b", "mixtral-8x7b", "deepseek-v3"):
    counted = lk.memory(name, tokens=1)
    active = counted.active_parameters / counted.parameters
    print(f"{name:13} {counted.parameters / 1e6:9,.0f} million, for one token {active:4.0%}")
if checked.passed:
    same = (
        parameters(8192, 28672, 80, 64, 8, 32000, False) == lk.memory("llama-2-70b").parameters
    )
    print("LLaMA 2 70B by hand, the same to the last number:", same)

# %% [markdown]
# In a **mixture of experts** (notebook 06) a token passes through a part of the parameters only. All of them have to be in
# memory, as the next token may need others.
#
# **To take away:** size is arithmetic. What a token passes through decides the work, what there is in all decides the memory.

# %% [markdown]
# ## 2 · Does it fit?
# *9 minutes · easy · bytes against the card*
#
# Beside the weights a machine holds the **KV cache** (keys and values of every token of every text) and what the layers are just
# working on. `lk.plan` counts all three for a machine and says what would help. An article says that LLaMA 2 (the 70B) needs four
# A100 cards. Which is it, with the cards of 80 GB, at the 16 bits it was published in, for one text of 4,096 tokens?

# %%
cards = lk.predict(
    "landscape.cards", "A100 cards of 80 GB for LLaMA 2 70B in 16 bits", low=1, high=16
)
cards


# %%
def fewest(model, precision, most=64):
    for n in range(1, most + 1):
        plan = lk.plan(model, hardware=f"{n}xA100-80GB", precision=precision, tokens=4096)
        if plan.fits:
            return n


cards.show(fewest("llama-2-70b", "bfloat16"))

# %%
lk.plan("llama-2-70b", hardware="1xA100-80GB", precision="bfloat16", tokens=4096, batch=8)

# %% [markdown]
# With eight texts at once it would be three cards. The plan names what is short, and the cheapest change that helps. What the
# bits do:

# %%
asked = {"hardware": "1xA100-80GB", "tokens": 4096, "batch": 8}
bits = ("bfloat16", "int8", "int4")
lk.views.footprint([lk.plan("llama-2-70b", precision=each, **asked) for each in bits])

# %% [markdown]
# Here is the article's whole table, what it states beside what is
# counted, at 16, 8 and 4 bits for each weight:

# %% tags=["nbval-check-output"]
matrix = lk.landscape.selection()
print(matrix[["model", "stated", "bits_16", "bits_8", "bits_4"]].to_string(index=False))

# %% tags=["answer"]
lk.claim("matrix-hardware", fewest("llama-2-70b", "bfloat16"), note="A100-80GB, 16 bits")

# %% [markdown]
# **To take away:** "needs four cards" says nothing without the bits, the length and the number of texts.

# %% [markdown]
# ## 3 · How fast can it be?
# *13 minutes · medium · the roofline*
#
# To write one token a machine reads all weights (of a mixture those of the chosen experts) and the caches, and computes with
# them. Whichever takes longer decides.

# %%
# exercise: landscape.step_time as checked

# %% [markdown]
# With one text nearly all the time goes into reading. Several at once share the reading of the weights. From how many on is
# computing the limit, for LLaMA 2 7B in 16 bits on an A100 (2.0 TB/s, 312 million million operations a second)? Leave the caches
# out for now.

# %%
crossing = lk.predict(
    "landscape.crossing", "Texts at once until computing is the limit", low=1, high=1000
)
crossing

# %%
card = lk.landscape.hardware("A100-80GB").device
counted = lk.memory("llama-2-7b", tokens=1024)
work = 2 * (
    counted.parameters - counted.parts["embeddings"]
)  # a multiplication and an addition
texts = counted.weight_bytes / card.bandwidth * card.peak("bfloat16")[0] / work
crossing.show(round(texts))

# %% tags=["nbval-check-output"]
print(f"computing is the limit from {texts:.0f} texts on, without caches")
if checked.passed:
    cache = counted.kv_cache_bytes  # of 1,024 tokens
    for batch in (1, 8, 32, 96):
        rate = card.bandwidth, card.peak("bfloat16")[0]
        bare = step_time(counted.weight_bytes, 0, work, batch, *rate)
        real = step_time(counted.weight_bytes, cache, work, batch, *rate)
        fast = f"{batch / bare:8,.0f} tokens a second, with caches {batch / real:8,.0f}"
        print(f"{batch:5} texts: {fast}")
    reading, computing = 1e3 * cache / rate[0], 1e3 * work / rate[1]
    print(f"each text: {reading:.2f} ms to read its cache, {computing:.2f} ms to compute")

# %% [markdown]
# With caches of 1,024 tokens it never gets there: each text brings its own, none of that reading is shared, and it takes longer
# than the computing for that text. (LLaMA 2 7B has a key and a value for each of its heads; where heads share them, notebook 02,
# caches are smaller.) Below is LLaMA 3.1 8B, whose heads do. The **roofline** shows both limits at once: to the left, where
# little is computed for each byte, the slope is the bandwidth; to the right the roof is the arithmetic.

# %%
plans = [
    lk.plan("llama-3.1-8b", hardware="A100-80GB", tokens=1024, batch=batch)
    for batch in (1, 8, 64)
]
lk.views.roofline(plans)

# %% [markdown]
# On a phone it is the same arithmetic. Phi-3 in 4 bits has to be read once for each token:

# %%
lk.plan("phi-3-mini", hardware="iPhone14Pro-6GB", precision="int4", tokens=1024)

# %% [markdown]
# Round: a token for each text. Square: reading the prompts, where each weight serves all of their tokens. The points lie below
# the line, as programs reach about 60 % of the bandwidth and half of the operations.
#
# **To take away:** one text is bound by bandwidth; more texts share the reading of the weights, until the reading of their caches
# takes over.

# %% [markdown]
# ## 4 · Plan your own
# *5 minutes · easy · the explorer*
#
# Choose a model, a machine, bits, a length and a number of texts. What is the largest model that your own machine could hold in 4
# bits? What changes when the texts get ten times as long?

# %%
lk.views.explorer(
    "qwen3-8b", hardware="RTX4090-24GB", precision="bfloat16", tokens=4096, batch=4
)

# %% [markdown]
# **To take away:** four numbers decide: bytes of weights, bytes of cache, bandwidth, operations.

# %% [markdown]
# ## 5 · What a training takes
# *8 minutes, with the extra exercise 12 · medium · 16 bytes and 6 operations*
#
# A training keeps more than the weights: a gradient for each of them, and what the optimiser remembers.

# %%
# exercise: landscape.training_bytes as checked

# %% [markdown]
# And it computes more: a forward pass takes 2 operations for each parameter and token, and the way back twice as many, 6 in all.
# An article says that four A100 cards train a model of 7 billion parameters in 72 hours. LLaMA 2 was trained on 2,000 billion
# tokens. How many do four cards get through in 72 hours, if they reach 40 % of what they can compute (a good training does)?

# %%
read = lk.predict("landscape.trained", "Billions of tokens in 72 hours", low=0, high=2000)
read

# %%
size = lk.memory("llama-2-7b").parameters
card = lk.landscape.hardware("A100-80GB").device
done = 4 * 0.4 * card.peak("bfloat16")[0] * 72 * 3600
tokens = done / (6 * size)
read.show(round(tokens / 1e9, 1))

# %% tags=["nbval-check-output"]
print(f"{tokens / 1e9:.1f} billion tokens, {tokens / 2e12:.2%} of LLaMA 2's")
if checked.passed:
    for cards, stage in ((4, 0), (4, 1), (4, 3)):
        kept = training_bytes(size, cards, stage) / GIB
        print(f"{cards} cards, stage {stage}: {kept:5.1f} GiB on each, before activations")

# %% [markdown]
# A plan counts the attention, too, and what four cards have to exchange. (`micro` is how many texts are on a card at once.)

# %%
four = lk.landscape.Training(zero=2, micro=2)
step = lk.plan(
    "llama-2-7b", hardware="4xA100-80GB", use="training", tokens=2048, batch=512, training=four
)
step

# %% tags=["answer"]
in_time = step.tokens_per_second * 72 * 3600
lk.claim("seven-b-72h", round(in_time / 1e9, 2), note="billion tokens in 72 hours")

# %% [markdown]
# Another says that Falcon's 180 billion parameters were trained on 256 A100. It could be held there, with each layer divided over
# 8 cards (**tensor parallel**), the stack of layers over 8 more (**pipeline parallel**), and 4 such groups that each take a part
# of the texts (**data parallel**). With **checkpointing** activations are not kept but computed again on the way back:

# %%
falcon = lk.landscape.Training(
    zero=1, tensor=8, pipeline=8, checkpointing=True, dataset_tokens=3.5e12
)
asked = {"use": "training", "tokens": 2048, "batch": 2048, "training": falcon}
lk.plan("falcon-180b", hardware="256xA100-40GB", **asked)

# %% tags=["nbval-check-output"]
for count in (256, 4096):
    found = lk.plan("falcon-180b", hardware=f"{count}xA100-40GB", **asked)
    days = 3.5e12 / found.tokens_per_second / 3600 / 24
    print(f"{count:5} cards: {'fits' if found.fits else 'does not fit'}, {days:,.0f} days")

# %% tags=["answer"]
few = lk.plan("falcon-180b", hardware="256xA100-40GB", **asked)
years = 3.5e12 / few.tokens_per_second / 3600 / 24 / 365
lk.claim("falcon-256", round(years, 1), note="years on 256 cards")

# %% [markdown]
# It fits, and takes five years. Its makers used up to 4,096 cards (Almazrouei et al. 2023).
#
# **To take away:** 16 bytes for each parameter, 6 operations for each parameter and token: training a model is another matter
# than running it.

# %% [markdown]
# ## 6 · What is open?
# *Extra, 6 minutes · easy · weights, data, code, licences*
#
# "Open" may mean that the **weights** can be had, that the **data** they were trained on can be looked at, or that the **code**
# of the training is there. And a licence says what may be done with them. One line each (the licence's own text holds):

# %%
names = (
    "llama-2-7b",
    "falcon-180b",
    "mistral-7b",
    "qwen2.5-7b",
    "phi-3-mini",
    "olmo-2-7b",
    "amber",
)
terms = [lk.licence(name) for name in names]
pd.DataFrame(
    {
        "model": names,
        "weights": [each.weights for each in terms],
        "data": [each.data for each in terms],
        "code": [each.code for each in terms],
        "licence": [each.allows for each in terms],
    }
).style.hide(axis="index").set_properties(**{"text-align": "left"})

# %% [markdown]
# What is open can be checked. "Qwen marks positions with **ALiBi**" (a penalty on distance, notebook 10): that is a question to
# the architecture, and the architecture is here. What rotates uses angles (notebook 02); MPT, which has ALiBi, rotates nothing:

# %% tags=["nbval-check-output"]
qwens = ("qwen-7b", "qwen2.5-7b", "qwen3-8b", "qwen3-next-80b-a3b", "qwen3.5-9b")
rotated = []
for name in (*qwens, "mpt-7b"):
    try:
        pairs = len(lk.context.frequencies(name).values)
        rotated.append(name)
        print(f"{name:18} rotates queries and keys: {pairs} pairs of numbers a head")
    except lk.Unavailable:
        print(f"{name:18} rotates nothing")

# %% tags=["answer"]
lk.claim("qwen-alibi", len([name for name in qwens if name not in rotated]), note="of five")

# %% [markdown]
# And what is not open can't. "A model of 3.8 billion parameters, distilled from one of 175 billion, keeps 85 % of its ability":
# neither that teacher nor the training data of Phi-3 is public, and its report (Abdin et al. 2024) speaks of filtered and
# synthetic data, not of distilling. Nothing here can be computed, and the ledger says so.

# %%
lk.claim("phi3-85")

# %% [markdown]
# **To take away:** open weights let you run a model, open data let you check what is said of it.

# %% [markdown]
# ## 7 · How a text becomes tokens
# *14 minutes · medium · bytes, merges, and what a byte costs*
#
# A model reads no letters, but **tokens**: pieces of text from a list of tens of thousands, made once and fixed ever since. Every
# token stands for a few **bytes** (a byte holds one of 256 values; an English letter is one byte, a Chinese character three).
# Point at one:

# %%
lab = lk.load(dtype="float32", device="cpu")
text = "Tokenization is unfair: 12345678 strawberries, 12 草莓, and a naïve façade."
found = lk.tokens(lab, text)
lk.views.tokens(found)

# %% [markdown]
# How does a word come to be one token and another four? The list began with the 256 bytes. Then the most frequent pair of
# neighbours in a large text was given a token of its own, again and again: **byte-pair encoding** (Sennrich et al. 2016, there of
# letters). To read a new text, the same merges are done in the same order.

# %%
# exercise: landscape.merge as checked

# %% tags=["nbval-check-output"]
steps = lk.tokenization.merges(lab, "interpretability")
if checked.passed:
    number = lab.tokenizer.get_vocab()
    ids = torch.tensor([number[letter] for letter in "interpretability"])
    for row in steps.table[steps.table["step"] > 0].itertuples():
        ids = merge(ids, number[row.left], number[row.right], number[row.made])
    print("by hand:   ", *lab.tokenizer.convert_ids_to_tokens(ids.tolist()))
    print("tokenizer: ", *lab.tokenizer.tokenize("interpretability"))
print(len(steps.table) - 1, "merges; the last made", repr(steps.table["made"].iloc[-1]))

# %% [markdown]
# A model pays for each token with its **loss**, minus the logarithm of the probability it gave. Models with other tokens can't be
# compared by that, but by what a byte costs:

# %%
# exercise: landscape.bits_per_byte as checked

# %% tags=["nbval-check-output"]
print(f"labkit: {found.bits_per_byte:.2f} bits per byte")
if checked.passed:
    priced = found[1:]  # nothing stands before the first token: it has no loss
    losses = torch.tensor([token.loss for token in priced])
    sizes = torch.tensor([len(token.bytes) for token in priced])
    print(f"by hand: {bits_per_byte(losses, sizes):.2f}")

# %% [markdown]
# **To take away:** tokens are what was frequent in somebody's text. Their losses can't be compared between models, bits per byte
# can.

# %% [markdown]
# ## 8 · The language tax
# *8 minutes · easy · the same text in 83 languages*
#
# What do other languages than English pay? The Universal Declaration of Human Rights exists in
# hundreds of languages and says the same in each. How many tokens do its articles take in Hindi, where English takes one?

# %%
tax = lk.predict("landscape.tax", "Tokens in Hindi for one in English", low=1, high=30)
tax

# %%
lab = lk.load(dtype="float32", device="cpu")
table = lk.tokenization.language_tax(lab)
mine = table.table[table["tokenizer"] == lab.name].set_index("language")
plain = table.table[table["tokenizer"] == "bytes"].set_index("language")
tax.show(round(float(mine.loc["Hindi", "relative"]), 1))

# %% tags=["nbval-check-output"]
for language in ("English", "Spanish", "German", "Chinese, simplified", "Arabic", "Hindi"):
    row = mine.loc[language]
    between = f"{row['low']:.1f} to {row['high']:.1f}"
    bare = plain.loc[language, "relative"]
    print(f"{language:20} {row['relative']:5.1f} ({between}), in bytes {bare:.1f}")

# %%
lk.views.languages(table)

# %% [markdown]
# (English is at the end.) The grey rings are plain bytes. Where a language's dot lies to the right of its ring, the list of
# tokens makes it dearer than its script already is. What is paid for in tokens costs that much more, a context holds that much
# less, and a text takes that much longer:

# %%
table.consequences(lab.name, price=1.0, context=8192, tokens_per_second=20).head(5)

# %% [markdown]
# Context and speed are in what English tokens say; attention, which compares each token with each, grows with the square.

# %% tags=["answer"]
others = mine[mine["code"] != "eng"]
lk.claim("language-tax", round(others["relative"].median(), 2), note="the median language")

# %% [markdown]
# **To take away:** a token is no unit of meaning. Count tokens in your own language before you compare prices or contexts.

# %% [markdown]
# ## 9 · Without a list of tokens
# *Extra, 5 minutes · medium · models of bytes*
#
# A model can read plain bytes: no list, no tax but the script's own. The price is length. Three small models learn from the same
# text, each for as many operations as the others: one of single bytes, one of byte pairs (a list of 512), and one that groups
# bytes into **patches**, which begin where the next byte is hard to foresee (the idea of BLT, Pagnoni et al. 2024). Trained for
# longer than a lesson has time for, and measured on documents held out:

# %%
lk.tokenization.recorded_units()

# %% [markdown]
# A **unigram** model knows how frequent each of its units is and nothing else: what it takes is the mark that has to be beaten.
# The same live, for some seconds each:

# %%
live = lk.views.live(
    lambda stop: lk.tokenization.compare_units_events(
        kinds=("bytes", "pairs"), steps=40, stop=stop
    ),
    y="bits per byte",
    x="step",
)
live

# %% [markdown]
# **To take away:** at equal compute byte pairs read more text, and do better here. These small patches don't: their model is
# larger, so it reads less. That says nothing about large ones.

# %% [markdown]
# ## What you have seen
# - Size, memory and speed of a model follow from its configuration.
# - Weights are read once for all texts, a cache for each: batches help until the caches take over.
# - Training takes 16 bytes for each parameter before activations, and 6 operations for each parameter and token.
# - A table of requirements without bits, length and batch is a guess.
# - Tokens are what was frequent in somebody's text; other languages pay for it.
#
# Can you say, without looking: why is a mixture of experts fast, but not small? Why do more texts at once cost little, and when
# no longer? Why can't losses of two models be compared, and what can?
#
# <details><summary>Answers</summary>
#
# A token passes through few of the experts, and all have to be in memory. The weights are read once for all of them, until
# computing, or the reading of all the caches, takes longer. Their tokens differ in length; bits per byte.
# </details>

# %%
lk.progress()

# %% [markdown]
# **To read more:** S. Williams et al., *Roofline* (2009); S. Rajbhandari et al., *ZeRO* (2020); J. Kaplan et al., *Scaling Laws
# for Neural Language Models* (2020); R. Sennrich et al., *Neural Machine Translation of Rare Words with Subword Units* (2016); A.
# Petrov et al., *Language Model Tokenizers Introduce Unfairness Between Languages* (2023); E. Almazrouei et al., *The Falcon
# Series* (2023).
