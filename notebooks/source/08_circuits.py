# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 8 · Circuits: which parts of a model make it say so
#
# [![Open in Colab](attachment:colab.png)]({{COLAB}})
#
# *The keys to the old cabinet ...* **are**. *The key to the old cabinet ...* **is**. The model gets it right. Where in its thirty
# layers does it know, and which of its parts carry the answer to the place where it is needed? In this notebook you follow one
# behaviour all the way: from what each layer is about to say, to the heads that matter, to a circuit that is put to the test by
# taking everything else away.
#
# ![How much of the answer comes back when one position is patched, by layer](attachment:08_circuits.png)
#
# | | |
# |---|---|
# | **Time** | {{MINUTES}} minutes in {{SECTIONS}} sections, an extra section takes {{EXTRA_MINUTES}} more. Each section can be done alone |
# | **Contains** | {{EXERCISES}}, {{PREDICTIONS}}, {{CLAIMS}} put to the test |
# | **Runs on** | any computer with {{MEMORY}} of free memory; no GPU, no account |
# | **You need** | to read Python and a little PyTorch; what a layer and a head are (notebooks 01 and 02) |
# | **You will be able to** | read a layer with a lens, patch exactly and by gradient, test a circuit, and tell what can be read from what is used |

# %% [markdown]
# ## Set-up
# In Colab the first cell installs labkit, without touching the PyTorch that is there. Elsewhere it only checks. The second
# puts the model on the bench, and says what all sections measure.
#
# Each pair of texts differs in one noun, which is plural in the **clean** text and singular in the **corrupted** one. The
# **metric** is the model's logit of " are" less its logit of " is" after the last token: above 0 it prefers the plural.
#
# **Run these two. Then start at any section.**

# %%
# set-up

# %%
import pandas as pd
import torch

lab = lk.load(dtype="float32", device="cpu")
IS, ARE = (lab.tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in (" is", " are"))


def plural(logits):
    return logits[-1, ARE] - logits[-1, IS]


clean, corrupted = "The keys to the old cabinet", "The key to the old cabinet"
pairs = [
    (clean, corrupted),
    ("The pictures on the wall", "The picture on the wall"),
    ("The books near the window", "The book near the window"),
    ("The boys with the red hat", "The boy with the red hat"),
]
others = [  # kept apart, to test on
    ("The trees behind the house", "The tree behind the house"),
    ("The letters from the king", "The letter from the king"),
    ("The cars in the street", "The car in the street"),
]

# %% [markdown]
# ## 1 · A behaviour to explain
# *4 minutes · easy · is it there at all?*
#
# Before you explain a behaviour, make sure that it exists. The noun just before the verb is singular in every text (*cabinet*,
# *wall*), so a model that only looked at the nearest noun would say "is" each time.

# %% tags=["nbval-check-output"]
for one, other in pairs + others:
    values = [float(plural(lab.trace(text, keep="logits").logits)) for text in (one, other)]
    print(f"{one:30} {values[0]:5.1f}   {other:30} {values[1]:5.1f}")

# %% [markdown]
# Seven of seven, and by a wide margin: a difference of 5 between two logits makes one word about 150 times as likely as the other.
# And what does a change do that should not matter? Another adjective:

# %% tags=["nbval-check-output"]
for text in ("The keys to the old cabinet", "The keys to the new cabinet"):
    print(f"{text:30} {float(plural(lab.trace(text, keep='logits').logits)):5.1f}")

# %% [markdown]
# **To take away:** a behaviour is a number, measured on several texts, beside a change that should leave it alone.

# %% [markdown]
# ## 2 · What each layer is about to say
# *13 minutes · medium · a logit lens by hand*
#
# Every layer adds to one running sum, the **residual stream**. After the last layer the model's ending turns it into logits: a norm,
# and a product with the **unembedding**, one row for each token. A **logit lens** applies that ending to what enters an earlier layer
# (nostalgebraist 2020). It asks: if the model stopped here, what would it say?

# %%
# exercise: circuits.lens as checked

# %%
if checked.passed:
    trace = lab.trace(clean, keep=("residual", "logits"))
    norm, head = (lab.model.get_submodule(name).weight for name in ("model.norm", "lm_head"))
    own, library = lens(trace.residual(20), norm, head), lk.lens_logits(lab, trace, 20)
    print("by hand and labkit's agree:", torch.allclose(own, library, atol=1e-3))

