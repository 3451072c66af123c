# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 10 · Long context: how far a model sees, and what could see for it
#
# [![Open in Colab](attachment:colab.png)]({{COLAB}})
#
# A model was trained on texts of some length. What happens when yours is longer? In this notebook you stretch a model's
# positions, look for a needle in a long text, give the model a window, and build the layers that take attention's place: they
# remember a text in a state that never grows.
#
# ![Loss by position with and without stretched positions](attachment:10_long_context.png)
#
# | | |
# |---|---|
# | **Time** | {{MINUTES}} minutes in {{SECTIONS}} sections, two extra sections take {{EXTRA_MINUTES}} more. Each section can be done alone |
# | **Contains** | {{EXERCISES}}, {{PREDICTIONS}}, {{CLAIMS}} put to the test |
# | **Runs on** | any computer with {{MEMORY}} of free memory; no GPU, no account |
# | **You need** | to read Python and a little PyTorch; what queries, keys and a KV cache are (notebook 02) |
# | **You will be able to** | tell how far a model can read and what that costs, stretch it honestly, and say what a state space keeps of a text |

# %% [markdown]
# ## Set-up
# In Colab the first cell installs labkit, without touching the PyTorch that is there. Elsewhere it only checks. The second
# loads a small model that comes with labkit. Its configuration allows 512 positions, but its training texts had 256, so that four times as
# long is still short enough to measure here.
#
# **Run these two. Then start at any section.**

# %%
# set-up

# %%
import torch

lab = lk.load("labkit-squeeze", dtype="float32", device="cpu")
TRAINED = 256  # tokens of its texts in training
lab

# %% [markdown]
# ## 1 · Angles that were never seen
# *9 minutes · easy · rotary positions, stretched*
#
# Rotary positions (notebook 02) turn each pair of a query's and a key's numbers by an angle: its position times the pair's
# **frequency**. Fast pairs go round every few tokens. Slow ones have not gone round once in the whole training:

# %% tags=["nbval-check-output"]
found = lk.context.frequencies(lab)
turns = TRAINED / found.wavelengths
print(f"{len(turns)} pairs; the fastest goes round every {found.wavelengths[0]:.1f} tokens")
print(f"{int((turns < 1).sum())} of them did not go round once in {TRAINED} tokens")

# %% [markdown]
# What these pairs do at position 600 the model has never seen. One could squeeze the positions instead, so that 1,024 tokens lie
# where 256 lay:

# %%
# exercise: long_context.angles as checked

# %%
if checked.passed:
    stretch = lk.context.scaling("linear", 4, trained=TRAINED)
    four = stretch.frequencies(lab.model.config)
    own = angles(torch.arange(1024).float(), found.values, 4.0)
    library = torch.outer(torch.arange(1024).float(), four.values)
    print("by hand and labkit's agree:", torch.allclose(own, library, atol=1e-4))

# %% [markdown]
# **To take away:** a longer text brings angles of the slow pairs that were never seen. Squeezing brings them back, and squeezes
# the fast ones, too.

# %% [markdown]
# ## 2 · Four times as far
# *15 minutes · medium · one line, and YaRN, put to the test*
#
# An article says that one changed line takes a model to 8,000 tokens without training. Does it help this model beyond its 256?
# The loss in the last quarter of texts of 1,024 tokens, squeezed, against the model as it is:

# %%
helps = lk.predict(
    "long_context.line",
    "Loss beyond position 768, squeezed less plain, in nats",
    low=-1.0,
    high=1.0,
)
helps

# %%
curves = lk.context.loss_by_position(
    lab, kinds=("default", "linear", "yarn"), trained=TRAINED, bins=4, progress=False
)
last = curves.table[curves.table["position_from"] == 768].set_index("kind")
helps.show(round(float(last.loc["linear", "change"]), 2))

# %% [markdown]
# Five documents are few. The same of twenty, measured once; `change` is the difference to the plain model, and **unigram** what a
# model loses that only knows how frequent each token is:

# %% tags=["nbval-check-output"]
twenty = lk.context.recorded("labkit-squeeze", bins=4)
shown = twenty[["kind", "position_from", "loss", "change", "unigram"]]
print(shown.round(2).to_string(index=False))

# %%
lk.views.loss_by_position(twenty)

