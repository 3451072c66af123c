# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 1 · First look: a language model on your bench
#
# [![Open in Colab](attachment:colab.png)]({{COLAB}})
#
# A language model does one thing: given some text, it says how probable each possible next piece of text is.
# Everything else, answers, stories, code, comes from asking that question again and again.
# In this notebook you put a real model on the bench, let it talk, and look at what it was unsure about.
#
# ![Text written by the model, each piece underlined by how sure the model was](attachment:01_first_look.png)
#
# | | |
# |---|---|
# | **Time** | 20 minutes |
# | **Runs on** | any computer with 2 GiB of free memory; no GPU, no account; the model (93 MB) is fetched once |
# | **You need** | to read a little Python; nothing about language models |
# | **You will be able to** | load a model, generate text, read its probabilities, say what temperature does, and say what a model needs in memory |

# %% [markdown]
# ## Set-up
# In Colab this cell installs labkit, without touching the PyTorch that is there. Elsewhere it only checks.
#
# Run the cells one after the other (Shift+Enter). Until a cell is run, you see what is left of an earlier run: numbers
# and plain tables. The live pictures come when you run it.

# %%
import importlib.util
import subprocess
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("labkit") is None:
    keep = [f"{name}=={__import__(name).__version__.split('+')[0]}" for name in ("torch", "numpy")]
    command = [sys.executable, "-m", "pip", "install", "-q", *keep, "labkit @ git+{{REPOSITORY}}"]
    subprocess.run(command, check=True)

import labkit as lk

lk.setup()

# %% [markdown]
# ## 1 · Put a model on the bench
# *3 minutes · easy · needed for everything after*
#
# `lk.load()` brings the default model, SmolLM2-135M-Instruct: small enough for a laptop, large enough to answer simple
# questions. The card below says what it is. Two words to know now:
#
# - **parameters** are the numbers the model learned. This one has 135 million; the large ones you have heard of have
#   hundreds of billions.
# - **layers** are the steps a text passes through on its way to a prediction, one after the other.
#
# `dtype="float32"` asks for full precision on any machine, so that the numbers below come out the same on yours. (Left
# out, labkit would use half the bits on a GPU, which is faster.)

# %%
lab = lk.load(dtype="float32")
lab

# %% [markdown]
# The *note* deserves a sentence. Most weights of this copy were rounded to 4 bits before it was published, to make the
# download small. labkit stores them so that nothing more is lost, but they are not the original's. (A notebook on
# rounding weights, *quantization*, is planned.)
#
# **To take away:** a model is a file of numbers and a recipe for using them. `lab.model` and `lab.tokenizer` are plain
# Hugging Face objects, so whatever you know about those still works.

# %% [markdown]
# ## 2 · Let it talk
# *4 minutes · easy*

# %%
gen = lab.generate("Why is the sky blue?", max_new_tokens=60, show=True)

# %% [markdown]
# The answer came piece by piece. The pieces are called **tokens**: the model's alphabet. A token is often a word with
# the space before it, sometimes part of a word. This model knows 49,152 of them.

# %%
print(len(gen.tokens), "tokens:", gen.tokens[:12])

# %% [markdown]
# And this is what the model was really given. Your question was wrapped in a **chat template**, the form in which this
# model saw conversations while it was trained. The model merely continues the text: it stands at "assistant" and writes on.

# %%
print("".join(gen.prompt_tokens))

# %% [markdown]
# With `chat=False` the text goes in as it is, and the model continues it, whatever it is:

# %%
raw = lab.generate("Once upon a time, in a village by the sea,", chat=False, max_new_tokens=24)
print(raw.prompt + raw.text)

# %% [markdown]
# **To take away:** a chat model is a text-continuing model and a convention.

# %% [markdown]
# ## 3 · How sure was it?
# *4 minutes · easy · the most useful picture in this notebook*
#
# At each step the model gave every one of its 49,152 tokens a probability. Below is the same answer; the **thicker** the
# line under a token, the **less sure** the model was of it. Point at a token to see what else it might have said; or click
# into the text and move with the arrow keys.
#
# Some of the numbers beside the bars have names. A **log-probability** is the natural logarithm of a probability (0 is
# certain, −0.7 is one half, −4.6 is one in a hundred); its unit is called *nat*. The **entropy** says how open the choice
# was, all tokens taken together: 0 nats is no choice at all, and the line below translates it into a number of equally
# likely options. The **perplexity** of a text is $e$ to the power of minus its mean log-probability: the text surprised the
# model as much as if each token had been drawn from that many equally likely ones.