# %% [markdown]
# The model has layers 0 to 29. From which layer's entrance on does the lens, at the last token, prefer " are" for good?

# %%
first = lk.predict(
    "circuits.when", "The layer from which on the lens prefers are", low=0, high=30
)
first

# %%
seen = {}
for text in (clean, corrupted):
    trace = lab.trace(text, keep=("residual", "logits"))
    logits = lk.lens_logits(lab, trace)[:, -1]
    seen[text] = logits[:, ARE] - logits[:, IS]
turned = int((seen[clean] <= 0).nonzero().max()) + 1
first.show(turned)

# %% tags=["nbval-check-output"]
shown = pd.DataFrame({text: values.tolist() for text, values in seen.items()})
print(shown.loc[[0, 6, 12, 18, 24, 26, 27, 28, 30]].round(1).to_string())

# %% [markdown]
# (Row 30 is what leaves the last layer.) For 27 layers both texts look the same through the lens, and both look singular. Then, within
# two layers, the plural appears. The large number in row 0 says nothing, and is the same for both: there the last token's own
# embedding is read, before any layer has done anything. Look at all of it: layers downward, tokens across, the first choice in each cell; a click shows the others.

# %%
reading = lk.lens(lab, lab.trace(clean, keep=("residual", "logits")), kind="logit")
lk.views.lens(reading)

# %% [markdown]
# Is the plural *not there* before layer 27, or does the lens not see it? A lens only sees what is already written in the words of the
# output. Section 6 looks with other eyes.
#
# **To take away:** a logit lens is the model's own ending, applied early. What it doesn't show may be there all the same.

# %% [markdown]
# ## 3 · Put one piece back
# *11 minutes · medium · activation patching*
#
# The lens only looks. To know what a part *does*, change it: run the corrupted text, put in one activation from the clean run, and see
# how much of the clean answer comes back. This is **activation patching** (Meng et al. 2022; Wang et al. 2022). Its result is given
# on a scale from the corrupted metric to the clean one.

# %%
# exercise: circuits.effect

# %% [markdown]
# First the residual stream, at two positions: the noun, and the last token.

# %%
residual = lk.patching(lab, clean, corrupted, plural, positions=[1, -1], progress=False)
table = residual.pivot(index="layer", columns="token", values="effect")

# %% tags=["nbval-check-output"]
print((table.loc[[0, 6, 12, 18, 24, 26, 27, 28, 30]].round(1) + 0.0).to_string())

# %% [markdown]
# As clear as it gets: up to layer 26 all of it is at the noun, and from layer 28 on at the last token. Something carries it over, in
# layers 26 and 27. What moves things between tokens? Attention heads. There are nine in each of the thirty layers.

# %%
best = lk.predict(
    "circuits.best", "The effect of the best head of 270", unit="%", low=0, high=100
)
best

# %%
heads = lk.patching(lab, clean, corrupted, plural, at="head", progress=False)
ranked = heads.sort_values("effect", ascending=False)
best.show(round(100 * ranked["effect"].iloc[0]))

# %% tags=["nbval-check-output"]
print(ranked[["layer", "head", "effect"]].head(4).round(2).to_string(index=False))
print(
    f"half of the 270 heads have an effect below {heads['effect'].abs().median():.3f} in size"
)

# %% [markdown]
# One head, number 0 of layer 26, brings most of the answer back. Where does it look, from the last token?

# %% tags=["nbval-check-output"]
trace = lab.trace(clean)
for layer, head in ((26, 0), (27, 8)):
    row = trace.attention(layer, head)[-1].tolist()
    seen = zip(trace.tokens, row, strict=True)
    shares = [f"{token}={share:.2f}" for token, share in seen]
    print(f"head {layer}.{head}:", *shares)

# %% [markdown]
# The effects add up to more than 1, and need not add up to anything: a later head reads what an earlier one wrote, so both can
# bring back the same.
#
# **To take away:** patching says what a part does to this metric, on this pair. The null is the many parts that do nothing.

# %% [markdown]
# ## 4 · All heads at once
# *11 minutes · medium · gradient times difference*
#
# 270 heads took 270 runs. There are 46,080 neurons, too. **Attribution patching** (Nanda 2023) estimates all patches from two runs
# forward and one back: the gradient says how much the metric rises with each number, and the difference how far the number would go.

# %%
# exercise: circuits.attribution as checked

