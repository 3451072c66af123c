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
# | **Time** | {{MINUTES}} minutes, in {{SECTIONS}} sections; about {{EXERCISE_MINUTES}} of them for the exercises |
# | **Contains** | {{EXERCISES}}, {{PREDICTIONS}} |
# | **Runs on** | any computer with {{MEMORY}} of free memory; no GPU, no account; the model (93 MB) is fetched once |
# | **You need** | to read a little Python; nothing about language models |
# | **You will be able to** | load a model, generate text, read its probabilities, say what temperature and top-p do, and say what a model needs in memory |

# %% [markdown]
# ## Set-up
# In Colab the first cell installs labkit, without touching the PyTorch that is there. Elsewhere it only checks. The second
# puts the model on the bench. **Run these two, then any section.**
#
# Run the cells of a section one after the other (Shift+Enter). Until a cell is run, you see what is left of an earlier
# run: numbers and plain tables. The live pictures come when you run it. Two kinds of cells want something from you:
#
# - A **prediction** asks what will come out. Lock your guess before you run the next cell; the result is then shown beside
#   it. With *Run All* no guess is made, and that is said.
# - An **exercise** asks for a few lines of code in place of a `...`, and a check says at once whether they are right, or
#   what is wrong with them. An exercise left unsolved stops nothing.

# %%
# set-up

# %%
lab = lk.load(dtype="float32")

# %% [markdown]
# ## 1 · Put a model on the bench
# *2 minutes · easy · needed for everything after*
#
# `lk.load()`, which you have just run, brings the default model, SmolLM2-135M-Instruct: small enough for a laptop, large
# enough to answer simple questions. The card below says what it is. Two words to know now:
#
# - **parameters** are the numbers the model learned. This one has 135 million; the large ones you have heard of have
#   hundreds of billions.
# - **layers** are the steps a text passes through on its way to a prediction, one after the other.

# %%
lab

# %% [markdown]
# `dtype="float32"` asked for full precision on any machine, so that the numbers below come out the same on yours. (Left
# out, labkit would use half the bits on a GPU, which is faster.)
#
# The *note* deserves a sentence. Most weights of this copy were rounded to 4 bits before it was published, to make the
# download small. labkit stores them so that nothing more is lost, but they are not the original's. (What rounding costs is the
# subject of notebook [04_quantization](04_quantization.ipynb).)
#
# **To take away:** a model is a file of numbers and a recipe for using them. `lab.model` and `lab.tokenizer` are plain
# Hugging Face objects, so whatever you know about those still works.

# %% [markdown]
# ## 2 · Let it talk
# *3 minutes · easy*

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
# *10 minutes · easy · the most useful picture in this notebook*
#
# At each step the model gave every one of its 49,152 tokens a probability, and the most probable one was taken. Always
# taking the most probable token is called **greedy** decoding, and it is what we have done so far.
#
# Some tokens of the answer must have been nearly certain, others one of many that would have done. Before you see the
# numbers: what do you think?

# %%
sure = lk.predict(
    "first_look.sure",
    "Of the 60 tokens of the answer, what share had a probability of more than one half?",
    unit="%",
    low=0,
    high=100,
)
sure

# %% [markdown]
# Locked? Then run on. The first line makes the answer again: greedy decoding gives the same text each time.

# %% tags=["nbval-check-output"]
import math

import torch

gen = lab.generate("Why is the sky blue?", max_new_tokens=60)
probability = gen.logprobs.exp()  # log-probabilities back to probabilities
above = (probability > 0.5).sum().item()
print(f"{above} of {len(probability)} tokens had a probability above one half")
least = probability.argmin().item()
print(f"least sure of {gen.tokens[least]!r}: {probability[least]:.3f}")
for other in gen.top(5)[least]:
    print(f"   {other.token!r:14} {math.exp(other.logprob):.3f}")

# %%
sure.show(100 * above / len(probability))