# %%
lk.views.tokens(gen)

# %% [markdown]
# Before you read on, guess: how many of the tokens had a probability of more than one half? Half of them? Nearly all?

# %% tags=["nbval-check-output"]
import math

probability = gen.logprobs.exp()  # log-probabilities back to probabilities
print(f"{(probability > 0.5).sum()} of {len(probability)} tokens had a probability above one half")
least = probability.argmin().item()
print(f"least sure of {gen.tokens[least]!r}: {probability[least]:.3f}")
for other in gen.top(5)[least]:
    print(f"   {other.token!r:14} {math.exp(other.logprob):.3f}")

# %% [markdown]
# More than half of them: much of a sentence is decided by what has been said already. Look at where the uncertain tokens
# are. Inside a word or a fixed phrase the model has hardly a choice; at the start of
# a new thought it has many. A model that always takes the most probable token (it is called **greedy** decoding, and it
# is what we have done so far) passes all these forks without a look to the side.
#
# A word of warning: *sure* does not mean *right*. The probability says how well a token fits the texts the model has
# learned from, not whether the sentence is true.
#
# **To take away:** every generated token comes with a probability, and the probabilities show where the text could have
# gone elsewhere.

# %% [markdown]
# ## 4 · Generate by hand
# *4 minutes · medium · worth it, because there is no more to it than this*
#
# `lab.generate` is a loop around one question. Here is the loop, written out. The model returns a score for each token
# of its vocabulary, the **logits**; the **softmax** makes them probabilities:
#
# $$p_i = \frac{e^{z_i}}{\sum_j e^{z_j}}$$

# %%
import torch

ids = list(gen.prompt_ids)
by_hand, logprobs_by_hand = [], []
for _ in range(12):
    with torch.no_grad():
        logits = lab.model(torch.tensor([ids], device=lab.device)).logits[0, -1].float()  # a score for each token
    p = torch.softmax(logits, dim=-1)  # probabilities: positive, adding up to 1
    best = int(p.argmax())  # greedy: take the most probable
    by_hand.append(best)
    logprobs_by_hand.append(p[best].log().item())
    ids.append(best)  # and ask again, with one more token

print("by hand:", lab.tokenizer.decode(by_hand))
print("library:", lab.tokenizer.decode(gen.ids[:12]))

# %% tags=["nbval-check-output"]
difference = (torch.tensor(logprobs_by_hand) - gen.logprobs[:12]).abs().max().item()
print("same tokens:", by_hand == gen.ids[:12])
print("log-probabilities agree to 1e-4:", difference < 1e-4)

# %% [markdown]
# The loop above reads the whole text anew for each token. The library remembers what it has computed (in the *KV
# cache*, which you will meet in section 6), and so is faster. The numbers are the same up to rounding.
#
# **To take away:** generation is: scores, softmax, choose one, append, repeat.

# %% [markdown]
# ## 5 · Temperature
# *5 minutes · medium*
#
# Instead of always taking the best token one can draw one at random, by its probability. **Temperature** $T$ sets how
# adventurous the draw is: the scores are divided by it before the softmax.
#
# $$p_i(T) = \frac{e^{z_i / T}}{\sum_j e^{z_j / T}}$$
#
# Small $T$ exaggerates differences, so the best token nearly always wins; large $T$ flattens them. $T = 1$ takes the
# model at its word, and $T = 0$ is understood as greedy.

# %%
beginning = "He opened the door and saw a"
logits = lab.next_logits(beginning, chat=False)  # scores for the token that comes next
for T in (0.3, 1.0, 2.0):
    p = torch.softmax(logits / T, dim=-1)
    top = p.topk(3)
    shown = [f"{lab.token_text(int(i))!r} {v:.2f}" for v, i in zip(top.values, top.indices, strict=True)]
    print(f"T = {T}: {', '.join(shown)}; the three together {top.values.sum():.2f}")

# %% [markdown]
# Now with your hands on it. Move the slider: the bars are the probabilities of the **next** token at that temperature,
# computed over the whole vocabulary, and below them the model writes on from there, at that temperature. *Another
# sample* draws again.
#
# Guess before you move it: at which temperature does the text stop making sense?

# %%
panel = lk.views.temperature(lab, beginning, chat=False, max_new_tokens=24)
panel

# %% [markdown]
# The same without the slider: three draws at each of three temperatures. Cold draws are much alike; hot ones scatter and
# at last fall apart. A **seed** makes a draw repeatable.

# %%
for T in (0.2, 1.0, 2.0):
    print(f"T = {T}")
    for seed in range(3):
        print("   ", repr(lab.generate(beginning, chat=False, temperature=T, seed=seed, max_new_tokens=14).text))