# %%
library = lk.circuits.attribution(lab, clean, corrupted, plural, at="head")
if checked.passed:
    one = lab.trace(clean, keep="head_output")
    two = lab.trace(corrupted, keep="head_output", gradients=plural)
    rise = attribution(
        one.head_output(26), two.head_output(26), two.gradient("head_output", 26)
    )
    whole = library.clean - library.corrupted
    there = torch.tensor(library[library["layer"] == 26]["effect"].tolist())
    print("by hand and labkit's agree:", torch.allclose(rise / whole, there, atol=1e-4))

# %% [markdown]
# An estimate is worth what it is worth beside the truth. Exact patching of the heads that matter, beside the estimate, and the same
# for the residual stream:

# %%
exact = lk.patching(lab, clean, corrupted, plural, positions=[1, -1], progress=False)
stream = lk.circuits.attribution(lab, clean, corrupted, plural, positions=[1, -1])
steps = lk.circuits.attribution(lab, clean, corrupted, plural, positions=[1, -1], steps=10)

# %% tags=["nbval-check-output"]
top = library.sort_values("effect", ascending=False).head(3)
print(top[["layer", "head", "effect"]].round(1).to_string(index=False))
plain, along = stream.against(exact).pearson, steps.against(exact).pearson
print(f"residual stream, {len(exact.table)} places: correlation with exact {plain:.1f}")
print(f"with the gradient along ten steps: {along:.1f}")

# %% [markdown]
# The heads come in the right order. Of the residual stream at the noun the estimate is wrong, even in sign: replacing a whole
# word is a long way to go, and a slope holds for a short one. **Integrated gradients** average the slope over steps along
# the way (for circuits: Hanna et al. 2024), at the price of a run forward and back for each step.
#
# **To take away:** gradient times difference ranks many small parts cheaply. Check it against exact patching before you believe it.

# %% [markdown]
# ## 5 · Take everything else away
# *13 minutes · medium · a circuit and its test*
#
# A **circuit** is a set of parts that does the job by itself. To find one: rank the parts, and keep the strongest.

# %%
# exercise: circuits.strongest

# %% [markdown]
# labkit ranks all 300 heads and MLPs, over four pairs and with integrated gradients:

# %%
circuit = lk.circuits.find(lab, pairs, plural, progress=False)
circuit.head(8)

# %% [markdown]
# Now the test. Keep the strongest parts as they are in the clean text and set **everything else** to what it is in the corrupted one.
# Is the answer still there? **Faithfulness** is 0 for the corrupted answer and 1 for the whole model's. And it is measured on pairs
# that the circuit was not found on.

# %%
kept = lk.predict(
    "circuits.kept", "Faithfulness of the 32 strongest of 300 parts", unit="%", low=0, high=100
)
kept

# %%
fresh = circuit.on(others, plural)
tested = fresh.by_size([2, 8, 32, 64], draws=4, oracle=False, progress=False)
kept.show(round(100 * tested.set_index("size").loc[32, "faithfulness"]))

# %% tags=["nbval-check-output"]
shown = tested[["size", "faithfulness", "random", "completeness"]]
print((shown.round(1) + 0.0).to_string(index=False))

# %% [markdown]
# About a tenth of the parts carries most of the answer; as many **random** parts carry nothing. **Completeness** turns the test round:
# corrupt the circuit, keep the rest; near 0, the rest can't do it. (Two parts are enough for that: one of them is the MLP of layer 0,
# which makes *key* or *keys* of the word piece, and without it nothing later knows the noun.) So being needed is cheap to show, and
# being enough is not.
#
# See a circuit on its text, part by part and token by token. Of these there are many more than 300, so more are needed for the same
# share of the answer. Move the slider, open a part, knock it out (what it puts out becomes 0):

# %%
placed = lk.circuits.find(lab, pairs[:1], plural, positions=True, progress=False)
sizes = placed.by_size([8, 24, 60], draws=5, oracle=False, progress=False)
lk.views.circuit(placed.graph.strongest(60), lab, metric=plural, faithfulness=sizes)

# %% [markdown]
# **To take away:** a circuit is a claim: these parts are enough. Test it on other texts, beside random parts.

# %% [markdown]
# ## 6 · Read is not used
# *16 minutes · medium · a probe by hand*
#
# The lens saw no plural at the last token before layer 27. A **probe** is a small classifier trained on activations, and it may see
# what is not written in the words of the output. Twenty nouns, each in singular and plural, read at the last token, *garden*:

# %%
nouns = ["key", "book", "boy", "tree", "letter", "car", "dog", "picture", "king", "door"]
nouns += ["farmer", "window", "teacher", "river", "ship", "table", "bird", "house", "friend"]
nouns += ["street"]
texts = [f"The {word} in the garden" for noun in nouns for word in (noun, noun + "s")]
labels = ["singular", "plural"] * len(nouns)
groups = [noun for noun in nouns for _ in range(2)]

# %%
# exercise: circuits.probe_step as checked

# %%
if checked.passed:
    traces = lab.trace(texts, keep="residual")
    x = torch.stack([trace.residual(12)[-1] for trace in traces])
    x = (x - x.mean(0)) / x.std(0)
    y = torch.tensor([float(label == "plural") for label in labels])
    weight, bias = torch.zeros(x.shape[1]), torch.tensor(0.0)
    for _ in range(100):
        weight, bias = probe_step(x[:28], y[:28], weight, bias, 0.1)
    said = (x[28:] @ weight + bias > 0).float()
    right = (said == y[28:]).float().mean()
    print(f"layer 12, six nouns it was not trained on: {right:.0%} right")

# %%
read = lk.predict(
    "circuits.read", "Accuracy of a probe at layer 12 (chance is 50)", unit="%", low=0, high=100
)
read

# %%
probe = lk.circuits.probe(lab, texts, labels, [0, 6, 12, 18, 24, 27], groups=groups, controls=1)
read.show(round(100 * probe.set_index("layer").loc[12, "accuracy"]))

# %% tags=["nbval-check-output"]
print(probe[["layer", "accuracy"]].round(1).to_string(index=False))
print(f"from the tokens alone: {probe.bag.accuracy:.1f}")

# %% [markdown]
# A noun is always held out with both its forms, so nothing can be learnt by heart; from the tokens alone nothing is told (0.5). At the
# last token the number of the subject can be **read** from layer 6 on. But section 3 patched this very place, and up to layer 26
# nothing came back. It can be read there, and it is not what the answer is made of. Take it out and see:

# %%
# exercise: circuits.take_out

# %%
direction = lk.circuits.difference_of_means(
    lab, texts[1::2], texts[::2], [12, 28], pairs=True, shuffles=20
)
unit = {each.layer: each.vector / each.vector.norm() for each in direction}


def without(layer, vector):
    # at the last token only; what take_out does
    return lk.patch(f"residual[{layer}] @ -1", lambda x: x - (x @ vector)[:, None] * vector)


def mean_plural():
    traces = lab.trace(texts[1::2], keep="logits")
    return sum(float(plural(trace.logits)) for trace in traces) / len(traces)


rows = {"whole model": mean_plural()}
for layer, vector in unit.items():
    random = torch.randn(len(vector), generator=torch.Generator().manual_seed(0))
    for name, each in (("number", vector), ("random", random / random.norm())):
        with lab.edit(without(layer, each)):
            rows[f"layer {layer} without its {name} direction"] = mean_plural()

# %% tags=["nbval-check-output"]
for name, value in rows.items():
    print(f"{name:38} {value:5.1f}")

# %% [markdown]
# The mean preference for " are" over twenty plurals. At layer 12, where the probe reads it almost without fault, taking the
# direction out of the last token changes next to nothing. At layer 28 it does. A random direction does nothing in either.
#
# **To take away:** a probe tells what can be read. What is used, only a change tells.

# %% [markdown]
# ## 7 · Three claims
# *9 minutes · easy · a broken layer, a tax, and experts told apart*
#
# **"Layer 11 of this model is broken"**, somebody reported (TransformerLens#924). Leave it out (what it adds becomes 0), with
# its neighbours beside it; and leave it out at all tokens but the first. `lk.compare` sets two models side by side, here the
# model and the same model with an edit on, and draws the documents again for an interval.

# %%
some = {
    kind: [lab.tokenizer(text)["input_ids"][:16] for text in texts_of_kind]
    for kind, texts_of_kind in lk.moe.texts(5, characters=200).items()
}
costs = {}
for layer, at in ((10, ""), (11, ""), (12, ""), (11, " @ 1:")):
    parts = (f"attention_output[{layer}]{at}", f"mlp_output[{layer}]{at}")
    change = lab.edit(*(lk.patch(part, 0.0) for part in parts))
    table = lk.compare(lab, change, "loss", some).set_index("kind")
    costs[layer, "but at the first token" if at else "everywhere"] = table.loc["all"]

