# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 6 · Mixtures of experts: who takes which token
#
# [![Open in Colab](attachment:colab.png)]({{COLAB}})
#
# Large models have grown faster than the computers that run them. One way out: give each layer many small parts, the
# **experts**, and send each token to a few of them. Most of the model is idle while a token passes. In this notebook you watch
# tokens choose their experts, in a real if small mixture that comes with labkit, build such a layer from scratch, and go
# after the question everybody asks: *do experts have roles?*
#
# ![A text coloured by the expert that took each token](attachment:06_moe_routing.png)
#
# | | |
# |---|---|
# | **Time** | {{MINUTES}} minutes in all, in {{SECTIONS}} sections; each can be done alone |
# | **Contains** | {{EXERCISES}}, {{PREDICTIONS}}, {{CLAIMS}} from articles put to the test |
# | **Runs on** | any computer with {{MEMORY}} of free memory; no GPU, no account, nothing to download: the model comes with labkit |
# | **You need** | to read Python and a little PyTorch (a tensor, its shape, `@` for a matrix product) |
# | **You will be able to** | say what a mixture saves and what it does not, measure whether routes mean anything, and tell a finding from what chance would show as well |

# %% [markdown]
# ## Set-up
# In Colab the first cell installs labkit, without touching the PyTorch that is there. Elsewhere it only checks. The second
# puts the mixture on the bench, in full precision and on the processor, so that your numbers are those below.
#
# **Run these two. Then start at any section.**

# %%
# set-up

# %%
import torch

lab = lk.load("labkit-moe", dtype="float32", device="cpu")
lab

# %% [markdown]
# ## 1 · A token's way through the experts
# *6 minutes · easy · what everything below is about*
#
# A model is a stack of layers. In each, attention lets tokens look at one another; then a second part works on every token by
# itself (the *MLP*). In an ordinary, **dense** model this second part is a few large matrices that all tokens pass. In a **mixture
# of experts** it is many small ones, and a **router** chooses a few of them for each token.
#
# The model on the bench has 6 layers with 32 experts each and chooses 4. It is small and was trained within hours on
# five kinds of text: English prose, an encyclopaedia, Python, mathematics and Chinese. It writes nothing worth reading; its
# routes are real. A **trace** keeps them:

# %%
text = "def mean(values):\n    return sum(values) / len(values)"
trace = lab.trace(text, keep="routes")
routes = trace.routes
print("tokens, layers, chosen experts:", tuple(routes.experts.shape))
for token, experts, weights in zip(
    trace.tokens[:4], routes.experts[:4, 3], routes.weights[:4, 3], strict=True
):
    shares = ", ".join(
        f"{e} ({w:.0%})" for e, w in zip(experts.tolist(), weights.tolist(), strict=True)
    )
    print(f"{token!r:16} in layer 3 to experts {shares}")

# %% [markdown]
# Each token goes to four experts, and what they make of it is added up with the weights in brackets. Here is the whole path,
# live: type something and watch its route. The text is coloured by the first choice of each token in the layer on show;
# below it are all layers, and at the side how much each expert has to do.

# %%
lk.views.routes(
    trace,
    layer=3,
    take=lambda text: lab.trace(text, keep="routes"),
)

# %% [markdown]
# Try a line of English, then some Chinese (我们的房子), then a formula. Do the colours change with the kind of text? Do they
# change from layer to layer for the same token? Hold on to your impression; section 5 asks whether it is more than an
# impression.
#
# **To take away:** in each layer a router chooses a few experts for each token, and the token never sees the others.

# %% [markdown]
# ## 2 · A router and a mixture by hand
# *15 minutes · medium · everything is in a dozen lines*
#
# A router is very simple: one row of numbers for each expert. A token is a list of 192 numbers in this
# model; its product with an expert's row is that expert's **router logit**. The experts with the largest logits are
# **chosen**, and a softmax over the chosen ones gives their weights. (The *router probability* that the view above lists
# beside a weight is the softmax over all 32 logits, and so the smaller of the two.)
#
# The trace can hand us what the router of layer 3 read, and what it made of it:

# %%
text = "The sum of two even numbers is even."
trace = lab.trace(text, keep=("routes", "residual", "attention_output", "mlp_output"))
layer = lab.model.model.layers[3]
with torch.no_grad():
    # what enters the layer and what its attention adds, normalized: the router reads this
    x = layer.post_attention_layernorm(trace.residual(3) + trace.attention_output(3))
    # transformers calls the router "gate"; no relation to the gate inside an expert, below
    router = layer.mlp.gate.weight  # (32, 192): a row for each expert
    logits = x @ router.T

# %% tags=["nbval-check-output"]
apart = (logits - trace.routes.logits[:, 3]).abs().max()
print("router logits agree with the model's to 1e-5:", bool(apart < 1e-5))

# %% [markdown]
# Your turn: from logits to choices.

# %%
# exercise: moe.top_k_router

# %% [markdown]
# An expert is a small version of the part it stands for: three matrices, `gate`, `up` and `down`. A token goes through `gate`
# and `up` side by side, to 64 numbers each; the first list is bent by a curve called *silu* and multiplied with the
# second; `down` leads back to 192. The mixture adds up the outputs of the chosen experts, times their weights.

# %%
# exercise: moe.mixture_layer

# %% [markdown]
# Libraries don't go token by token; they collect, for each expert, the tokens that chose it. Here is layer 3 of the model so,
# beside the model itself:


# %%
def mixture_by_expert(x, router, gate, up, down, k):
    best = (x @ router.T).topk(k, dim=-1)
    weights = torch.softmax(best.values, dim=-1)
    output = torch.zeros_like(x)
    for expert in best.indices.unique():
        tokens, place = (best.indices == expert).nonzero(as_tuple=True)  # who chose it
        theirs = x[tokens]
        inner = torch.nn.functional.silu(theirs @ gate[expert].T) * (theirs @ up[expert].T)
        output[tokens] += weights[tokens, place, None] * (inner @ down[expert].T)
    return output


experts = layer.mlp.experts
with torch.no_grad():
    gate, up = experts.gate_up_proj.chunk(2, dim=1)  # the experts' own gates, no router
    ours = mixture_by_expert(x, router, gate, up, experts.down_proj, k=4)
    library = layer.mlp(x[None])[0]

# %% tags=["nbval-check-output"]
print("the same as the library's to 1e-5:", bool((ours - library).abs().max() < 1e-5))
apart = (ours - trace.mlp_output(3)).abs().max()
print("and what the trace has of it:     ", bool(apart < 1e-5))

# %% [markdown]
# **To take away:** a router is one matrix; a mixture is the sum of the chosen experts' outputs, times their weights. Which
# experts are chosen changes from token to token, and only their matrices are touched.

# %% [markdown]
# ## 3 · What a mixture saves, and what it does not
# *8 minutes · easy · for every model card you will read*
#
# All experts have to be in memory; a token pays only for the few it goes to. So such a model has two sizes: **total**
# parameters, which must be stored, and **active** ones, which are used for a token.

# %%
# exercise: moe.active_parameters

# %% [markdown]
# An article states that Mixtral 8x7B "reaches its quality with 20 % of the compute". It has 8 experts in each of its 32
# layers and chooses 2. What share of its parameters is active on a token?

# %%
question = "Share of Mixtral 8x7B's parameters that are active on a token"
share = lk.predict("moe.mixtral_active", question, unit="%", low=0, high=100)
share

# %%
mixtral = lk.moe.costs("mixtral-8x7b")
share.show(100 * mixtral.share_active)

# %% tags=["nbval-check-output"]
total, active = mixtral.parameters / 1e9, mixtral.active_parameters / 1e9
print(f"Mixtral 8x7B: {total:.1f} billion parameters, {active:.1f} billion active")
lk.claim(
    "mixtral-20",
    round(100 * mixtral.share_active, 1),
    note="all of them have to be in memory",
)