# %% [markdown]
# **To take away:** temperature changes how a token is *chosen*. The model's own probabilities stay what they were:
# `gen.logprobs` holds the model's, `gen.sampled_logprobs` those after temperature and filters.

# %% tags=["nbval-check-output"]
cold = lab.generate(beginning, chat=False, temperature=0.5, seed=0, max_new_tokens=8)
expected = torch.log_softmax(logits / 0.5, dim=-1)[cold.ids[0]].item()
print("first token, after temperature, as the formula says:", abs(cold.sampled_logprobs[0].item() - expected) < 1e-4)

# %% [markdown]
# ## 6 · What does a model need in memory?
# *4 minutes · easy · the question everyone asks first*
#
# Two things take memory. The **weights**: parameters times bytes for each, 4 bytes in float32, 2 in bfloat16. And the
# **KV cache**, what the model remembers of the text so far: for each token and each layer, what it will need to look back at it (its
# *keys* and *values*; a notebook on attention is planned). It grows with the text.

# %%
lab.memory(tokens=8192)

# %% [markdown]
# By hand: for each token and layer, a key and a value (2), of 64 numbers (the head's size), for each of 3 heads that
# have keys of their own, at 4 bytes.

# %% tags=["nbval-check-output"]
c = lab.config
per_token = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4
print("bytes of cache for a token:", per_token, "as labkit says:", per_token == lab.memory().kv_bytes_per_token)
weights = 4 * lab.model.num_parameters()
print("bytes of the weights:", weights, "as labkit says:", weights == lab.memory().weight_bytes)

# %% [markdown]
# `lk.memory` knows this of other models too, without fetching them: it builds their architecture from the published
# configuration without giving it any storage, and counts. The dashed line is the memory that is free on your machine.

# %%
names = ["llama-3.2-1b", "phi-3-mini", "mistral-7b", "llama-2-13b", "mixtral-8x7b"]
sizes = [lk.memory(name, tokens=4096, dtype="bfloat16") for name in names]
lk.views.memory(sizes, free_bytes=lk.free_bytes())

# %% [markdown]
# Mixtral is an odd one: it has many *experts*, of which each token uses only two, and still all of them have to be in
# memory. (A notebook on that is planned.)

# %% tags=["nbval-check-output"]
mixtral = lk.memory("mixtral-8x7b")
print(
    f"{mixtral.parameters / 1e9:.1f} billion parameters, {mixtral.active_parameters / 1e9:.1f} of them used for a token"
)

# %% [markdown]
# The same models with their weights at 4 bits, the cache as before. What that costs in quality is another matter.

# %%
for name in names:
    half, quarter = (lk.memory(name, tokens=4096, dtype=dtype).total_bytes / 2**30 for dtype in ("bfloat16", "int4"))
    print(f"{name:13} {half:7.1f} GiB in bfloat16 {quarter:7.1f} GiB with 4-bit weights")

# %% [markdown]
# **To take away:** weights are parameters times bytes; the cache grows with every token; both can be known before
# anything is downloaded.

# %% [markdown]
# ## Try it yourself
# No solutions here: change a cell and see.
#
# 1. Ask a question the model can't know the answer to (`"What did I have for breakfast?"`) and look at it with
#    `lk.views.tokens`. Does it *look* less sure?
# 2. Give `lab.generate` a list of two questions. What comes back?
# 3. Generate with `top_k=1` and `temperature=2.0`. Why is it the same as greedy?
# 4. What does a text of 100,000 tokens cost? Try `lk.memory(name, tokens=100_000)` with two of the models above, and read
#    the notes below the table: not every model was made for such a text, and some forget all but its last part.

# %% [markdown]
# ## What you have seen
# - A model continues text, one token at a time, from a probability for each token of its vocabulary.
# - Each generated token has a probability, and the picture of them shows where the text could have gone elsewhere.
# - Temperature divides the scores before the softmax; it changes the choice, not the model.
# - Weights take parameters × bytes; the KV cache grows with the text.
#
# **To read more:** A. Holtzman et al., *The Curious Case of Neural Text Degeneration* (2020), on choosing tokens;
# L. Ben Allal et al., *SmolLM2: When Smol Goes Big* (2025), on the model you used; A. Vaswani et al., *Attention Is All
# You Need* (2017), on what happens inside, which is the subject of the next notebook of the series (planned).
#
# Done? `lab.close()` gives the memory back. (It is not in a cell, so that the slider stays alive after *Run All*.)