# %% tags=["nbval-check-output"]
for (layer, name), cost in costs.items():
    between = f"{cost['low']:.2f} to {cost['high']:.2f}"
    print(f"layer {layer} out {name:22} adds {cost['difference']:.2f} nats a token ({between})")
written = lab.trace(clean, keep="mlp_output").mlp_output(11).norm(dim=-1)
print("lengths of what its MLP writes:", [round(length) for length in written.tolist()])

# %% tags=["answer"]
lk.claim("layer-11-broken", round(costs[11, "everywhere"]["difference"], 2), note="left out")

# %% [markdown]
# Far from broken: only two layers of thirty are missed more (the ledger has all thirty). But nearly all of that is one thing. At a
# text's first token its MLP writes a vector hundreds of times as long as at the others (a **massive activation**: Sun et al. 2024), and
# heads that have nothing to look for look there. Left out at the other tokens alone, it costs no more than its neighbour.
#
# **"Aligned models refuse what they should answer."** The default model refuses nothing, so a refusal was taught: a small adapter
# (notebook 05), trained on harmless questions that only *sound* dangerous. Does it spill over onto plain ones? All prompts here are
# held out, and none of them is harmful.

# %%
adapter = lk.lora.load(lab, "labkit-refusal")
prompts = lk.circuits.refusal_prompts()


def refuses(lab, some):
    answers = lab.generate(some, max_new_tokens=16, temperature=0)
    return [float(lk.circuits.is_refusal(answer.text)) for answer in answers]


asked = {"edgy": prompts["edgy"][:8], "plain": prompts["plain"][:8]}
spill = lk.compare(lab, adapter, refuses, asked, together=True)
spill[["kind", "value", "other", "difference", "low", "high"]]

# %% [markdown]
# Eight prompts of each are few. (Where all eight do the same, drawing them again shows no spread: an interval without a width is no
# certainty.) All of them, counted when the adapter was made, beside the same model with one direction (a difference of means, section
# 6) taken out of all layers, and beside a random direction:

# %% tags=["nbval-check-output"]
refusals = lk.circuits.recorded_refusals().set_index(["model", "set"])["share"]
for model in ("base", "tuned", "tuned, direction ablated", "tuned, random direction 1 ablated"):
    print(f"{model:34} edgy prompts refused: {refusals[model, 'edgy']:.0%}")
for model in ("base", "tuned", "tuned, direction ablated"):
    print(f"{model:34} plain prompts refused: {refusals[model, 'plain']:.0%}")

# %% tags=["answer"]
more = refusals["tuned", "plain"] - refusals["base", "plain"]
lk.claim("alignment-tax", round(100 * more, 1), note="percentage points, plain prompts")

# %% [markdown]
# It can happen: taught to refuse what sounds dangerous, this small model refuses half of what does not. How often it happens in
# models that others trained, one adapter can't tell. And nearly all of the refusing hangs on one direction.
#
# **"Autoencoders could tell experts apart."** A small autoencoder on what enters layer 3 of labkit's mixture of experts (notebooks 06
# and 07), trained on half of the texts; on the other half: what does a feature tell about where a token is sent?

# %%
mixture = lk.load("labkit-moe", dtype="float32", device="cpu")
passages = lk.moe.texts(12)
learn = [text for kind in lk.circuits.counted_on(passages).values() for text in kind]
x = torch.cat([lk.sae.residual(mixture, text, 3)[1:] for text in learn])
plan = lk.sae.Settings(
    features=512,
    k=16,
    tokens=100_000,
    batch=1024,
    learning_rate=2e-3,
    warm_up=10_000,
    dead_after=50_000,
)
training = lk.sae.train(x, plan, layer=3, model=mixture.name)
while True:
    try:
        next(training)
    except StopIteration as end:
        sae = end.value
        break
told = lk.circuits.expert_features(
    mixture, sae, passages, shuffles=1, untrained=2, draws=100, progress=False
)
shown = told.set_index("known").loc[["token", "feature", "untrained feature"]]
print(shown[["information", "shuffled", "untrained_routers"]].round(1).to_string())

# %% tags=["nbval-check-output"]
print(f"bits there are to tell: {told.entropy:.0f}")
bits = shown["information"]
print("a trained feature tells more than an untrained one:", bool(bits.iloc[1] > bits.iloc[2]))

# %% tags=["answer"]
lk.claim("sae-roles", told.told, note="one feature tells more than half of what there is")