# %% [markdown]
# Below is the same answer; the **thicker** the line under a token, the **less sure** the model was of it. Point at a token
# to see what else it might have said; or click into the text and move with the arrow keys.
#
# Some of the numbers beside the bars have names. A **log-probability** is the natural logarithm of a probability (0 is
# certain, −0.7 is one half, −4.6 is one in a hundred); its unit is called *nat*. The **entropy** says how open the choice
# was, all tokens taken together: 0 nats is no choice at all, and the line below translates it into a number of equally
# likely options. The **perplexity** of a text is $e$ to the power of minus its mean log-probability: the text surprised the
# model as much as if each token had been drawn from that many equally likely ones.

# %%
lk.views.tokens(gen)

# %% [markdown]
# Much of a sentence is decided by what has been said already. Look at where the uncertain tokens are. Inside a word or a
# fixed phrase the model has hardly a choice; at the start of a new thought it has many. Greedy decoding passes all these
# forks without a look to the side.
#
# One warning: *sure* does not mean *right*. The probability says how well a token fits the texts the model has
# learned from, not whether the sentence is true.
#
# Log-probabilities and perplexity are two lines of code, and everything that measures language models is built on them.
# Write those two lines:

# %%
# exercise: first_look.surprise as checked

# %% tags=["nbval-check-output"]
print(f"perplexity of the answer: {math.exp(-gen.logprobs.mean()):.2f}")
if checked.passed:
    print(f"by your function:         {float(surprise(gen.logprobs.exp())[1]):.2f}")

# %% [markdown]
# That is the perplexity in the picture's head too. It is low because the model judges a text of its own: the most probable
# tokens, one after the other. A text by somebody else surprises it more (*Try it yourself*, at the end).
#
# **To take away:** every generated token comes with a probability, and the probabilities show where the text could have
# gone elsewhere.

# %% [markdown]
# ## 4 · Generate by hand
# *3 minutes · medium · worth it, because there is no more to it than this*
#
# `lab.generate` is a loop around one question. Here is the loop, written out. The model returns a score for each token
# of its vocabulary, the **logits**; the **softmax** makes them probabilities:
#
# $$p_i = \frac{e^{z_i}}{\sum_j e^{z_j}}$$

# %%
import torch

library = lab.generate("Why is the sky blue?", max_new_tokens=12)
ids = list(library.prompt_ids)
by_hand, logprobs_by_hand = [], []
for _ in range(12):
    with torch.no_grad():  # a score for each token of the vocabulary
        logits = lab.model(torch.tensor([ids], device=lab.device)).logits[0, -1].float()
    p = torch.softmax(logits, dim=-1)  # probabilities: positive, adding up to 1
    best = int(p.argmax())  # greedy: take the most probable
    by_hand.append(best)
    logprobs_by_hand.append(p[best].log().item())
    ids.append(best)  # and ask again, with one more token

print("by hand:", lab.tokenizer.decode(by_hand))
print("library:", library.text)

# %% tags=["nbval-check-output"]
difference = (torch.tensor(logprobs_by_hand) - library.logprobs).abs().max().item()
print("same tokens:", by_hand == library.ids)
print("log-probabilities agree to 1e-4:", difference < 1e-4)

# %% [markdown]
# The loop above reads the whole text anew for each token. The library remembers what it has computed (in the *KV
# cache*, which you will meet in section 7), and so is faster. The numbers are the same up to rounding.
#
# **To take away:** generation is: scores, softmax, choose one, append, repeat.

# %% [markdown]
# ## 5 · Temperature
# *11 minutes · medium*
#
# Instead of always taking the best token one can draw one at random, by its probability. **Temperature** $T$ sets how
# adventurous the draw is: the scores are divided by it before the softmax.
#
# $$p_i(T) = \frac{e^{z_i / T}}{\sum_j e^{z_j / T}}$$
#
# Small $T$ exaggerates differences, so the best token nearly always wins; large $T$ flattens them. $T = 1$ takes the
# model at its word, and $T = 0$ is understood as greedy.
#
# Take a beginning with many ways to go on. At temperature 1 these are the model's favourites:

# %% tags=["nbval-check-output"]
import torch

beginning = "He opened the door and saw a"
logits = lab.next_logits(beginning, chat=False)  # scores for the token that comes next
top = torch.softmax(logits, dim=-1).topk(5)
for share, token in zip(top.values, top.indices, strict=True):
    print(f"{lab.token_text(int(token))!r:10} {share:.3f}")

# %% [markdown]
# The formula for any temperature is a function of a few lines, and it is yours to write:

# %%
# exercise: first_look.temperature_softmax as checked

# %% tags=["nbval-check-output"]
by_torch = torch.softmax(logits / 0.7, dim=-1)
print(f"the best token at temperature 0.7, by torch: {by_torch.max():.4f}")
if checked.passed:
    yours = temperature_softmax(logits, 0.7)
    print(f"by your function:                            {yours.max():.4f}")
    print("all 49,152 agree to 1e-5:", (yours - by_torch).abs().max().item() < 1e-5)

# %% [markdown]
# The most probable token has a share of 0.144 at temperature 1. How does that share move with the temperature? Sketch it:
# draw across the chart, or move each point with the arrow keys.

# %%
temperatures = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2)
peak = lk.predict(
    "first_look.peak",
    "The most probable next token has a probability of 0.144 at temperature 1. "
    "And at the others?",
    "curve",
    x=temperatures,
    x_label="temperature",
    y_label="probability of the most probable token",
)
peak

# %% tags=["nbval-check-output"]
curve = [torch.softmax(logits / T, dim=-1).max().item() for T in temperatures]
for T, share in zip(temperatures, curve, strict=True):
    print(f"T = {T:<4} {share:.3f}")

# %%
peak.show(curve)

# %% [markdown]
# Towards 0 all of it goes to the best token. At temperature 2 the best token has hardly more than one in a hundred, although
# it is still the best: temperature changes the shares, never the order.
#
# What does that do to a text? Call a token **stray** when the model itself, at temperature 1, gave it less than 1 %. Now and
# then a stray token is a good idea; where most of them are, nothing holds together any more.

# %%
apart = lk.predict(
    "first_look.apart",
    "From which temperature on does the text fall apart: half of its tokens or more are stray?",
    "choice",
    choices=("from 0.5 on", "from 1 on", "from 1.5 on", "from 2 on", "at none of them"),
)
apart

# %% [markdown]
# Locked? Then put your hands on it. Move the slider: the bars are the probabilities of the **next** token at that
# temperature, computed over the whole vocabulary, and below them the model writes on from there, at that temperature.
# *Another sample* draws again; *Stop* ends a sample early and keeps what is there.

# %%
panel = lk.views.temperature(lab, beginning, chat=False, max_new_tokens=24)
panel

# %% [markdown]
# And counted, over four draws at each of four temperatures. (Three of the four are printed.) A list of beginnings gives as many
# texts at once; the **seed** makes the draws repeatable.

# %%
stray = {}
for T in (0.5, 1, 1.5, 2):
    draws = lab.generate([beginning] * 4, chat=False, temperature=T, seed=0, max_new_tokens=20)
    stray[T] = (torch.cat([draw.logprobs for draw in draws]).exp() < 0.01).float().mean().item()
    print(f"T = {T}: {stray[T]:.0%} of the tokens are stray")
    for draw in draws[:3]:
        print("   ", repr(draw.text[:90]))

# %%
first = next((f"from {T:g} on" for T in stray if stray[T] >= 0.5), "at none of them")
apart.show(first)

# %% [markdown]
# The fall is steep: a stray token becomes part of the text, and what is to follow it has to make sense of it.
#
# **To take away:** temperature changes how a token is *chosen*. The model's own probabilities stay what they were:
# `gen.logprobs` holds the model's, `gen.sampled_logprobs` those after temperature and filters.