# %% [markdown]
# More than a quarter, not a fifth: two of eight experts is 25 %, and what every token passes (attention, embeddings) comes on
# top. The name misleads as well: eight times seven would be 56 billion, but only the experts are eightfold.
#
# Newer models go further. They have more, smaller experts, so that a token finds a better fitting set among them. These
# counts come from the published configurations; the last row is the model on your bench:

# %%
names = ["mixtral-8x7b", "qwen1.5-moe-a2.7b", "olmoe-1b-7b", "qwen3-30b-a3b", "gpt-oss-20b"]
table = lk.moe.costs([*names, "deepseek-v3", lab])
columns = ["experts", "chosen", "shared_experts", "parameters", "active_parameters"]
table["active"] = (100 * table["share_active"]).round(1).astype(str) + " %"
table[[*columns, "active"]].style.format(thousands=",")

# %% [markdown]
# (*Shared* experts are used by every token besides the chosen ones.) DeepSeek-V3 has 37 billion parameters active on each
# token and has to keep 671 billion in memory. So a mixture saves **arithmetic**, not memory: it is made for
# machines that serve many people at once, where every expert is in use. On your own computer, the memory is the
# price you see.
#
# Does it pay? Here the one fair comparison we can make: a dense model with the same attention, whose one part is as
# wide as the four chosen experts together, read the same texts in the same order.

# %%
dense = lk.load("labkit-dense", dtype="float32", device="cpu")
some = lk.moe.texts(12)
losses = {}
for name, each in (("mixture", lab), ("dense", dense)):
    by_kind = {}
    for kind, texts in some.items():
        per_token = torch.cat([each.trace(t, keep="logits").loss[1:] for t in texts])
        by_kind[kind] = per_token.mean().item()
    losses[name] = by_kind

# %% tags=["nbval-check-output"]
print(f"{'':15}mixture  dense")
for kind in some:
    print(f"{kind:15}{losses['mixture'][kind]:7.2f} {losses['dense'][kind]:6.2f}")

# %% [markdown]
# (Loss is in nats a token: the lower, the less surprised.) For the same work on each token the mixture is the better model of
# four kinds of text, by about 0.1 nats (prose, mathematics) or 0.15 (encyclopaedia, Python). At Chinese it is no better; the
# dense model is a little ahead. The price: three times the parameters. (Both read fewer tokens than the mixture has
# parameters; of mixtures trained far longer, larger gains are reported.)
#
# **To take away:** total parameters say what must be stored, active ones what a token costs. A mixture buys a better model
# for the same arithmetic, with memory; how much better, one has to measure.

# %% [markdown]
# ## 4 · Keeping all experts in use
# *8 minutes · medium · what training has to add*
#
# Nothing so far makes a router use all its experts. An expert that is chosen a little more often learns a little more, is
# therefore better, and is chosen more often still; the others starve. So training adds a penalty, the **balancing loss**
# (Fedus et al. 2021). For each expert take its share of all choices, and the mean probability that the router gave it;
# multiply the two, add up over experts, and multiply with the number of experts. When all is even it is 1. When all tokens go
# to the same k experts and nobody else has any probability, it is the number of experts divided by k: here 32 / 4 = 8.

# %%
# exercise: moe.balancing_loss

# %% [markdown]
# How well did it work? The usual measure is the **max violation**: by how much the busiest expert's load exceeds the mean
# load. 0 is perfectly even, 1 means twice the mean. Some of it is chance: even if every choice were made at random,
# some expert would come out ahead. So that stands beside it, and routers of random directions in the same model too.

# %%
routing = lk.moe.collect(lab, lk.moe.texts(12), untrained=20, progress=False)
balance = lk.moe.balance(routing)

# %% tags=["nbval-check-output"]
columns = ["max_violation", "even_max_violation", "untrained_max_violation"]
print(f"{len(routing):,} tokens of five kinds")
print(balance[["layer", *columns]].round(2).to_string(index=False))