# %% [markdown]
# Beyond 256 the plain model gets worse, though it has more text to go on. Squeezed it gets worse *everywhere*: the fast pairs,
# which tell neighbours apart, are turned by angles between those they know. (With some training at the new positions it recovers:
# Chen et al. 2023 took a thousand steps.) Another single line, a larger base for all frequencies ("NTK-aware"), squeezes the slow
# pairs more than the fast ones, and helps a little. **YaRN** leaves the fastest pairs alone, stretches the slow ones, and mixes
# between:

# %%
# exercise: long_context.yarn as checked

# %% tags=["nbval-check-output"]
found = lk.context.frequencies(lab)
wide = lk.context.scaling("yarn", 4, trained=TRAINED).frequencies(lab.model.config)
kept = int((wide.values == found.values).sum())
whole = int(torch.isclose(wide.values, found.values / 4).sum())
print(f"{kept} fast pairs are kept, {whole} slow ones divided by 4, the others mixed")
if checked.passed:
    own = yarn(found.values, kept - 1, len(wide.values) - whole, 4.0)
    print("by hand and labkit's agree:", torch.allclose(own, wide.values, atol=1e-5))

# %% [markdown]
# That helps: beyond its 256 tokens the model with YaRN loses less than without, and within them hardly anything changes. Two
# claims, on a model trained to 1,024 tokens and read to 4,096; below 0 is better:

# %%
mixture = lk.context.recorded("labkit-moe").table  # trained to 1,024 positions, read to 4,096
end = mixture[mixture["position_to"] == mixture["position_to"].max()].set_index("kind")

# %% tags=["answer"]
lk.claim("rope-one-line", end.loc["linear", "change"], note="labkit's mixture, last eighth")

# %% tags=["answer"]
lk.claim("yarn-128k", end.loc["yarn", "change"], note="labkit's mixture, last eighth")

# %% [markdown]
# **To take away:** stretching positions works where it leaves alone what the model needs. And a low loss far out does not say
# that the model finds things there: that is section 4.

# %% [markdown]
# ## 3 · No positions at all
# *Extra, 6 minutes · medium · ALiBi by hand*
#
# Others do without angles: they make far keys count less.

# %%
# exercise: long_context.alibi as checked

# %%
if checked.passed:
    own, library = alibi(8, 32), lk.context.alibi_bias(8, 32)
    a, b = (torch.softmax(bias, dim=-1) for bias in (own, library))
    print("by hand and labkit's give the same attention:", torch.allclose(a, b, atol=1e-6))

# %% [markdown]
# **To take away:** ALiBi needs no position: a new distance goes on along the same line. What lies far away fades, whatever it
# says.

# %% [markdown]
# ## 4 · A needle in a long text
# *7 minutes · easy · does it find what was said?*
#
# A low loss says that a model goes on well, and not that it remembers. So put a sentence with a secret word into a long text, ask
# for it at the end, and see whether the model finds it likelier than nine other words. The default model, in texts of up to 384
# of its 8,192 tokens:

# %%
needle = lk.predict("long_context.needle", "Secret words found, of ten", low=0, high=10)
needle

# %%
large = lk.load(dtype="float32", device="cpu")
hidden = lk.context.needles(large, (128, 384), (0.0, 0.5), trials=3, progress=False)
needle.show(round(10 * float(hidden.table["found"].mean()), 1))

# %%
lk.views.needles(hidden)

# %% [markdown]
# With three trials for each place an interval is wide. The small model, which was never taught to answer, does no better than
# chance:

# %% tags=["nbval-check-output"]
blind = lk.context.needles(lab, (96, 192), (0.0, 0.5), trials=5, progress=False)
print(f"the small model finds {blind.table['found'].mean():.0%}, chance is {blind.chance:.0%}")

# %% [markdown]
# **To take away:** retrieval is measured by asking, at every depth and length, beside chance.

# %% [markdown]
# ## 5 · A window, and a place to rest
# *9 minutes · easy · sliding windows and sinks*
#
# What if a token sees only the last hundred? Then the cache stops growing.

# %%
# exercise: long_context.window as checked

# %%
if checked.passed:
    text = "The quick brown fox jumps over the lazy dog, and the dog sleeps on and on."
    with lab.edit(lk.context.windowed(6, sinks=2)):
        seen = lab.trace(text, keep="attention")
    pattern = seen.attention(0, 0) > 0
    print("what the model saw is the window:", torch.equal(pattern, window(len(seen), 6, 2)))

