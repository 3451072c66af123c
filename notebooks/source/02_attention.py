# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 2 · Attention: where a token looks
#
# [![Open in Colab](attachment:colab.png)]({{COLAB}})
#
# A language model reads a text as a row of tokens. Attention is the only place in it where one token can learn anything
# from another. In this notebook you look at all the attention of a real model, find the part of it that copies, take that
# part out and see copying break.
#
# ![The attention of one head, found below: from the second half on, each token looks at what came after its last occurrence](attachment:02_attention.png)
#
# | | |
# |---|---|
# | **Time** | {{MINUTES}} minutes in all, in {{SECTIONS}} sections; each can be done alone. Two harder exercises are extra and take {{EXTRA_MINUTES}} more |
# | **Contains** | {{EXERCISES}}, {{PREDICTIONS}}, {{CLAIMS}} from articles put to the test |
# | **Runs on** | any computer with {{MEMORY}} of free memory; no GPU, no account; the model (93 MB) is fetched once |
# | **You need** | to read Python and a little PyTorch (a tensor, its shape, `@` for a matrix product) |
# | **You will be able to** | say what a head does, find one that copies in a model you have never seen, and say what grouped heads save |

# %% [markdown]
# ## Set-up
# In Colab the first cell installs labkit, without touching the PyTorch that is there. Elsewhere it only checks. The second
# puts the model on the bench, in full precision and on the processor, so that your numbers are those below.
#
# **Run these two. Then start at any section.**

# %%
# set-up

# %%
import torch

lab = lk.load(dtype="float32", device="cpu")

# %% [markdown]
# ## 1 · One head by hand
# *13 minutes · medium · everything else builds on it*
#
# A model is a stack of layers. What travels through it, for each token, is a list of numbers: 576 of them in this model.
# In each layer several **attention heads** let tokens look at one another. For a head, each token makes three short lists
# of 64 numbers out of its own:
#
# - a **query**: what am I looking for?
# - a **key**: what do I have to offer?
# - a **value**: what do I hand over to whoever looks at me?
#
# Where one token's query points the same way as another's key, their dot product (number by number, multiplied and added
# up) is large, and the one looks hard at the other. Stacked as rows, all queries are $Q$, all keys $K$, all values $V$. In
# symbols, with $d = 64$:
#
# $$\text{output} = \text{softmax}\!\left(\frac{Q K^\top}{\sqrt d}\right) V$$
#
# Row $i$ of $QK^\top$ holds token $i$'s query times everybody's key. Dividing by $\sqrt d$ keeps these products from growing
# with $d$. The softmax ($e^x$ of each, divided by their sum) turns the row into weights that are positive and add up to 1;
# the output is the mean of the values, weighted so.
#
# Let us see one. A **trace** is one pass of a text through the model, with what you ask for kept.

# %%
text = "The cat sat on the mat because it was tired"
trace = lab.trace(text, keep=("attention", "values", "head_output"))
lk.views.attention(trace, layer=16, head=0)

# %% [markdown]
# Each row is a token; the shade says how much it looks at each token up to itself (on a square-root scale, so that small
# weights can be seen). Point at a cell and the line below it gives the weight exactly. (Layers and heads are counted from 0. The map on the left shows all 270 heads; we come to it in
# section 2.)
#
# This head does one simple thing. Look along the row of any word, say *mat*, before you read on: where is the strongest
# cell?
#
# From the second token on it is one to the left of the diagonal: head 0 of layer 16 looks at **the token before**. Nobody
# designed it so; training did.
#
# Now by hand. The trace has this head's queries, keys and values:

# %%
query = trace.queries(16, 0)  # (T, 64): layer 16, head 0
key = trace.keys(16, 0)
value = trace.values(16, 0)
T, d = query.shape

scores = query @ key.T / d**0.5  # (T, T): row i is what token i makes of every token
allowed = torch.ones(T, T, dtype=torch.bool).tril()  # token i may look at itself and back
weights = torch.softmax(scores.masked_fill(~allowed, float("-inf")), dim=-1)
output = weights @ value  # (T, 64): for each token a mean of values

sums = weights.sum(-1)
print(f"{T} tokens, {d} numbers each; every row of weights adds up to {sums.min():.4f}")

# %% tags=["nbval-check-output"]
apart = (weights - trace.attention(16, 0)).abs().max()
print("weights agree with the model's to 1e-5:", bool(apart < 1e-5))
apart = (output - trace.head_output(16, 0)).abs().max()
print("outputs agree with the model's to 1e-5:", bool(apart < 1e-5))
attend = torch.nn.functional.scaled_dot_product_attention
torchs = attend(query[None], key[None], value[None], is_causal=True)[0]
print("and with torch's own attention:        ", bool((output - torchs).abs().max() < 1e-5))