# %% [markdown]
# The busiest expert has about a quarter more than its even share, in the last layer almost two thirds more: far more than
# random choices would give, far less than without training. That is by design: the penalty is weak (a hundredth of it is added to
# the loss), and it looks at all texts of a training step together, so that an expert may take all of one kind of text if the
# others even it out. A stronger penalty, or one that looks at each text by itself, would forbid what we look for next.
#
# **To take away:** left alone, routers are reported to starve most of their experts (Shazeer et al. 2017); we did not train
# one so. A small penalty keeps experts in use, and over what it is taken decides what they can become.

# %% [markdown]
# ## 5 · Do experts have roles?
# *19 minutes · medium to hard · the heart of this notebook*
#
# Articles say that experts "take different roles", and merge tools ask you to name a purpose for each expert. Let us find
# out, for this model. We have passages of five kinds of text, each from another document that was held out when the model was
# trained.

# %%
routing = lk.moe.collect(lab, lk.moe.texts(20), untrained=20, progress=False)
print(f"{len(routing):,} tokens, {len(routing.kind_of)} documents: {', '.join(routing.kinds)}")

# %% [markdown]
# The measure of the OLMoE paper (Muennighoff et al. 2024): of all tokens of a kind, which share goes to an expert? With
# random choices it is 4 of 32, 12.5 %, for each. Before you look:

# %%
question = "In layer 5: share of the Chinese tokens that go to the expert they use most"
favourite = lk.predict("moe.favourite", question, unit="%", low=0, high=100)
favourite

# %%
# exercise: moe.domain_share

# %% [markdown]
# labkit's own measure adds an interval to each share, by resampling whole **documents**: the tokens of one document are not
# independent of one another.

# %%
specialisation = lk.moe.specialisation(routing)
in_layer_5 = specialisation[specialisation["layer"] == 5]
chinese = in_layer_5[in_layer_5["kind"] == "chinese"].nlargest(1, "share").iloc[0]
favourite.show(100 * chinese["share"])

# %% tags=["nbval-check-output"]
print(f"expert {chinese['expert']}: {chinese['share']:.0%} of the Chinese tokens")
print(f"95 % interval: {chinese['low']:.0%} to {chinese['high']:.0%}; by chance: 12.5%")

# %%
lk.views.specialisation(in_layer_5)

# %% [markdown]
# A column is an expert, a row a kind of text. Orange is more than an even share, blue less. So there are experts for Chinese,
# for Python, for mathematics, two for prose (18 and 2) and one for the encyclopaedia (19): it looks like a finding. Now be
# careful. Most cells are faded and have a stroke: so much a router of random numbers shows as well. A cell is bright when its
# whole interval lies outside of what 95 % of the experts of such routers show, and a few get there by luck; how many, the
# title says.
#
# ### What chance can do
# Kinds of text differ in their **tokens**. A router that knows nothing, a table of random numbers, still sends the same token
# mostly to the same experts (not always: attention has mixed in something of its context before the router reads it);
# Chinese characters occur in Chinese only; so even a random router will seem to have a Chinese expert. To compare, we need
# one number for "how much does the expert tell about the kind of text", and information theory has it: the **mutual
# information**, in bits. It is 0 when knowing the expert does not help at all to guess the kind, and $\log_2 5 = 2.3$ bits at
# most, when it gives it away (a little less, if kinds have unequal numbers of tokens).

# %%
# exercise: moe.mutual_information

# %%
guess = lk.predict(
    "moe.random_router",
    "The router of layer 3 is replaced by random numbers (nothing else is changed). "
    "How much does it tell about the kind of text, compared with the trained one?",
    kind="choice",
    choices=("nothing", "some, but less than half", "more than half", "as much or more"),
)
guess

# %%
information = lk.moe.information(routing)
row = information[information["layer"] == 3].iloc[0]
part = row["untrained"] / row["information"]
steps = (0.05, "nothing"), (0.5, "some, but less than half"), (0.95, "more than half")
guess.show(next((name for limit, name in steps if part < limit), "as much or more"))