# %% [markdown]
# The default model with a window of 64 tokens and four sinks, on texts of 256, beside a window of 68 without sinks, which keeps
# as many. By how much does the window alone raise its loss?

# %%
costs = lk.predict(
    "long_context.window", "Loss added by a window of 68 tokens, in nats", low=0, high=3
)
costs

# %%
large = lk.load(dtype="float32", device="cpu")
streamed = lk.context.streaming(
    large, window=64, tokens=256, documents=2, draws=200, progress=False
)
rows = streamed.table.set_index("kept")
costs.show(round(float(rows.loc["window", "change"]), 2))

# %% tags=["nbval-check-output"]
for name, row in rows.iterrows():
    print(f"{name:17} loss {row['loss']:.1f}, cache {row['cache_bytes'] / 2**20:5.1f} MiB")

# %% [markdown]
# Far too much for what was lost: the missing tokens matter little, and one thing much. Heads that have nothing to look for put
# their attention on the text's first token (notebook 02), and the window took it away. Kept beside the window, a few first tokens
# give nearly all of it back (Xiao et al. 2024).
#
# **To take away:** a window saves memory. Without the sinks it costs more than a nat here, with them about a tenth.

# %% [markdown]
# ## 6 · A memory of fixed size
# *11 minutes · medium · state spaces*
#
# A cache grows with every token. A **state-space** layer keeps a state of fixed size: at each token it forgets a little, writes
# something in, and reads.

# %%
# exercise: long_context.scan as checked

# %% [markdown]
# In **Mamba** (Gu and Dao 2023) what is forgotten, written and read is computed from the token itself. One layer of it,
# untrained, and the same by your loop:

# %%
if checked.passed:
    torch.manual_seed(0)
    layer = lk.recurrent.Mamba(16, d_state=8)
    x = torch.randn(40, 32)  # 40 tokens, 32 channels
    with torch.no_grad():
        decay, written, read = layer.chosen(x)  # what is written has x in it already
        states = lk.recurrent.cells.scan(decay[None], written[None])[0]
        library = (states @ read[..., None])[..., 0]
    own = scan(torch.ones(40), decay[:, 3], written[:, 3], read)
    print("channel 3, by hand and labkit's:", torch.allclose(own, library[:, 3], atol=1e-6))

# %% [markdown]
# What does a text of 65,536 tokens take, in a model with attention and in one of Mamba of about that size?

# %%
ratio = lk.predict(
    "long_context.state", "Cache of attention over state of Mamba", low=1, high=2000
)
ratio

# %%
cached = {
    name: [lk.memory(name, tokens=n).kv_cache_bytes for n in (1024, 8192, 65536)]
    for name in ("pythia-160m", "mamba-130m", "recurrentgemma-2b", "jamba-v0.1")
}
ratio.show(round(cached["pythia-160m"][2] / cached["mamba-130m"][2]))

# %% tags=["nbval-check-output"]
print("MiB at", *(f"{n:>9,}" for n in (1024, 8192, 65536)), "tokens")
for name, sizes in cached.items():
    print(f"{name:17}", *(f"{size / 2**20:9,.1f}" for size in sizes))

# %% [markdown]
# Mamba's state does not grow at all. RecurrentGemma has a window beside its recurrence; Jamba is a **hybrid**, in which one layer
# of eight is attention: its cache grows an eighth as fast as if all were. (These two are much larger models: compare how they
# grow, and not how much they have.)
#
# **To take away:** a state of fixed size makes every token cost the same. What it can't hold is gone.

# %% [markdown]
# ## 7 · What does it remember?
# *10 minutes · medium · recall, trained live*
#
# Attention can look up anything it has read. A state has to choose. The task that shows it (Arora et al. 2023): read pairs of a
# key and a value, then be asked for the values. Three small models learn it, of attention, of state spaces, and of one layer
# each:

# %%
panel = lk.views.live(
    lambda stop: lk.recurrent.recall_events(steps=150, stop=stop), x="step", y="share recalled"
)
panel

# %% [markdown]
# Now the longer trainings that come with labkit, of several sizes: how much of 16 pairs is recalled, by the bytes that the model
# keeps of the text.

# %%
recalled = lk.predict(
    "long_context.recall",
    "Recalled of 16 pairs by the smallest state",
    unit="%",
    low=0,
    high=100,
)
recalled