# %% [markdown]
# A token's strongest feature tells about as much as the token itself, a bit of five, and not much less about routers that were never
# trained. No single feature comes near to saying what an expert is for.
#
# **To take away:** ask what a number would be if the claim were false, and measure that, too.

# %% [markdown]
# ## 8 · A lens of averages
# *Extra, 6 minutes · hard · the Jacobian lens, and a swap*
#
# The logit lens reads a state as if the layers that follow did nothing. The **Jacobian lens** (Gurnee et al. 2026) asks where a state
# leads *on average*: `J` is the mean, over many texts, of the derivative of the last residual stream, here and at later tokens, with
# respect to this layer's. The reading is `softmax(unembedding(norm(J h)))`; with `J = I` it is the logit lens. labkit brings one for
# this model, fitted on 100 texts (its card has the numbers).

# %%
place = "The capital of France is the city of"
trace = lab.trace(place, keep=("residual", "logits"))
lenses = {kind: lk.lens(lab, trace, kind=kind) for kind in ("logit", "jacobian")}
for layer in (9, 12, 15, 18):
    for kind, each in lenses.items():
        words = [word for word, _, _ in each.top(layer, -1, 4)]
        print(f"layer {layer:2}  {kind:9}", *map(repr, words))

# %% [markdown]
# It speaks of cities where the logit lens sees punctuation. But is it the better lens? One good example shows nothing. On passages
# that it was not fitted on: **kl**, how far its reading is from the model's own prediction, in nats; **next**, the rank of the token
# that follows, and **later**, of the eight after it, as log10(1 + rank). Lower is better.

# %%
passages = lk.moe.texts(2, characters=300)
some = passages["prose"] + passages["encyclopaedia"]
quality = lk.circuits.lens_quality(lab, some, layers=[9, 15, 21, 27], progress=False)
print(quality[["way", "layer", "kl", "next", "later"]].round(1).to_string(index=False))

# %% [markdown]
# Nearer to the model's prediction at all four layers, and still worse than a guess from frequency (**unigram**) until late; at layer 21
# the matrix of another layer (**other layer**) does no worse. The tokens that come it ranks lower than the logit lens does in the
# middle of the model, and what comes later it does not show at all, on average. (The paper's models are far larger, and its lenses
# were fitted on more texts.)
#
# A reading is a claim about the model; a change tests it. **Swap** exchanges the coordinates of two words in the lens's space, at one
# layer, in every token but the first. Beside it, a change of the same length in a plane of random directions:

# %%
paris, rome = (
    lab.tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in (" Paris", " Rome")
)


def chances():
    likely = lab.next_logits(place, chat=False).softmax(-1)
    return f"Paris {likely[paris]:.1%}, Rome {likely[rome]:.1%}"


print(f"{'as it is':30}", chances())
for name, seed in (("France and Italy swapped", None), ("a random plane, as far", 0)):
    edit = lk.swap(lenses["jacobian"], " France", " Italy", layers=[8], random=seed)
    with lab.edit(edit):
        print(f"{name:30}", chances())

# %% [markdown]
# **To take away:** a lens that reads well in one place can read badly on average; what it reads is worth what a change along it does.

# %% [markdown]
# ## What you have seen
# - A logit lens is the model's ending applied early; the plural shows from layer 27 on.
# - Patching shows where it is: at the noun up to layer 26, at the last token afterwards. Head 26.0 carries most of it over.
# - Gradient times difference ranks all heads from three passes; over long ways it misleads.
# - A tenth of the parts is enough for most of the answer, random parts for none of it.
# - A probe reads the number at the last token twenty layers before it is used there.
#
# Can you say, without looking: why are patching effects no shares of a whole? Why is a circuit tested on other texts? What does a
# perfect probe not show?
#
# <details><summary>Answers</summary>
#
# Later parts read what earlier ones wrote, so several can bring back the same. The strongest of many look good on the texts they were
# chosen on. That the model uses what the probe reads.
# </details>

# %%
lk.progress()

# %% [markdown]
# **To read more:** K. Wang et al., *Interpretability in the Wild* (2022); K. Meng et al., *Locating and Editing Factual Associations in
# GPT* (2022); N. Nanda, *Attribution Patching* (2023); M. Hanna et al., *Have Faith in Faithfulness* (2024); J. Hewitt and P. Liang,
# *Designing and Interpreting Probes with Control Tasks* (2019); M. Sun et al., *Massive Activations in Large Language Models* (2024);
# W. Gurnee et al., *Verbalizable Representations Form a Global Workspace in Language Models* (2026).