# %% tags=["nbval-check-output"]
shown = {
    "information": "trained",
    "shuffled_high": "dealt out",
    "untrained": "random",
    "by_token": "token table",
    "given_token_above": "beyond token",
    "given_token_untrained": "(random)",
    "given_token_untrained_high": "(its upper end)",
}
most, left = information.kind, information.kind_given_token
print(f"bits that an expert tells about the kind of text (of at most {most:.2f};")
print(f"to somebody who knows the token already, of at most {left:.2f}):")
digits = {name: 3 if name.startswith("given_token") else 2 for name in shown}
table = information[["layer", *shown]].round(digits).rename(columns=shown)
print(table.to_string(index=False))
print()
routers = len(routing.untrained)
for what, p in (("all in all", "p_untrained"), ("beyond token", "p_given_token_untrained")):
    as_much = (information[p] * (routers + 1)).round().astype(int) - 1  # what p is made from
    print(f"of {routers} random routers tell as much, by layer, {what:12}:", *as_much)

# %% [markdown]
# Read it from left to right.
#
# - **trained**: what an expert chosen by the trained router tells about the kind of text.
# - **dealt out**: the same when the labels are dealt to the documents at random (97.5 % of the deals stay
#   below). This is what the usual test compares with, and beside it everything looks significant.
# - **random**: routers of random numbers, twenty of them. Not nothing at all; and this is the comparison that most pictures
#   of "specialised" experts lack.
# - **token table**: each token goes where it went in *other* documents, whatever stands around it. So much follows from the
#   tokens that a kind of text consists of.
# - **beyond token**: what the expert tells to somebody who knows the token already: the comma of a poem or the comma of a
#   program? Only this is attention to what *surrounds* a token. Beside it in brackets: what random routers tell so, their mean
#   and the end below which 97.5 % of them stay. (*Token table* and *beyond token* need not add up to *trained*: to somebody who
#   knows the token, little of the kind is left to tell.)
#
# The last two lines count the random routers that tell as much as the trained one. All in all none does, in any layer.
# Beyond the token, in layers 0 to 2 some do. From layer 3 on none does, and the difference is largest in the last layer:
# there the same token goes different ways in different kinds of text.
#
# One more way to ask: what does an expert know about? The token, the kind of text, or the place in the document?

# %%
roles = lk.moe.roles(routing)
wide = roles.pivot(index="layer", columns="by", values=["above", "untrained"])
which = ("above", "untrained")
beside = [(column, by) for by in ("token", "kind", "position") for column in which]
wide = wide[beside].round(2) + 0.0  # no minus before a nought

# %% tags=["nbval-check-output"]
print("bits above chance about ... (random routers in brackets)")
wide.columns = [by if column == "above" else f"({by})" for column, by in beside]
print(wide.to_string())

# %% [markdown]
# In the first layers experts know the token, and so, nearly, do random ones. From layer to layer the token counts for less.
# In the last, the trained router tells less about the token than a random one, and more than three times as much about the
# kind of text. The position in the document hardly matters to any expert.
#
# Which tokens go most surely to an expert? Two experts of the first layer, and the two that take most Chinese in the last:

# %%
tokens = lk.moe.vocabulary(routing).tokens
for layer, expert in ((0, 2), (0, 5), (5, 1), (5, 31)):
    own = tokens[(tokens["layer"] == layer) & (tokens["expert"] == expert)]
    print(f"layer {layer} expert {expert:2}:", *(repr(token) for token in own["token"]))

# %% [markdown]
# Such lists look alike in the first layer and in the last, and they can't but look so: a list of tokens shows tokens,
# whatever sent them there. It takes one token in different surroundings. Here is the comma, with the three experts that take
# most of it:

# %% tags=["nbval-check-output"]
comma = next(number for number, token in routing.tokens.items() if token == ",")
for layer in (0, 5):
    for number, kind in enumerate(routing.kinds):
        here = routing.experts[(routing.ids == comma) & (routing.kind == number), layer]
        if len(here) < 20:  # Chinese has a comma of its own
            continue
        count = torch.bincount(torch.tensor(here.flatten().tolist()), minlength=32)
        most = ", ".join(f"{e} ({count[e] / len(here):.0%})" for e in count.topk(3).indices)
        print(f"layer {layer}, {len(here):3} commas in {kind:13} to experts {most}")