# %%
record = lk.recurrent.recorded_recall()
sixteen = record.table[record.table["pairs"] == 16]
means = sixteen.groupby(["kind", "d_model", "state_bytes"])["accuracy"].mean().reset_index()
small = means[means["kind"] == "state space"].sort_values("state_bytes").iloc[0]
recalled.show(round(100 * float(small["accuracy"])))

# %% tags=["nbval-check-output"]
for row in means.sort_values(["kind", "state_bytes"]).itertuples():
    print(f"{row.kind:12} {row.state_bytes:7,} bytes: {row.accuracy:4.0%}")
print(f"naming any of the values that were read: {sixteen['among_read'].iloc[0]:.0%}")

# %%
lk.views.recall(record)

# %% [markdown]
# Attention recalls nearly everything, and at this length with less: 12,672 bytes give 99 %, a state of 10,496 bytes 69 %. But its
# bytes grow with the text, and a state's don't. One layer of attention beside one of state space is enough here.
#
# **To take away:** attention pays for recall with memory that grows, a state space with what it forgets.

# %% [markdown]
# ## 8 · The attention in a state space
# *Extra, 12 minutes · hard · a hidden matrix*
#
# Between the inputs and the outputs of a state-space layer lies a matrix as in attention, though nobody ever writes it out (Ali
# et al. 2024).

# %%
# exercise: long_context.hidden_attention as checked

# %%
if checked.passed:
    torch.manual_seed(0)
    layer = lk.recurrent.Mamba(16, d_state=8)  # as in section 6
    x = torch.randn(40, 32)
    with torch.no_grad():
        decay, written, read = layer.chosen(x)
        states = lk.recurrent.cells.scan(decay[None], written[None])[0]
        output = (states @ read[..., None])[:, 3, 0]
    write = written[:, 3] / x[:, 3:4]
    matrix = hidden_attention(decay[:, 3], write, read)
    same = torch.allclose(matrix @ x[:, 3], output, atol=1e-5)
    print("matrix times inputs is the output:", same)

# %% [markdown]
# So it can be looked at like attention: a small Mamba with random weights, in the view of notebook 02. The view shows magnitudes.
# Nearly all lies on the diagonal, as this model is untrained, and as each input also goes straight past the state.

# %%
from transformers import MambaConfig, MambaForCausalLM

torch.manual_seed(0)
config = MambaConfig(
    vocab_size=len(lab.tokenizer), hidden_size=32, state_size=8, num_hidden_layers=2
)
tiny = lk.Lab(MambaForCausalLM(config).eval(), lab.tokenizer, name="a tiny Mamba")
hidden = lk.recurrent.hidden_attention(tiny, "The cat sat on the mat. The cat sat.", heads=4)
lk.views.attention(hidden.trace)

# %% tags=["nbval-check-output"]
one = hidden[0].weights(0)  # of one channel, with its signs
past = one[torch.ones_like(one).tril(-1) > 0]
print(f"{(past < 0).float().mean():.0%} of its weights on earlier tokens are negative")

# %% [markdown]
# **To take away:** what attention computes openly, a state space does in passing; it can be drawn, and its weights have signs.

# %% [markdown]
# ## What you have seen
# - Slow pairs of rotary positions meet angles beyond the trained length that they never saw.
# - Squeezing all positions alike makes this model worse; a larger base helps a little, YaRN more.
# - A window needs its sinks.
# - A state of fixed size costs the same at every length, and forgets.
#
# Can you say, without looking: why does squeezing hurt short texts, too? Why does a needle test need a chance beside it? What
# does a hybrid keep?
#
# <details><summary>Answers</summary>
#
# The fast pairs, which tell neighbours apart, are turned by angles between those they know. A model that names one of ten words at
# random finds a tenth of the needles. A cache in its few attention layers, and a fixed state in the others.
# </details>

# %%
lk.progress()

# %% [markdown]
# **To read more:** S. Chen et al., *Extending Context Window via Positional Interpolation* (2023); B. Peng et al., *YaRN* (2023);
# O. Press et al., *Train Short, Test Long* (2022); G. Xiao et al., *Efficient Streaming Language Models with Attention Sinks*
# (2024); A. Gu and T. Dao, *Mamba* (2023); S. Arora et al., *Zoology* (2023); A. Ali et al., *The Hidden Attention of Mamba
# Models* (2024).