# %% tags=["nbval-check-output"]
cold = lab.generate(beginning, chat=False, temperature=0.5, seed=0, max_new_tokens=8)
expected = torch.log_softmax(logits / 0.5, dim=-1)[cold.ids[0]].item()
difference = abs(cold.sampled_logprobs[0].item() - expected)
print("first token, after temperature, as the formula says, to 1e-4:", difference < 1e-4)

# %% [markdown]
# ## 6 · Cutting off the tail: top-p
# *10 minutes · medium*
#
# Where do stray tokens come from, when each of them is so improbable? There are very many of them:

# %% tags=["nbval-check-output"]
import torch

beginning = "He opened the door and saw a"
p = torch.softmax(lab.next_logits(beginning, chat=False), dim=-1)
tail = p < 0.01
print(f"{tail.sum():,} of {len(p):,} tokens have less than 1 % each")
print(f"together they have {p[tail].sum():.0%}")

# %% [markdown]
# So even at temperature 1, half of the draws come from this tail. **Top-p** (also called nucleus sampling) cuts it off: of
# the most probable tokens it keeps only as many as are needed for their probabilities to add up to $p$, say 0.9, and draws
# from those. Which tokens stay?

# %%
# exercise: first_look.top_p as checked

# %% [markdown]
# How many stay depends on how sure the model is. Here they are counted with the function that Hugging Face's own `generate`
# uses, and with yours:

# %% tags=["nbval-check-output"]
from transformers import TopPLogitsWarper

for text in ("Monday, Tuesday, Wednesday,", beginning):
    logits = lab.next_logits(text, chat=False)
    # the tokens that don't stay get minus infinity
    stays = TopPLogitsWarper(0.9)(None, logits[None])[0].isfinite()
    print(f"after {text!r} {stays.sum()} of {len(stays):,} tokens stay")
    if checked.passed:
        yours = top_p(torch.softmax(logits, dim=-1), 0.9)
        print("    the same with your function:", torch.equal(yours, stays))

# %% [markdown]
# And what it does to a text, at temperature 1:

# %%
for cut in (None, 0.9, 0.5):
    draws = lab.generate(
        [beginning] * 4, chat=False, temperature=1.0, top_p=cut, seed=0, max_new_tokens=20
    )
    share = (torch.cat([draw.logprobs for draw in draws]).exp() < 0.01).float().mean().item()
    print(f"top_p = {cut}: {share:.0%} of the tokens are stray")
    for draw in draws[:2]:
        print("   ", repr(draw.text))

# %% [markdown]
# Cutting at 0.9 changes little here: where so much is open, hundreds of tokens stay, and stray ones among them. At 0.5 the
# stray tokens are gone, and so is much of the variety: the usual trade-off.
#
# **To take away:** the many improbable tokens weigh much together. Top-p keeps few tokens where the model is sure and many
# where it is not, which a fixed number of best tokens (`top_k`) can't do.

# %% [markdown]
# ## 7 · What does a model need in memory?
# *6 minutes · easy · the question everyone asks first*
#
# Two things take memory. The **weights**: parameters times bytes for each, 4 bytes in float32, 2 in bfloat16. And the
# **KV cache**, what the model remembers of the text so far: for each token and each layer, what it will need to look back at it
# (its *keys* and *values*, explained in notebook [02_attention](02_attention.ipynb)). It grows with the text.

# %%
lab.memory(tokens=8192)

# %% [markdown]
# By hand: for each token and layer, a key and a value (2), of 64 numbers (the head's size), for each of 3 heads that
# have keys of their own, at 4 bytes.

# %% tags=["nbval-check-output"]
c = lab.config
per_token = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4
weights = 4 * lab.model.num_parameters()
said = lab.memory()
same = per_token == said.kv_bytes_per_token
print("bytes of cache for a token:", per_token, "as labkit says:", same)
print("bytes of the weights:", weights, "as labkit says:", weights == said.weight_bytes)