# %% [markdown]
# In the first layer a comma is a comma: experts 3, 14 and 17 take most of it in every kind of text. In the last layer
# Python's goes to other experts than that of prose, and that of mathematics to others again; only prose and the encyclopaedia
# still have the first one in common.

# %% [markdown]
# ### The answer
# An article says: experts take different roles, so a merge tool asks for a purpose for each. For a last number, let us count
# the experts that could be given a name. The chart above asked little: with its whole interval, an expert had to take more of
# some kind of text than nearly all random experts take. Among so many, some pass by luck. A name should need more: here the
# mark is the share of a random router's **most one-sided** expert, and so high that only one router in twenty exceeds it.

# %%
limit = specialisation["untrained_largest"]
out = specialisation[specialisation["low"] > limit]
print(
    out[["layer", "expert", "kind", "share", "low", "untrained_largest"]]
    .round(2)
    .to_string(index=False)
)

# %% tags=["nbval-check-output"]
rules = specialisation.stand_out
asked, named = rules["untrained_high"], rules["untrained_largest"]
for rule, count in (("the chart's", asked), ("this", named)):
    print(f"by {rule} rule: {count['found']} of 192 experts;", end=" ")
    print(f"of a random router's 192: {count['by_chance']:.1f} on average")
lk.claim("moe-roles", named["found"], note="stand out so far that one could name them")

# %% [markdown]
# So, do experts have roles?
#
# - **They are different.** In every layer, who is chosen tells more about the kind of text than any of twenty random routers.
# - **Mostly it is the token.** In the first half of the layers experts are hardly more than a table of tokens; only in the
#   second half do they depend more on the context than random ones.
# - **They don't have a purpose each.** By the chart's mild rule 19 of 192 stand out, where about 9 would by chance; 14 of them are
#   in the last layer. By the stricter one four can be named, all in the last layer, where one or two of the 192 would by
#   chance. What the others know is spread over all of them, four at a time, and no list of names would describe it.
# - **Nobody assigned any of this.** It came about in training, together with everything else. A list of purposes handed to a
#   merge tool is a wish, not a finding.
#
# And what of other models? Ours is tiny, and its kinds of text differ plainly, which makes roles easier to have. The authors
# of Mixtral looked for experts by subject and found hardly any, but much regard for the form of words; those of OLMoE, with
# more and smaller experts, found more. The cells above run on any mixture that `lk.load` opens: `lk.moe.collect(lab, texts)`.
#
# **To take away:** a picture of specialised experts proves little until a random router's stands beside it. Ask what remains
# when the token is known.

# %% [markdown]
# ## 6 · When do routes settle?
# *4 minutes · easy · a look at training*
#
# Twelve times during training the choices on the same 1,000 tokens were written down, from the untrained model to the one on
# your bench. How much of the final choice was made already? (Of a token's four final experts, the share it had already.)
# Two random choices of 4 of 32 share 12.5 %. Sketch it:

# %%
choices = lk.moe.checkpoints()
steps = list(choices)
settled = lk.predict(
    "moe.saturation",
    "Share of the final choice already made, by training step",
    kind="curve",
    x=steps,
    low=0,
    high=100,
    x_label="training step",
    y_label="% of the final choice",
)
settled

# %%
saturation = lk.moe.saturation(choices, n_experts=32)
mean = saturation.groupby("step")["share"].mean()
settled.show([100 * mean[step] for step in steps])

# %% tags=["nbval-check-output"]
half = next(step for step in steps if mean[step] > 0.5)
print(f"untrained: {mean[0]:.0%}; more than half from step {half} of {steps[-1]}")

# %% [markdown]
# Not at random and not at once: a quarter of the way through training more than half of the final choice is made, and it goes
# on moving to the end. (The last step is 100 % by definition: it is the final choice. In OLMoE, trained on half a million
# times more text, up to 60 % was settled after the first hundredth of the training.) An expert has no fixed role:
# while it learns what to do with its tokens, which tokens it gets changes as well.
#
# **To take away:** more than half of the choice settles in the first quarter of the training; the rest shifts as long as the
# model learns.