# %% [markdown]
# Four lines, and they are what every model of this kind computes. The line with `allowed` is the **causal mask**. A model
# learns by guessing each token of a text from those before it, at all places at once; without the mask it could simply
# look at the answer.
#
# Your turn, without looking up. `lk.exercise` shows a card with hints, `lk.check` says at once whether an answer is right.

# %%
# exercise: attention.causal_mask

# %%
# exercise: attention.attention_head

# %% [markdown]
# **To take away:** a head compares each token's query with the keys of the tokens so far, turns the products into weights
# that add up to 1, and takes the mean of the values with them.

# %% [markdown]
# ## 2 · All heads at once
# *8 minutes · easy · the map you will use for the rest*
#
# This model has 30 layers of 9 heads. The heads of a layer work side by side: each reads all 576 numbers of a token and makes
# 64 new ones; the nine outputs are laid next to each other and mixed by one more matrix, the *output projection*. What comes out is
# **added** to what the token carried before; that running sum is called the **residual stream**. Here are all heads of a layer at once, from scratch, beside torch's own
# `MultiheadAttention`:


# %%
def multi_head_attention(x, W_query, W_key, W_value, W_output, heads):
    """x: (T, d_model); each W: (d_model, d_model). Causal. Returns (T, d_model)."""
    T, d_model = x.shape
    split = lambda y: y.view(T, heads, d_model // heads).transpose(0, 1)  # (heads, T, d_head)
    query, key, value = split(x @ W_query.T), split(x @ W_key.T), split(x @ W_value.T)
    scores = query @ key.transpose(-1, -2) / (d_model // heads) ** 0.5
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    weights = torch.softmax(scores.masked_fill(~allowed, float("-inf")), dim=-1)
    together = (weights @ value).transpose(0, 1).reshape(T, d_model)  # the heads side by side
    return together @ W_output.T


torch.manual_seed(0)
theirs = torch.nn.MultiheadAttention(64, num_heads=4, bias=False, batch_first=True)
x = torch.randn(1, 10, 64)
with torch.no_grad():
    matrices = (*theirs.in_proj_weight.chunk(3), theirs.out_proj.weight)
    ours = multi_head_attention(x[0], *matrices, heads=4)
    torchs = theirs(x, x, x, attn_mask=torch.ones(10, 10).triu(1).bool())[0][0]

# %% tags=["nbval-check-output"]
apart = (ours - torchs).abs().max()
print("the same as torch's MultiheadAttention to 1e-5:", bool(apart < 1e-5))

# %% [markdown]
# The last step on the model itself: its nine heads' outputs, side by side, times its own output projection, are what the
# layer's attention adds to each token.

# %%
text = "The cat sat on the mat because it was tired"
trace = lab.trace(text, keep=("attention", "head_output", "attention_output"))
together = trace.head_output(16).transpose(0, 1)  # (heads, T, 64) -> (T, heads, 64)
together = together.reshape(len(trace), -1)  # -> (T, 576)
with torch.no_grad():
    mixed = together @ lab.model.model.layers[16].self_attn.o_proj.weight.T

# %% tags=["nbval-check-output"]
apart = (mixed - trace.attention_output(16)).abs().max()
print("the same as the layer's own to 1e-5:", bool(apart < 1e-5))

# %% [markdown]
# Now look at all 270 of them. Before you do, a guess. In this sentence the first token is *The*, which says next to
# nothing. If every token looked evenly at all it may see, *The* would get about 18 % of the attention. How much does it really
# get, on average over all heads? (The first two tokens have little choice; here and below we count from the third.)

# %%
question = "Share of the attention that rests on the first token"
sink = lk.predict("attention.sink", question, unit="%", low=0, high=100)
sink

# %%
measures = lk.attention.measures(trace)  # a row for each of the 270 heads
sink.show(100 * measures["first"].mean())

# %% tags=["nbval-check-output"]
first, even = measures["first"], measures.uniform["first"]
print(f"on the first token: {first.mean():.2f} of the attention; evenly it would be {even:.2f}")
print(f"heads that give it more than half: {(first > 0.5).sum()} of {len(measures)}")

# %% [markdown]
# More than half of all attention goes to a token that says nothing. The weights of a row must add up to 1; a head that
# finds nothing to do has to put them somewhere, and training has settled on the first token, above all from layer 12 on. It
# is called an **attention sink**. It also means that a picture of attention is not simply a picture of what matters.
#
# In the map below the bars say how much each head gives to the first token; shown is head 8 of layer 18, which gives it
# nearly all. Tick *Set the first token aside*: the rest of each row is scaled to 100 %, and you see what the heads do besides.
# (In layers 3 to 10 a second line stays, at token 4, *the*: in this sentence the model has a second resting place there.)
# The arrow keys move through the map, Enter opens a head, Escape leads back; in the text, point at a word to see where it
# looks.

# %%
lk.views.attention(trace, layer=18, head=8, measure="first")

# %% [markdown]
# **To take away:** a layer's heads work side by side, and their outputs are added to each token's residual stream. Most of their
# attention rests on the first token, for want of anything better.

# %% [markdown]
# ## 3 · Find the head that copies
# *13 minutes · medium · the most useful method in this notebook*
#
# With 270 heads you can't look at each and wonder. Better to ask for a behaviour that would need attention, and measure
# which heads could do it.
#
# The behaviour: **copying**. Take 50 random tokens and repeat them. No grammar, no meaning; only by looking back can a model
# know what comes next, and only in the second half.

# %%
ids = lk.attention.repeated(lab, length=50, seed=0)
random_trace = lab.trace(ids)
print(random_trace.tokens[:8], "...")

# %% [markdown]
# The **loss** of a token is the negative natural logarithm of the probability that the model gave it, in *nats*; 0 is
# certainty. In the first half, where the tokens are pure chance, the loss is about 14 nats (worse than the 10.8 of a model for which all 49,152
# tokens are equally likely: this one expects texts to make sense). How large is it in the second half? (Counted from token
# 51: that the text begins again at token 50 nobody can know.)

# %%
question = "Mean loss of a token in the second half"
copying = lk.predict("attention.copying_loss", question, unit="nats", low=0, high=20)
copying

# %%
loss = random_trace.loss
copying.show(loss[51:].mean())

# %%
import plotly.graph_objects as go

figure = go.Figure(
    go.Scatter(
        y=[round(each, 2) for each in loss.tolist()],
        mode="lines",
        hovertemplate="token %{x}: %{y:.2f} nats<extra></extra>",
    )
)
figure.add_vline(50, line_dash="dot", annotation_text="the second time begins")
figure.update_layout(
    title="The second time, the model knows what comes",
    xaxis_title="token",
    yaxis_title="loss in nats",
    height=320,
    margin={"t": 50, "b": 45, "l": 55, "r": 15},
    paper_bgcolor="rgba(0,0,0,0)",  # so that it is readable on light and on dark paper
    plot_bgcolor="rgba(128,128,128,0.08)",
    font_color="#7a7a7a",
)
figure

# %% tags=["nbval-check-output"]
print(f"first half {loss[1:50].mean():.1f} nats, second half {loss[51:].mean():.1f} nats")

# %% [markdown]
# So some head looks back. What would a head look like that does it? Say the text is *A B C D A B C*, and the model stands at the
# second *C*. It should look at the token that **followed** the first *C*, which is *D*, and say it again. Such a head is
# called an **induction head** (Olsson et al. 2022). Its score is the share of attention on tokens that followed an earlier
# occurrence of the present one.
#
# How can the second *C* find *D*? *D* must carry a note that says "before me came *C*". A head that looks one token back can
# write it; you met one in section 1. An induction head works together with such a head in an earlier layer.
#
# Write that measure:

# %%
# exercise: attention.copying_heads

# %% [markdown]
# labkit has it ready, with the other usual measures, for every head at once (and makes random tokens of its own for it). A number means little without what chance
# would give, so two comparisons stand beside it: a head that looks evenly at everything, and the same model **untrained**,
# with random weights.

# %%
from transformers import AutoModelForCausalLM

heads = lk.attention.heads(lab)
torch.manual_seed(0)
by_chance = AutoModelForCausalLM.from_config(lab.config).eval()
untrained = lk.Lab(by_chance, lab.tokenizer, name="untrained")
untrained_heads = lk.attention.heads(untrained)
untrained.close()

# %% tags=["nbval-check-output"]
best = heads.nlargest(5, "induction")
for row in best.itertuples():
    print(f"layer {row.layer:2} head {row.head}: {row.induction:.2f}")
even, best_untrained = heads.uniform["induction"], untrained_heads["induction"].max()
print(f"looking evenly: {even:.2f}; best of the untrained model: {best_untrained:.2f}")

# %% [markdown]
# There they are: a handful of heads, in layers 17 and 18, that put most of their attention exactly there. Nothing of the
# kind exists before training.
#
# See for yourself. In the map the heads are now sorted by their induction score; in the second half of the pattern the line
# runs parallel to the diagonal, 49 tokens back.

# %%
layer, head = int(best.iloc[0].layer), int(best.iloc[0]["head"])
lk.views.attention(random_trace, layer=layer, head=head, measure="induction", order="highest")

# %% [markdown]
# The recipe works for any model: `lab = lk.load("...")`, `lk.attention.heads(lab).nlargest(5, "induction")`. You now can
# find the copying heads of a model that you have never seen.
#
# **To take away:** to find heads with a certain behaviour, make a text on which only that behaviour helps, and measure all heads
# on it, beside chance.

# %% [markdown]
# ## 4 · Take heads away
# *8 minutes · medium · from "looks like" to "is needed for"*
#
# A head that looks in the right place need not be the one that does the work. The test is to take it away: its output is
# set to zero (it is called **ablation**), and the loss is measured again. And since taking *anything* away might hurt, the
# same is done with other heads, drawn at random.

# %%
heads = lk.attention.heads(lab)
best = heads.nlargest(5, "induction")
copiers = [(int(row.layer), int(row.head)) for row in best.itertuples()]
print(copiers)

# %%
guess = lk.predict(
    "attention.knockout",
    "These 5 of 270 heads are taken away. Copying random tokens had a loss of 2 nats. "
    "What becomes of it?",
    kind="choice",
    choices=(
        "nothing: others step in",
        "a little worse, as with any 5 heads",
        "much worse than with any 5 heads",
        "everything breaks, also what needs no copying",
    ),
)
guess

# %%
result = lk.attention.knockout(lab, copiers, draws=10, seed=0)
second, first = result.second, result.first
hurt = second.without - second.intact
others = [loss - second.intact for loss in second.others]
if abs(first.without - first.intact) > 1:
    answer = "everything breaks, also what needs no copying"
elif hurt > 2 * max(others):
    answer = "much worse than with any 5 heads"
else:
    answer = "a little worse, as with any 5 heads" if hurt > 0.1 else "nothing: others step in"
guess.show(answer)

# %% tags=["nbval-check-output"]
least, most = min(second.others), max(second.others)
print(f"copied half: {second.intact:.1f} nats, {second.without:.1f} without the copying heads,")
print(f"             {least:.1f} to {most:.1f} without five others, drawn 10 times")
print(f"random half: {first.intact:.1f} nats, {first.without:.1f} without the copying heads")

# %% [markdown]
# Without these five heads the model hardly copies at all, while the first half, where there is nothing to copy, is as it
# was. Five heads at random cost at most 1.2 nats; these five cost 9.5.
#
# Which heads matter one by one? The panel below takes away **one head at a time**, in layers 16, 17 and 18. It runs in the
# background: you can go on reading, and *Stop* ends it and keeps what is done.

# %%
ids = lk.attention.repeated(lab, length=50, seed=0)


def copying_loss():
    return lab.trace(ids, keep="logits").loss[51:].mean().item()


def one_at_a_time(stop):
    added, intact = {}, copying_loss()
    count = lab.config.num_attention_heads
    some = [(layer, head) for layer in (16, 17, 18) for head in range(count)]
    for i, (layer, head) in enumerate(some):
        if stop.is_set():  # Stop was pressed
            break
        with lab.edit(lk.ablate_head(layer, head)):
            added[layer, head] = copying_loss() - intact
        yield {
            "done": i + 1,
            "total": len(some),
            "say": f"without layer {layer} · head {head}: {added[layer, head]:+.2f} nats",
            "at": i,
            "values": {"added": added[layer, head]},
        }
    return added


panel = lk.views.live(
    one_at_a_time,
    title="Loss added by taking one head away",
    unit="nats",
    x="head: the nine of layer 16, then of 17, then of 18",
    chart="bars",
)
panel

# %%
_ = panel.wait()  # only so that Run All waits; you may skip it

# %% tags=["nbval-check-output"]
for (layer, head), nats in sorted(panel.result.items(), key=lambda item: -item[1])[:5]:
    print(f"without layer {layer} head {head}: {nats:+.1f} nats")

# %% [markdown]
# Of the five, 18·6, 18·7 and 17·3 are missed, each much less than the five together: the others step in. 17·4, second by its
# score, is hardly missed at all. So looking is not yet doing. The head that is missed most is none of the five: it is head 0
# of layer 16, the one of section 1 that looks one token back. It writes the notes that the copying heads read, and no
# other head steps in for it.
#
# Last, on an ordinary text. *Ablate this head* sets it to zero and compares the next token and the loss. Mark several heads
# (Space in the map, or *Mark*) to take them away together. Taking away 18·6 alone does next to nothing here: in this text there
# is little to copy, and it rests on the first token.

# %%
trace = lab.trace("When Mary and John went to the store, John gave a drink to")
lk.views.attention(trace, layer=18, head=6, ablate=lk.attention.ablation(lab, trace))

# %% [markdown]
# **To take away:** looking is not doing. Take a part away, measure, and compare with taking away as much elsewhere.

# %% [markdown]
# ## 5 · Patch from one prompt into another
# *8 minutes · medium*
#
# Taking away says *that* something is needed. **Patching** says *where* it is. Two prompts that differ in one word, and in
# the answer. They are called the *clean* and the *corrupted* one:

# %%
clean = "When Mary and John went to the store, John gave a drink to"
corrupted = "When Mary and John went to the store, Mary gave a drink to"
for prompt in (clean, corrupted):
    best, probability = lab.trace(prompt).next(k=1)
    said = lab.token_text(int(best[0]))
    print(f"... {prompt[-22:]!r}: {said!r} with probability {probability[0]:.2f}")

# %% [markdown]
# The model runs on the corrupted prompt, but on entering one layer, at one token, its residual stream is
# replaced by the one it had there on the clean prompt. If that brings the clean answer back, what makes the difference was at that place. We measure the
# **logit difference**, the logit of *Mary* minus that of *John*; 0 is as without patching, 1 is the clean prompt's.
#
# The two prompts differ at token 9. The answer is read off at token 13, the last. At which place does patching bring the
# answer back in the **middle** layers, say layer 10?

# %%
place = lk.predict(
    "attention.patching",
    "Patched in layer 10, which token brings the answer back?",
    kind="choice",
    choices=("token 9, where the prompts differ", "token 13, the last", "both", "neither"),
)
place

# %%
mary, john = (lab.tokenizer(name)["input_ids"][0] for name in (" Mary", " John"))


def logit_difference(logits):
    return logits[-1, mary] - logits[-1, john]


patched = lk.patching(
    lab,
    clean,
    corrupted,
    logit_difference,
    at="residual",
    positions=range(9, 14),
    progress=False,
)
effect = {int(row.position): row.effect for row in patched[patched["layer"] == 10].itertuples()}
at_9, at_13 = effect[9] > 0.5, effect[13] > 0.5
place.show(
    "both"
    if at_9 and at_13
    else "token 9, where the prompts differ"
    if at_9
    else "token 13, the last"
    if at_13
    else "neither"
)

# %%
lk.views.patching(patched)

# %% [markdown]
# Read it from the top; row $n$ is what enters layer $n$, and row 30 what leaves the last.

# %% tags=["nbval-check-output"]
effect = {(int(row.layer), int(row.position)): row.effect for row in patched.itertuples()}
for layer in (10, 18, 21, 24, 30):
    at_9, at_13 = effect[layer, 9], effect[layer, 13]  # z: as 0.0 where rounding leaves -0.0
    print(f"entering layer {layer}: token 9 brings back {at_9:z.1f}, token 13 {at_13:z.1f}")

# %% [markdown]
# Up to layer 19 everything hangs on token 9, where the prompts differ. In layers 19 to 23 it moves; from layer 24 on the last
# token has it. What moved it there can only have been attention: nothing else passes information between tokens. Which heads? Patch them
# one by one. (A head is patched at all tokens, so the list also has heads that work before the move, or after it.)

# %%
by_head = lk.patching(lab, clean, corrupted, logit_difference, at="head", progress=False)

# %% tags=["nbval-check-output"]
for row in by_head.nlargest(4, "effect").itertuples():
    print(f"layer {row.layer:2} head {row.head}: {row.effect:.2f}")

# %%
lk.views.patching(by_head)

# %% [markdown]
# And here is the strongest of them, on both prompts side by side. Look at the last row, the token that the answer is read
# off at: whom does it look at?

# %%
strongest = by_head.nlargest(1, "effect").iloc[0]
lk.views.attention(
    lab.trace(clean),
    layer=int(strongest["layer"]),
    head=int(strongest["head"]),
    compare=lab.trace(corrupted),
    names=("clean", "corrupted"),
    measure="change",
)

# %% [markdown]
# In both prompts it looks at token 9, the name that was said twice and is **not** the answer; what differs is what it finds
# there. Putting its clean output back brings *Mary* back: in effect, what it hands over counts against the name it looks at.
# Where a head looks does not tell what it does with it.
#
# **To take away:** information sits at a token until some head carries it on. Patching shows the place, layer by layer, and
# the head.

# %% [markdown]
# ## 6 · Sharing keys and values
# *16 minutes · medium · what "grouped-query attention" saves*
#
# A model that writes makes one token at a time. The keys and values of the tokens so far don't change any more, so they are
# kept: that is the **KV cache**. With it, each step computes one row of attention and no more. The result is the same:

# %%
ids = torch.tensor([lab.tokenizer("The cat sat on the mat because it was tired")["input_ids"]])
with torch.no_grad():
    at_once = lab.model(ids).logits[0]
    cache, rows = None, []
    for i in range(ids.shape[1]):  # one token at a time
        step = lab.model(ids[:, i : i + 1], past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        rows.append(step.logits[0, 0])

# %% tags=["nbval-check-output"]
difference = (torch.stack(rows) - at_once).abs().max() / at_once.abs().max()
print("step by step equals all at once, to 1e-5 of the largest logit:", bool(difference < 1e-5))

# %%
# exercise: attention.kv_cache_step

# %% [markdown]
# The cache is large, and reading it is what makes long texts slow. So newer models let several query heads **share** one
# head of keys and values. This model has 9 query heads and 3 key-value heads: heads 0, 1 and 2 look through the same keys,
# each with queries of its own. (In the map, such heads stand close together.) It is called *grouped-query* attention; with
# a single key-value head for all, *multi-query*.

# %%
# exercise: attention.grouped_attention

# %% [markdown]
# On the model: query head $h$ of layer 16 looks through key-value head $\lfloor h / 3 \rfloor$. One head after the other, beside
# torch's grouped attention and the model's own; then all nine heads on the first key-value head, which is multi-query.

# %%
text = "The cat sat on the mat because it was tired"
trace = lab.trace(text, keep=("attention", "values", "head_output"))
query = trace.queries(16)  # (9, T, 64)
key, value = trace.keys(16), trace.values(16)  # (3, T, 64) each
attend = torch.nn.functional.scaled_dot_product_attention
grouped, multi_query = torch.empty_like(query), torch.empty_like(query)
for h in range(9):
    grouped[h] = attend(query[h], key[h // 3], value[h // 3], is_causal=True)
    multi_query[h] = attend(query[h], key[0], value[0], is_causal=True)

# %% tags=["nbval-check-output"]
torchs = attend(query[None], key[None], value[None], is_causal=True, enable_gqa=True)[0]
print("grouped: the same as torch's to 1e-5:     ", bool((grouped - torchs).abs().max() < 1e-5))
apart = (grouped - trace.head_output(16)).abs().max()
print("grouped: the same as the model's to 1e-5: ", bool(apart < 1e-5))
torchs = attend(query[None], key[None, :1], value[None, :1], is_causal=True, enable_gqa=True)[0]
apart = (multi_query - torchs).abs().max()
print("multi-query: the same as torch's to 1e-5: ", bool(apart < 1e-5))

# %% [markdown]
# What does it save? For each token and layer the cache holds a key and a value for each key-value head:

# %%
# exercise: attention.cache_bytes

# %% [markdown]
# ### Two claims
# An article states that LLaMA 2's grouped-query attention cuts the KV cache by 40 %. `lk.memory` counts a model's cache from
# its published configuration, without fetching it. LLaMA 2 came in three sizes:

# %%
# layers, query heads (of size 128)
shapes = {"llama-2-7b": (32, 32), "llama-2-13b": (40, 40), "llama-2-70b": (80, 64)}
saved = {}
for name, (layers, query_heads) in shapes.items():
    cache = lk.memory(name, tokens=4096, dtype="bfloat16").kv_cache_bytes
    # if every query head had keys and values of its own
    ungrouped = 2 * layers * query_heads * 128 * 4096 * 2
    saved[name] = 100 * (1 - cache / ungrouped)
    gib, ungrouped_gib = cache / 2**30, ungrouped / 2**30
    print(f"{name}: {gib:.2f} GiB for 4,096 tokens; ungrouped {ungrouped_gib:.2f} GiB")

# %% tags=["nbval-check-output"]
lk.claim(
    "gqa-40",
    saved["llama-2-70b"],
    note="saved in the 70B model; the two smaller ones don't group and save nothing",
)

# %% [markdown]
# Another: a change of attention made LLaMA 40 % faster at the same size. Let us time one step of writing in a layer with 16
# heads and 1,024 numbers, once with 16 key-value heads and once with 4. What the smaller one saves in weights goes into its
# MLP (the other half of a layer, which works on each token alone), so that both have the same number of parameters.

# %%
import statistics
import time

from torch.nn.functional import linear, scaled_dot_product_attention, silu


def decoder_step(kv_heads, mlp, cached, d_model=1024, heads=16):
    """A function that computes one decoding step of a layer, `cached` tokens in its cache."""
    d, kv = d_model // heads, kv_heads * (d_model // heads)
    W = {name: torch.randn(*shape) / 32 for name, shape in {
        "q": (d_model, d_model), "k": (kv, d_model), "v": (kv, d_model),
        "o": (d_model, d_model), "gate": (mlp, d_model), "up": (mlp, d_model),
        "down": (d_model, mlp)}.items()}  # fmt: skip
    keys, values = torch.randn(2, 1, kv_heads, cached, d)

    def step(x):
        # the new token's key and value: what they cost counts
        linear(x, W["k"]), linear(x, W["v"])
        # heads that share keys, as rows
        query = linear(x, W["q"]).view(1, kv_heads, heads // kv_heads, d)
        x = x + linear(scaled_dot_product_attention(query, keys, values).reshape(1, -1), W["o"])
        return x + linear(silu(linear(x, W["gate"])) * linear(x, W["up"]), W["down"])

    return step, sum(w.numel() for w in W.values())


x, faster = torch.randn(1, 1024), {}
for cached in (512, 4096, 16384):
    (own, a), (shared, b) = decoder_step(16, 2752, cached), decoder_step(4, 3264, cached)
    assert a == b, "the same number of parameters"
    seconds = {own: [], shared: []}
    for _ in range(40):
        # in turns, so that both suffer alike from whatever else the machine does
        for step, taken in seconds.items():
            start = time.perf_counter()
            step(x)
            taken.append(time.perf_counter() - start)
    typical = {step: statistics.median(taken) for step, taken in seconds.items()}
    faster[cached] = 100 * (typical[own] / typical[shared] - 1)
    print(f"{cached:6,} tokens in the cache: {faster[cached]:4.0f} % faster")

# %%
others = f"{faster[512]:.0f} % at 512, {faster[16384]:.0f} % at 16,384"
each = f"at 4,096 tokens; {others}: no one number holds"
lk.claim("llama-40-faster", faster[4096], note=f"a small layer, on this machine, {each}")

# %% [markdown]
# The longer the cache, the more it helps; with a short one hardly at all. "40 % faster" is true of some length and untrue of
# all others. (The ledger's number is for a layer of the size of LLaMA 2 7B's; times are recorded with the machine they were
# taken on.)
#
# **To take away:** grouped heads shrink the cache by the ratio of key-value heads to query heads. In LLaMA 2 only the largest
# model groups: 8 of 64, which saves 87.5 %. Speed follows where reading the cache dominates.

# %% [markdown]
# ## 7 · Positions by rotation
# *5 minutes, with the extra exercise 12 · hard · how a model knows what comes before what*
#
# But for the mask, nothing in the four lines of section 1 knows about order: shuffle the earlier tokens, and a head would find
# the same keys. LLaMA-like models put the position in (the trace's queries and keys had it already) by **turning** queries and keys (rotary embedding, Su et al. 2021). The 64 numbers are taken as 32
# pairs; a pair is turned, like the hand of a clock, by an angle that grows with the position: the first pair fast, the last
# very slowly.

# %% [markdown]
# An extra exercise, for those who want to turn them by hand; what follows does not depend on it.

# %%
# exercise: attention.rotate

# %% [markdown]
# On the model: take what enters layer 16, make head 0's queries by hand and turn them. They are the queries of the trace.


# %%
def turned(x, positions, base):
    """The same as the exercise asks for, with complex numbers: turning is multiplying."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * base ** (-torch.arange(half) / half)
    turn = torch.polar(torch.ones_like(angles), angles)
    pairs = torch.complex(x[:, :half], x[:, half:]) * turn
    return torch.cat([pairs.real, pairs.imag], -1)


base = lab.config.rope_parameters["rope_theta"]
trace = lab.trace("The cat sat on the mat because it was tired", keep=("attention", "residual"))
layer = lab.model.model.layers[16]
with torch.no_grad():
    unturned = layer.self_attn.q_proj(layer.input_layernorm(trace.residual(16)))[:, :64]
queries = turned(unturned, torch.arange(len(trace)), base)

# %% tags=["nbval-check-output"]
apart = (queries - trace.queries(16, 0)).abs().max()
print("the same as the model's queries to 1e-5:", bool(apart < 1e-5))

# %% [markdown]
# Why turn? Because a product of two turned vectors depends only on the **difference** of their positions:

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
q, k = torch.randn(2, 1, 64)
near = turned(q, torch.tensor([9]), base) @ turned(k, torch.tensor([3]), base).T
far = turned(q, torch.tensor([1009]), base) @ turned(k, torch.tensor([1003]), base).T
same = bool((near - far).abs() < 1e-3)
print("6 tokens apart, here or 1,000 tokens later: the same to 1e-3:", same)

# %% [markdown]
# One more guess. Take a query and a key that are **equal**, so that at distance 0 they fit perfectly (call that product 1).
# As they move apart, the pairs turn out of step. Sketch the product against the distance. (Pairs of random numbers, on
# average.)

# %%
distances = [0, 1, 4, 16, 64, 256, 1024, 4096]
curve = lk.predict(
    "attention.rotary_decay",
    "Product of a turned query and an equal key, by distance",
    kind="curve",
    x=distances,
    low=-0.2,
    high=1,
    x_label="distance in tokens",
    y_label="product, 1 at distance 0",
)
curve

# %%
frequencies = base ** (-torch.arange(32) / 32)
product = [float(torch.cos(distance * frequencies).mean()) for distance in distances]
curve.show(product)

# %% [markdown]
# Each step of this axis is four times the last, and on it the fall is nearly even: one pair after the other gets out of step,
# the fast ones after a few tokens, the slow ones hardly within a whole text. So a head can use the fast pairs to look one token
# back (as head 0 of layer 16 does) and the slow ones to look for content wherever it is.
#
# **To take away:** rotary embedding turns queries and keys by their positions, and attention sees only distances.

# %% [markdown]
# ## 8 · Memory and FlashAttention
# *5 minutes, with the extra exercise 13 · hard*
#
# The weights of a head are a table of $T \times T$. At 100,000 tokens that is 40 GB for **one** head of one layer, if the table is
# ever written down. It need not be. The softmax of a row can be computed from pieces of it: keep the largest score so far,
# the sum so far and the output so far, and correct all three when a larger score turns up. This is the **online softmax**
# (Milakov and Gimelshein 2018), and it is at the heart of FlashAttention (Dao et al. 2022).
#
# The exercise is an extra one; what follows does not depend on it.

# %%
# exercise: attention.online_softmax


# %% [markdown]
# Here it is for all queries of a head at once, beside the table written out (which exists twice: as scores and as weights):


# %%
def full(query, key, value):
    return torch.softmax(query @ key.T / query.shape[-1] ** 0.5, dim=-1) @ value


def tiled(query, key, value, tile=64):
    query = query / query.shape[-1] ** 0.5
    largest, total = torch.full((len(query), 1), float("-inf")), torch.zeros(len(query), 1)
    output = torch.zeros(len(query), value.shape[1])
    for start in range(0, len(key), tile):
        # (T, tile): the only part of the table that is there at a time
        scores = query @ key[start : start + tile].T
        new = torch.maximum(largest, scores.amax(1, keepdim=True))
        weights, shrink = (scores - new).exp_(), torch.exp(largest - new)
        total = total * shrink + weights.sum(1, keepdim=True)
        output.mul_(shrink).addmm_(weights, value[start : start + tile])
        largest = new
    return output / total


torch.manual_seed(0)
query, key, value = torch.randn(3, 1000, 64)

# %% tags=["nbval-check-output"]
attend = torch.nn.functional.scaled_dot_product_attention
ours, torchs = tiled(query, key, value), attend(query[None], key[None], value[None])[0]
apart = (ours - full(query, key, value)).abs().max()
print("tiled equals full to 1e-5:       ", bool(apart < 1e-5))
print("and torch's own attention to 1e-5:", bool((ours - torchs).abs().max() < 1e-5))

# %% [markdown]
# `lk.attention.peak_bytes` counts the most bytes that are alive at one time while a function runs. Twice the length:

# %% tags=["nbval-check-output"]
import math

lengths, peaks = (1024, 2048, 4096), {"full": [], "tiled": []}
for T in lengths:
    torch.manual_seed(T)
    inputs = torch.randn(3, T, 128).unbind()
    for name, function in (("full", full), ("tiled", tiled)):
        peaks[name].append(lk.attention.peak_bytes(function, *inputs))
    whole, parts = (peaks[name][-1] / 2**20 for name in ("full", "tiled"))
    print(f"{T:5,} tokens: {whole:6.1f} MiB full, {parts:5.1f} MiB tiled")
power = math.log(peaks["tiled"][-1] / peaks["tiled"][0]) / math.log(lengths[-1] / lengths[0])

# %% tags=["nbval-check-output"]
lk.claim(
    "flash-memory",
    round(power, 2),
    note="memory in tiles grows with the length to this power; the full table with its square",
)

# %% [markdown]
# Twice the length, four times the memory when the table is written out, twice in tiles. The price is the same arithmetic in a
# more careful order, and nothing is approximated: the result is the same up to rounding. On a GPU it is also faster, since the table never has to travel through
# slow memory.
#
# **To take away:** the table of weights need never exist as a whole; FlashAttention computes the same in tiles.

# %% [markdown]
# ## What you have seen
# - A head compares queries with keys, makes weights of the products and takes the mean of the values with them.
# - Heads do different things: in this model some look one token back, some copy, many rest on the first token.
# - To find a head, make a text on which only its behaviour helps, and measure all heads beside chance. To know that it is needed,
#   take it away and compare with taking away others.
# - Grouped heads share keys and values, and shrink the cache by the ratio of key-value heads to query heads.
# - Positions come in by rotation; the table of weights never has to be written down.
#
# Can you say, without looking: what are query, key and value? How would you find the copying heads of another model? What
# does a model with 32 query heads and 8 key-value heads save?
#
# <details><summary>Answers</summary>
#
# A query is what a token looks for, a key what it can be found by, a value what it hands over. Random tokens said twice, and
# the share of attention on what followed the last time, beside chance; then take the best away. Three quarters of the cache.
# </details>

# %%
lk.progress()

# %% [markdown]
# **To read more:** A. Vaswani et al., *Attention Is All You Need* (2017); N. Elhage et al., *A Mathematical Framework for
# Transformer Circuits* (2021); C. Olsson et al., *In-context Learning and Induction Heads* (2022); K. Wang et al.,
# *Interpretability in the Wild* (2022), on prompts like Mary and John's; J. Ainslie et al., *GQA* (2023); J. Su et al.,
# *RoFormer* (2021); T. Dao et al., *FlashAttention* (2022); G. Xiao et al., *Efficient Streaming Language Models with
# Attention Sinks* (2023).