# %% [markdown]
# `lk.memory` knows this of other models too, without fetching them: it builds their architecture from the published
# configuration without giving it any storage, and counts. The dashed line is the memory that is free on your machine.

# %%
names = ["llama-3.2-1b", "phi-3-mini", "mistral-7b", "llama-2-13b", "mixtral-8x7b"]
sizes = [lk.memory(name, tokens=4096, dtype="bfloat16") for name in names]
lk.views.memory(sizes, free_bytes=lk.free_bytes())

# %% [markdown]
# Mixtral is different: it has many *experts*, of which each token uses only two, and still all of them have to be in
# memory. (Notebook [06_moe_routing](06_moe_routing.ipynb) is about such models.)

# %% tags=["nbval-check-output"]
mixtral = lk.memory("mixtral-8x7b")
print(f"{mixtral.parameters / 1e9:.1f} billion parameters")
print(f"{mixtral.active_parameters / 1e9:.1f} billion of them active on a token")

# %% [markdown]
# How many bits a weight has is a choice: 32, 16, lately 8 or 4. How many bytes is that, for any number of bits?

# %%
# exercise: first_look.weights_bytes as checked

# %% [markdown]
# The same models with their weights at 4 bits, the cache as before. What that costs in quality is another matter
# (notebook [04_quantization](04_quantization.ipynb)).

# %%
for name in names:
    half = lk.memory(name, tokens=4096, dtype="bfloat16").total_bytes / 2**30
    quarter = lk.memory(name, tokens=4096, dtype="int4").total_bytes / 2**30
    print(f"{name:13} {half:7.1f} GiB in bfloat16 {quarter:7.1f} GiB with 4-bit weights")
if checked.passed:
    counted = {name: lk.memory(name, dtype="int4") for name in names}
    same = all(weights_bytes(m.parameters, 4) == m.weight_bytes for m in counted.values())
    print("bytes of the 4-bit weights by your function, as labkit says:", same)

# %% [markdown]
# **To take away:** weights are parameters times bytes; the cache grows with every token; both can be known before
# anything is downloaded.

# %% [markdown]
# ## Try it yourself
# Open questions, without a check and without a solution: change a cell and see.
#
# 1. Ask a question the model can't know the answer to (`"What did I have for breakfast?"`) and look at it with
#    `lk.views.tokens`. Does it *look* less sure?
# 2. Which text surprises the model? `lab.trace("some text").loss[1:].mean()` is the mean surprise of a token, in nats (the first
#    token has nothing before it). Compare a sentence of yours with the same words in another order.
# 3. Generate with `top_k=1` and `temperature=2.0`. Why is it the same as greedy?
# 4. What does a text of 100,000 tokens cost? Try `lk.memory(name, tokens=100_000)` with two of the models above, and read
#    the notes below the table: not every model was made for such a text, and some forget all but its last part.

# %% [markdown]
# ## What you have seen
# - A model continues text, one token at a time, from a probability for each token of its vocabulary.
# - Each generated token has a probability, and the picture of them shows where the text could have gone elsewhere.
# - Temperature divides the scores before the softmax; it changes the choice, not the model.
# - The many improbable tokens weigh much together; top-p cuts them off.
# - Weights take parameters × bytes; the KV cache grows with the text.
#
# **To read more:** A. Holtzman et al., *The Curious Case of Neural Text Degeneration* (2020), on choosing tokens, and the
# source of top-p; L. Ben Allal et al., *SmolLM2: When Smol Goes Big* (2025), on the model you used; A. Vaswani et al., *Attention Is All
# You Need* (2017), on what happens inside, which is the subject of the next notebook, [02_attention](02_attention.ipynb).
#
# Done? `lab.close()` gives the memory back. (It is not in a cell, so that the slider stays alive after *Run All*.)