# %% [markdown]
# ## 7 · Take experts away
# *12 minutes · medium · from "is chosen for" to "is needed for"*
#
# An expert that is chosen for Chinese need not be needed for Chinese: perhaps other experts could do as well. The test is to
# **drop** it (its part of the sum is left out), and to measure the loss of each kind of text. The five largest changes, with
# 95 % intervals from resampling documents (`low`, `high`):

# %%
texts = {kind: [t[:400] for t in some] for kind, some in lk.moe.texts(12, skip=28).items()}
layer = 5
dropped = lk.moe.effects(lab, texts, [(layer, expert) for expert in range(32)], progress=False)
worst = dropped.nlargest(5, "loss_change")
print(worst[["expert", "kind", "loss_change", "low", "high"]].round(3).to_string(index=False))

# %% [markdown]
# Does dropping an expert hurt *its own* kind of text most, the one it is chosen for most? The specialisation was measured on
# other documents, so that the argument is not circular.

# %%
elsewhere = lk.moe.specialisation(lk.moe.collect(lab, lk.moe.texts(20), progress=False))
own = lk.moe.own_domain(dropped, elsewhere)

# %% tags=["nbval-check-output"]
print(own)

# %% [markdown]
# For about four experts in five the kind of text that suffers most is the kind they are chosen for most; by chance it would
# be one in five, and *permuted*, with the experts exchanged at random, it is. (*Spearman* is the rank correlation of how much
# more than other experts one is chosen for a kind with how much more it is missed there; *within experts*, the same among
# the five kinds of one expert.) So in this layer what an expert is chosen for most is mostly what it is needed for most.
# This is stronger than section 5: there we looked, here we took away.
#
# Yet there only four experts could be named. Both are true: an expert may lean to a kind of text, and be missed there,
# without being *the* expert of it. The expert that takes four fifths of the Chinese tokens costs Chinese 0.24 nats; after it,
# the next costs its kind 0.046. Leanings in the last layer, yes; purposes, no, with perhaps one exception, the Chinese one.
#
# ### Pruning
# If some experts hardly matter, one could leave them out and save their memory. An article says that with many small
# experts this can't be done, because nobody knows which does what. The simplest way to find out is to count who is used.

# %%
# exercise: moe.kept_experts

# %% [markdown]
# Now half of all experts are taken away in every layer. Tokens that wanted them go to the best of the rest. Three ways to
# pick those that stay:
#
# - the most **used**, counted on other texts,
# - those whose loss was **measured** to matter most: each of the 192 dropped once, on other texts. This took some minutes, so
#   labkit has the table with it (`lk.moe.recorded_effects()`; the cell above did the same for one layer),
# - **random** ones, drawn three times.
#
# How much worse does the model get when it keeps the more used half?

# %%
half = lk.predict(
    "moe.half_pruned",
    "Loss added when the less used half of all experts is taken away",
    unit="nats",
    low=0,
    high=3,
)
half

# %%
damage = lk.moe.damage(
    lab,
    texts,
    keeps=(24, 16, 8),
    by=("usage", "random"),
    rank_on=lk.moe.texts(12),
    scores={"measured": lk.moe.recorded_effects()},
    draws=3,
    progress=False,
)
every = damage[damage["kind"] == "all"].set_index(["by", "keep"])["loss_change"]
half.show(every["usage", 16])

# %% tags=["nbval-check-output"]
print(every.unstack("by").round(2).sort_index(ascending=False).to_string())

# %%
lk.views.damage(damage)

# %% tags=["nbval-check-output"]
by_kind = damage[damage["keep"].isin([24, 16]) & (damage["kind"] != "all")]
by_kind = by_kind.set_index(["keep", "kind", "by"])["loss_change"].unstack("by")
print(by_kind.round(2).sort_index(ascending=False).to_string())

# %% [markdown]
# On the whole, counting is no better than chance. That could have been expected: the balancing loss has made all experts about
# equally used, so usage has little left to say of who matters. By kind of text it is not the same: with half the experts
# gone, counting spares prose, the encyclopaedia and Chinese, and makes Python worse and mathematics nearly twice as bad as
# random choices do.
#
# Measuring does better. A quarter of all experts can go at a small price when they are the right ones, and half of them for
# less than half of what random ones cost. That is so on the whole, not everywhere: with a quarter gone, Chinese loses less
# when usage chose. So it can be found out which experts matter:

# %%
lk.claim(
    "prune-blind",
    round(every["measured", 16], 2),
    note=f"half of the experts gone; {every['random', 16]:.2f} when they are any",
)

# %% [markdown]
# As stated, the claim does not hold, in this model. What holds is half of it: the number that is easiest to have, usage, is
# on the whole no better than chance.
#
# **To take away:** to say what an expert is for, take it away and see which texts suffer; to say that a measure of importance
# is any good, compare it with chance.

# %% [markdown]
# ## 8 · A mixture out of a dense model
# *3 minutes · easy · how many mixtures begin*
#
# A mixture need not start from nothing. **Upcycling** (Komatsuzaki et al. 2022) copies the MLP of a dense model into every
# expert and adds routers of random numbers. As the weights of the chosen experts add up to 1 and all give the same output, the
# new model computes exactly what the old one did; with further training the copies grow apart.

# %%
dense = lk.load("labkit-dense", dtype="float32", device="cpu")
upcycled = lk.moe.upcycle(dense, experts=8, top_k=2)
text = "The State of the Union is"
before = dense.trace(text, keep="logits").logits
after = upcycled.trace(text, keep=("logits", "routes"))

# %% tags=["nbval-check-output"]
apart = (before - after.logits).abs().max()
print("the same output to 1e-5:", bool(apart < 1e-5))
counts = [sum(p.numel() for p in each.model.parameters()) / 1e6 for each in (dense, upcycled)]
print(f"{counts[0]:.1f} million parameters before, {counts[1]:.1f} after")

# %% [markdown]
# Merge tools make a "mixture" of several finished models the same way, with a different model's part in each expert, and set
# the router from sentences that you name for each. Nothing was trained together there, so nothing of what you saw in section
# 5 holds for it by itself: measure it.
#
# **To take away:** a mixture can start as many copies of one; what makes experts differ is the training after.

# %% [markdown]
# ## What you have seen
# - A router is one matrix; a mixture adds up the outputs of a few chosen experts. All of it has to be in memory, little of it is
#   active on a token.
# - For the same work on each token, the mixture is the better model of four of our five kinds of text.
# - A small penalty keeps all experts in use. Counting how often each is used is then, on the whole, no better than chance at
#   telling which matter: it spares some kinds of text and makes mathematics nearly twice as bad.
# - Experts differ by kind of text, more than those of any of twenty random routers. In the first layers that is the token, in
#   the last ones also its context. They don't have a purpose each.
# - Taking away shows more than looking: in the last layer, most experts are needed most where they are chosen most. That is a
#   leaning, and each alone is missed little, but for the Chinese one.
# - Copies of one dense model make a mixture that begins where the model ended.
#
# Can you say, without looking: what does a mixture save, and what not? Why does even a random router seem to have a Chinese
# expert? How would you find out whether an expert is needed for mathematics?
#
# <details><summary>Answers</summary>
#
# Arithmetic for each token, not memory. Because kinds of text differ in their tokens, and even random numbers send the same
# token mostly to the same experts. Drop it, measure the loss of each kind of text on documents it was not chosen on, and
# compare with dropping others.
# </details>

# %%
lk.progress()

# %% [markdown]
# **To read more:** N. Shazeer et al., *Outrageously Large Neural Networks* (2017); W. Fedus et al., *Switch Transformers* (2021);
# B. Zoph et al., *ST-MoE* (2022); A. Komatsuzaki et al., *Sparse Upcycling* (2022); D. Dai et al., *DeepSeekMoE* (2024);
# N. Muennighoff et al., *OLMoE* (2024), whose measures these are; A. Jiang et al., *Mixtral of Experts* (2024), who looked for
# roles by subject and found few; L. Wang et al., *Auxiliary-Loss-Free Load Balancing* (2024).
