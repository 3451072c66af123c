# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 7 · Sparse autoencoders: what a model's numbers are made of
#
# [![Open in Colab](attachment:colab.png)]({{COLAB}})
#
# Between two layers of a model, a token is a list of several hundred numbers, and none of them means anything by itself. A
# **sparse autoencoder** rewrites the list as a sum of a few **features**, out of thousands, and many of those do mean
# something: a month, a quotation mark, a whale. In this notebook you build such an autoencoder, open one that comes with labkit,
# find a feature, give it a name and test the name on fresh text. Then you push the feature up and watch what the model writes.
#
# ![Where one feature is active: five passages, each with the word whale shaded](attachment:07_sparse_autoencoders.png)
#
# | | |
# |---|---|
# | **Time** | {{MINUTES}} minutes in all, in {{SECTIONS}} sections; each can be done alone |
# | **Contains** | {{EXERCISES}}, {{PREDICTIONS}}, {{CLAIMS}} put to the test |
# | **Runs on** | any computer with {{MEMORY}} of free memory; no GPU, no account; the autoencoder comes with labkit |
# | **You need** | to read Python and a little PyTorch (a tensor, its shape, `@` for a matrix product) |
# | **You will be able to** | say what a feature is, measure how much features leave unexplained, put a feature's name to the test, and steer a model without taking the result for more than it is |

# %% [markdown]
# ## Set-up
# In Colab the first cell installs labkit, without touching the PyTorch that is there. Elsewhere it only checks. The second
# puts the model and its autoencoder on the bench, in full precision and on the processor, so that your numbers are those below.
#
# **Run these two. Then start at any section.**

# %%
# set-up

# %%
import torch

lab = lk.load(dtype="float32", device="cpu")
sae = lk.sae.load()
sae

# %% [markdown]
# ## 1 · More features than dimensions
# *7 minutes · easy · why single numbers mean nothing*
#
# Suppose a model has to note which of 4,608 things a token is about, and has a list of 576 numbers for it. If each
# thing had a number of its own, 576 would be the most. But a thing can also be a **direction**: an arrow in the space of 576
# dimensions, along which the token is pushed when the thing is there. Directions at right angles don't interfere:
# reading along one, you see nothing of the others. Only 576 can be at right angles. How much do they interfere
# when there are eight times as many?
#
# Two directions' **cosine** says it: 1 is the same direction, 0 a right angle.

# %%
# exercise: sae.interference

# %%
closest = lk.predict(
    "sae.crowded",
    "4,608 random directions in 576 dimensions: the largest cosine between any two of them",
    low=0,
    high=1,
)
closest

# %%
worst = {}
for d in (24, 144, 576):
    rows = torch.randn(8 * d, d, generator=torch.Generator().manual_seed(0))
    unit = rows / rows.norm(dim=1, keepdim=True)
    worst[d] = float((unit @ unit.T).fill_diagonal_(0).abs().max())
closest.show(round(worst[576], 2))

# %% tags=["nbval-check-output"]
for d, cosine in worst.items():
    print(f"{8 * d:5,} random directions in {d:3} dimensions: largest cosine {cosine:.2f}")

# %% [markdown]
# Nobody placed these directions; they were drawn at random, and still no two of the 4,608 come close to each other. The
# more dimensions, the more room of this kind there is. So a model can hold more features than dimensions, **as long as only a
# few are there at a time**: each adds a little noise to the others, and the noise of many adds up. This is called
# **superposition** (Elhage et al. 2022). Its price: no single number of the list means anything, since every feature is spread
# over all of them.
#
# A small world made in this way, where the truth is known: 64 features in 24 dimensions, on average two there at a time.

# %%
world = lk.sae.world(features=64, d=24, active=2.0)
x, amounts = world.sample(20_000)
print("tokens:", tuple(x.shape), "made of amounts:", tuple(amounts.shape))
there = (amounts > 0).sum(1).float().mean()
print(f"features there at a time: {there:.2f}; the first token's numbers begin")
print("  ".join(f"{number:.2f}" for number in x[0, :8].tolist()))

# %% [markdown]
# Can somebody who sees only `x` find the 64 directions? That is what the next section does.
#
# **To take away:** a space has room for far more nearly perpendicular directions than it has dimensions. If few features
# are there at a time, a model can use that; and then its single numbers mean nothing.

# %% [markdown]
# ## 2 · A dictionary by hand
# *15 minutes · medium · two matrices and one rule*
#
# A sparse autoencoder is a **dictionary** of directions with a way to look tokens up. The **encoder** reads how much of each
# feature is in a token, which is the feature's **activation**; all activations but the `k` largest are set to 0. The features that
# are left are **active** (one also says that they fire). The **decoder** adds up their directions, each times its activation. The sum
# is the **reconstruction** of the token. The two are trained together so that the reconstruction is as close to the token as
# possible. Since only `k` features are kept, each has to say something (this kind is called **TopK**: Makhzani and Frey 2013, Gao
# et al. 2024).

# %%
# exercise: sae.topk_autoencoder

# %% [markdown]
# How good is it? The usual measure is the **fraction of variance unexplained**: the squared error of the reconstruction, divided by
# how much the tokens differ from the mean token.

# %%
# exercise: sae.fraction_unexplained

# %% [markdown]
# Now train one on the small world. It is shown tokens and nothing else; 64 random directions to begin with, and the three largest
# activations are kept. The training runs in the background, and *Stop* ends it and keeps what there is. Watch the fraction of variance
# that is *unexplained*, and how many features are **dead**: active on no token any more. (In the settings, lengths are in tokens:
# `warm_up` until the learning rate is full; a feature that was not active for `dead_after` tokens counts as dead.)

# %%
world = lk.sae.world(features=64, d=24, active=2.0)
x, _ = world.sample(20_000)
plan = lk.sae.Settings(
    features=64,
    k=3,
    tokens=200_000,
    batch=512,
    learning_rate=1e-2,
    warm_up=10_000,
    dead_after=20_000,
)
panel = lk.views.live(
    lk.sae.trained(x, plan, layer=0),  # of no model's layer
    title="A dictionary learns 64 directions from tokens alone",
    x="step",
    y="share",
)
panel

# %%
_ = panel.wait()  # only so that Run All waits; you may skip it

# %% [markdown]
# Did it find the truth? Each true direction is matched with one of the dictionary, so that the sum of the cosines is as large as
# possible. Random directions, matched in the same way, show how much of that is chance.

# %% tags=["nbval-check-output"]
learned = panel.result
fresh, amounts = world.sample(5_000, seed=1)
found = lk.sae.recovery(learned.decoder, world.directions)
print(f"mean cosine with the truth: {found.mean:.1f}, of random directions {found.chance:.1f}")
print("most of the 64 found (cosine above 0.9):", found.found > 0.6)

# %%
print(
    f"found: {found.found:.0%}; cosines {found.cosines.min():.2f} to {found.cosines.max():.2f}"
)
spread = (fresh - fresh.mean(0)).square().sum()
left = (fresh - learned.reconstruct(fresh)).square().sum()
print(f"unexplained, of fresh tokens: {left / spread:.2f}")
three = amounts.topk(3)
truth = torch.zeros_like(amounts).scatter(-1, three.indices, three.values) @ world.directions
print(f"with the true directions, three a token: {(fresh - truth).square().sum() / spread:.2f}")

# %% [markdown]
# Most of the directions are there, far more than by chance, although it was shown none of them. Not all: a cosine near 0 is a true
# direction without a partner. A part of what is unexplained can't be explained by three features a token, since some tokens have
# four or more; the rest was not learned. And note what "found" rests on: here we knew the truth. Nobody knows it of a real model, so
# there everything has to be measured in other ways.
#
# The one that comes with labkit is of the same kind, only larger: 4,608 features, 32 active on a token. By hand and by labkit:

# %%
text = "Call me Ishmael. Some years ago, never mind how long precisely, I went to sea."
# what enters layer 15, without the first token: section 3 says why
x = lab.trace(text, keep="residual").residual(sae.layer)[1:]
before = (x - sae.decoder_bias) @ sae.encoder + sae.encoder_bias
best = before.topk(sae.k, dim=-1)
by_hand = torch.zeros_like(before).scatter(-1, best.indices, best.values.relu())
reconstruction = by_hand @ sae.decoder + sae.decoder_bias

# %% tags=["nbval-check-output"]
scale = x.abs().max()
print("activations agree to 1e-5:", bool((by_hand - sae.encode(x)).abs().max() < 1e-5 * scale))
apart = (reconstruction - sae.reconstruct(x)).abs().max()
print("reconstructions, too:     ", bool(apart < 1e-5 * scale))

# %% [markdown]
# (To a hundred-thousandth of the largest number: these are single-precision numbers of up to some dozens.)
#
# **To take away:** a sparse autoencoder is two matrices, two biases and the rule that only the `k` largest activations are kept.
# Trained to reconstruct its input, it finds directions that nobody named.

# %% [markdown]
# ## 3 · The real one
# *10 minutes · easy · how much of a model it explains*
#
# `sae` was trained on what enters layer 15, halfway through the model, on text of five kinds: American presidents' messages and
# Moby-Dick, an encyclopaedia, Python, mathematics and Chinese. Look at a sentence through it:

# %%
found = lk.sae.features(lab, sae, "The captain saw the white whale in July.")
for token in range(len(found)):
    strongest = [f"{feature.index} ({value:.0f})" for feature, value in found.top(token, 4)]
    print(f"{found.tokens[token]!r:10}", *strongest or ["not defined"], sep="   ")

# %% [markdown]
# Each number is a feature, in brackets its activation. You may recognise nothing yet; section 4 looks them up. But the first token
# has none. Why?

# %% tags=["nbval-check-output"]
norms = lk.sae.residual(lab, "The captain saw the white whale in July.", sae.layer).norm(dim=-1)
print("lengths of the tokens:", [round(n, -1) for n in norms.tolist()])
words = ("The", "Whales", "1945", "def", "Yes")
firsts = torch.stack([lk.sae.residual(lab, word, sae.layer)[0] for word in words])
unit = firsts / firsts.norm(dim=-1, keepdim=True)
print(f"first tokens {', '.join(words)}: cosines of at least {(unit @ unit.T).min():.2f}")

# %% [markdown]
# The first token's list of numbers is over a hundred times as long as the others', and points nearly the same way whatever the
# word: it is the attention sink, where heads look when they find nothing else (notebook 02, section 2). An autoencoder would spend
# most of its effort on such tokens. So they were left out of the training, and features are **not defined** there.
#
# Now the measure from section 2, on passages that were held out. What to compare with? The fairest is the classical way to describe a
# token by 32 numbers: **principal components**, the 32 directions that leave the least unexplained, the same for every token. They
# are even fitted to the very passages they are judged on.

# %%
components = lk.predict(
    "sae.components",
    "Fraction of the variance that 32 principal components leave unexplained",
    unit="%",
    low=0,
    high=100,
)
components

# %%
characters = {"chinese": 200}  # which are more tokens than 500 characters of English
passages = {
    kind: [text[: characters.get(kind, 500)] for text in some]
    for kind, some in lk.moe.texts(2, skip=20).items()
}
simpler = ("principal components", "untrained", "mean")
quality = lk.sae.evaluate(lab, sae, passages, against=simpler, progress=False)
every = quality.table[quality.table["kind"] == "all"].set_index("way")
components.show(round(100 * every["unexplained"]["principal components"]))

# %% tags=["nbval-check-output"]
shown = every[["unexplained", "loss", "loss_spliced", "increase", "loss_recovered"]]
print(f"{quality.tokens:,} tokens of five kinds")
print(shown.round(2).to_string())

# %% [markdown]
# Read a row like this: when the model goes on, from layer 15, with the reconstruction in place of each token, its loss rises by
# *increase*, in nats a token (loss in natural logarithms: 0.7 nats more make the right token half as likely). The **loss recovered**
# puts that on a scale from 0, the mean token in place of every token, to 1, the model itself. The mean token is so bad that most ways
# look good on this scale, even the untrained one; so look at *increase* first.
#
# - The **untrained** row is the same architecture with random directions: what the rule "the 32 best of 4,608" gets by itself.
# - The **autoencoder** leaves less unexplained than 32 fixed components, because its directions were learned and each token chooses
#   its own 32 of them; choosing alone, as the untrained one does, is not enough. A choice is information as well, so the two are not
#   quite equal.
# - Something remains unexplained all the same. For the model's next tokens it matters little on average, and more in some kinds of
#   text than in others, as the next table shows. Whatever you find with features, part of the model is not in them.

# %%
own = quality.table[quality.table["way"] == "sae"].set_index("kind")
print(own[["tokens", "unexplained", "increase"]].round(2).to_string())

# %% [markdown]
# ### Train a small one
# On two processor cores it took about an hour to run the model over six million tokens and to read them three times. A small
# one learns in seconds, from thirty short passages: 512 features, 32 active on a token, each token read about twenty times.


# %%
def read(texts):
    every = [lk.sae.residual(lab, text, sae.layer) for text in texts]
    return torch.cat([x[sae.defined(x)] for x in every])


reading = read([text[:400] for some in lk.moe.texts(6).values() for text in some])
small = lk.sae.Settings(
    features=512,
    k=32,
    tokens=20 * len(reading),
    batch=512,
    learning_rate=2e-3,
    warm_up=10_000,
    dead_after=20_000,
)
watched = lk.views.live(
    lk.sae.trained(reading, small, layer=sae.layer, model=lab.name),
    title=f"512 features learn from {len(reading):,} tokens",
    x="step",
    y="share",
)
watched

# %%
_ = watched.wait()  # only so that Run All waits

# %%
own_small, fresh = watched.result, read([text for some in passages.values() for text in some])
for where, x in (("the texts small was trained on", reading), ("texts fresh to both", fresh)):
    for name, dictionary in (("small", own_small), ("labkit-sae", sae)):
        left = (x - dictionary.reconstruct(x)).square().sum() / (x - x.mean(0)).square().sum()
        print(f"{where:31} {name:11} {left:.2f} unexplained")

# %% [markdown]
# The small one does well on the tokens it was trained on and worse on fresh ones: it has partly learned them by heart. labkit's, which
# has read none of these texts, explains both about equally well: it has read far more, and has nine times as many features. What was
# trained has to be judged on text it has not read.
#
# **To take away:** measure an autoencoder by the variance it leaves unexplained and by the loss the model recovers, each beside
# something simple, on text that it has not read. A fraction alone says little.

# %% [markdown]
# ## 4 · Find a feature
# *9 minutes · easy · from a number to what it may be about*
#
# There are 4,608 features. For each, labkit has counted in the training texts on which tokens it is active, and kept eight
# examples: five of the strongest, and three from the lower parts of its range, since the strongest alone flatter a feature. Point at a
# token to see its features, open one, search for a word:

# %%
lk.views.features(
    lk.sae.features(lab, sae, "The captain saw the white whale in July."),
    look_up=lambda index: lk.sae.dashboard(lab, sae[index]),
    feature=1034,
    take=lambda text: lk.sae.features(lab, sae, text),
    search=lambda words: [
        (int(row.feature), f"{row.hits} of {row.examples} examples: {row.found}")
        for row in lk.sae.search(lab, sae, words, k=8).itertuples()
    ],
)

# %% [markdown]
# ### By a word
# Search lists the features whose examples peak on a word. *hits* are examples whose peak is on one of the words asked for, *words* how
# many different ones of these, *found* every word at a peak. Of thousands of features some will hit by chance, so beside it stands
# what the luckiest feature would have if these same hits were dealt to all examples at random. (*May* is left out: it is mostly not
# a month.)

# %% tags=["nbval-check-output"]
months = lk.sae.search(lab, sae, "january february march april june july august", k=4)
print(months[["feature", "hits", "examples", "words", "found"]].to_string(index=False))
print(f"by chance, hits of the luckiest feature: {months.chance:.1f}")

# %% [markdown]
# ### By what texts share
# Another way needs no word: a few texts that have something, a few that lack it, and the features that separate them. Here are five
# sentences with a year and five without. A feature *separates* them if it is more active somewhere in each of the five (*weakest*: in
# the one where it is least so) than anywhere in the others (*strongest_absent*).

# %%
with_year = [
    "The war ended in 1945 after six years.",
    "She was born in 1872 in a small town.",
    "In 1901 the census counted more people.",
    "The bridge opened to traffic in 1937.",
    "Since 1998 the law has been changed twice.",
]
without = [
    "The war ended after a long and bitter siege.",
    "She was born in a small town by the sea.",
    "The census counted more people than before.",
    "The bridge opened to traffic last spring.",
    "The law has been changed twice since then.",
]
shared = lk.sae.common(lab, sae, with_year, without, k=5)

# %% tags=["nbval-check-output"]
print(shared.round(1).to_string(index=False))
print("features that separate the groups:", shared.separating)
print("when the ten are dealt at random: ", round(shared.by_chance, 2))
print(f"so many or more in {shared.as_many:.1%} of such deals")

# %% [markdown]
# The last two lines are the ones that count. With ten short texts and 4,608 features, now and then some feature separates them
# whatever they say. Only if many more do than with groups dealt at random have you found something about years. (Ten texts can be dealt in 126 ways,
# and the true one is among them, so that the last line can't go far below 1 %.)
#
# ### How often?
# A feature that is active everywhere means little, one that never is means nothing. Its **density** is the fraction of tokens it is
# active on. All densities added up are the mean number of features active on a token, called **L0**.

# %%
# exercise: sae.density

# %% tags=["nbval-check-output"]
often = torch.from_numpy(lk.sae.index(lab, sae).density).float()
print(f"L0, all densities added up: {often.sum():.1f} features active on a token")
print(f"on more than a tenth of all tokens: {int((often > 0.1).sum())} features")
print(f"the feature in the middle: {often.median():.2%} of tokens")
print(f"never active: {int((often == 0).sum())} features")
print(f"feature 945: {often[945]:.0%} of tokens; feature 1034: {often[1034]:.2%}")

# %% [markdown]
# Feature 945 was active on every token of our sentence, feature 1034 on one. Open both in the view above: the first fires on all
# kinds of things, the second on months.

# %% [markdown]
# **To take away:** look at weak examples as well as strong ones, and set beside every search what chance would find.

# %% [markdown]
# ## 5 · Name it, and test the name
# *12 minutes · medium · the heart of this notebook*
#
# Looking at examples, everybody finds a story. The story can be tested if it is a **rule**: given a text and a token, does the
# feature fire there, yes or no? Write the rule down *before* you look at fresh text, then count. The feature for this section is the
# first that search finds for whales:

# %%
whales = lk.sae.search(lab, sae, "whale whales", k=3)
feature = sae[int(whales.iloc[0]["feature"])]

# %% tags=["nbval-check-output"]
hits, lucky = whales.iloc[0]["hits"], whales.chance
print(f"feature {feature.index}: {hits} hits; the luckiest by chance: {lucky:.1f}")
board = lk.sae.dashboard(lab, feature)
for example in board.examples:
    before = "".join(example.tokens[max(0, example.peak - 8) : example.peak])
    word = example.tokens[example.peak]
    print(f"{example.activation:5.1f}  {before.replace(chr(10), ' ')}[{word}]")

# %% [markdown]
# Strong examples first, then the weaker ones. You would call it *whale*; only the last, weak ones don't fit: a piece of a word that
# begins like it, and *What*. As a rule: **it fires on tokens that contain "whale", and on no others.** How good is that? A feature
# fires on a few tokens in a thousand, so a rule that always says no is nearly always right. A fair score has to count both.

# %%
# exercise: sae.balanced_accuracy

# %%
score = lk.predict(
    "sae.whale_name",
    "Balanced accuracy of the rule 'the token contains whale' on chapters held out",
    low=0.5,
    high=1,
)
score

# %%
prose = lk.moe.passages("prose")  # held out: the training has read none of these
held_out = [passage.text for passage in prose if passage.source == "Moby-Dick"]
named = lk.sae.check_name(
    lab, feature, lambda tokens, i: "whale" in tokens[i].lower(), held_out
)
score.show(round(named.balanced, 2))

# %% tags=["nbval-check-output"]
print(named)

# %% [markdown]
# Read all of it. The first figure is the fraction of the firings that the rule predicted (its *recall*); the second the fraction of
# the rule's claims where the feature fired (its *precision*). The rest is what chance and other features of similar density get.
#
# What is it that fires where the rule says no?

# %%
from collections import Counter

fired = Counter()
for found in lk.sae.features(lab, sae, held_out):
    for token in (found.indices == feature.index).any(-1).nonzero().flatten().tolist():
        fired[found.tokens[token]] += 1

# %% tags=["nbval-check-output"]
print(", ".join(f"{token!r} {n}" for token, n in fired.most_common(14)))

# %% [markdown]
# So the name is right as far as it goes: wherever the rule says yes, the feature fires. But it does not cover everything. The tokenizer
# cuts rarer words into pieces ("wh", "al" and what follows, of *whalemen*), *whaling* is written otherwise, and the book's own name
# counts as well; for some others (*hump*, *skull*, a dash) we have no story. A better rule would look at the whole word. But you have
# seen this text now: to test the better rule takes other. And it is Moby-Dick alone: how the feature does elsewhere, where the weak
# examples came from, this test does not see.
#
# Now you. Ten places; in half of them the feature fires on the last token, which may be a piece of a word. Say which, then be scored.

# %%
quiz = lk.sae.quiz(lab, feature, held_out, n=10)
for number, item in enumerate(quiz.items):
    print(number, "".join(item[-9:]).replace("\n", " "), sep="  ...")

# %%
answers = ["whale" in item[-1].lower() for item in quiz.items]  # the rule's; put in your own
right, by_luck = quiz.score(answers)
print(f"right: {right:.0%}; so many or more with random answers: {by_luck:.1%}")

# %% [markdown]
# **To take away:** a name is a rule, and fresh text decides whether it holds. A rule that is right whenever it says yes may still miss
# most of what the feature does.

# %% [markdown]
# ## 6 · Steer
# *18 minutes · medium · push a feature up and read what is written*
#
# In 2024 Anthropic held one feature of Claude, about the Golden Gate Bridge, at a high value, and the model came to speak of the
# bridge whatever it was asked. From this comes the claim we test here: *one feature, held at a high value, takes over what a model
# says.* Our bridge is the whale.
#
# The edit is one line: add the feature's direction to what enters the layer.

# %%
# exercise: sae.add_along

# %% [markdown]
# (The first token again stays as it is: section 3 says why.)
#
# labkit's edits do the same within the model. `steer` adds; `clamp` moves a token along the direction until the encoder reads
# the value asked for. Both leave all else in the token as it is, what the features don't explain included: replacing the token
# by its reconstruction would cost what section 3 measured, before any steering.

# %%
whales = lk.sae.search(lab, sae, "whale whales", k=3)
feature = sae[int(whales.iloc[0]["feature"])]
text = "The weather today is fine, and we go out."
plain = lk.sae.residual(lab, text, sae.layer)
with lab.edit(lk.sae.steer(feature, 60.0)):
    steered = lk.sae.residual(lab, text, sae.layer)
with lab.edit(lk.sae.clamp(feature, 60.0)):
    clamped = lk.sae.features(lab, sae, text)
    moved = lk.sae.residual(lab, text, sae.layer)

# %% tags=["nbval-check-output"]
unit = feature.direction / feature.direction.norm()
by_hand = torch.cat([plain[:1], plain[1:] + 60.0 * feature.direction])
print("steering is adding:", torch.allclose(by_hand, steered, rtol=1e-4, atol=1e-2))
print(f"clamped to 60, read back: {clamped.of(feature)[1:].mean():.1f}")
aside = (moved - plain) - ((moved - plain) @ unit)[:, None] * unit
print("nothing but that direction moved:", bool(aside[1:].abs().max() < 1e-2))

# %% [markdown]
# ### The experiment
# All of it is fixed before anything is run:
#
# - **The feature** is the first that `search` finds for "whale whales". It is *held* at a value by `clamp`, as the claim says, and
#   beside that *pushed* by `steer`.
# - **Beside it** the plainest other way to a direction, a **difference of means**: the mean of tokens in six sentences
#   about whales minus the mean in six about other things. And a **random feature** of similar density, to see what any push does.
# - All directions have length 1 and are added with the same strengths; *held* is set to them. Strength 0 is no edit at all. In text,
#   the whale feature reaches about 60.
# - **Ten openings** that have nothing to do with the sea; 16 tokens each, the likeliest one each time. A text *has the concept*
#   if "whale" occurs in it. *Takes over* means: more than half of the texts have it, at one of the strengths.
# - **The price**: the loss that the model *without* steering gives to what was written, in nats a token. Texts that end in a loop
#   (*broken*) don't count there: a loop is easy to predict, and so looks cheap.

# %%
about = [
    "The whale rose to the surface and blew.",
    "Whales are the largest animals in the sea.",
    "A pod of whales swam past the ship.",
    "The great whale dived beneath the waves.",
    "They hunted the whale for its oil.",
    "A young whale stays close to its mother.",
]
other = [
    "The train came to the station and stopped.",
    "Elephants are the largest animals on land.",
    "A flock of birds flew past the house.",
    "The old man sat down beneath the tree.",
    "They planted the field for its wheat.",
    "A young child stays close to its mother.",
]
prompts = [
    "My favourite thing to do on Sunday is",
    "The recipe begins with two cups of",
    "The best advice I ever got was",
    "The meeting started late because",
    "To learn a language, you should",
    "The king called his ministers and",
    "In the garden behind the house there",
    "The new telephone has a",
    "Our teacher told us a story about",
    "The most important thing in life is",
]
often = torch.from_numpy(lk.sae.index(lab, sae).density).float()
alike = ((often / often[feature.index] > 0.8) & (often / often[feature.index] < 1.25)).nonzero()
alike = [i for i in alike.flatten().tolist() if i != feature.index]
draw = torch.Generator().manual_seed(0)
random_feature = sae[alike[int(torch.randint(len(alike), (1,), generator=draw))]]
directions = {
    "held": lambda value: lk.sae.clamp(feature, value),
    "pushed": feature,
    "difference of means": lk.sae.difference(lab, sae, about, other),
    "random feature": random_feature,
}
print(f"random feature: {random_feature.index}, one of {len(alike)} of similar density")

# %%
takes_over = lk.predict(
    "sae.golden_gate",
    "Held at the best of the values, how many of the ten texts speak of a whale?",
    low=0,
    high=10,
)
takes_over

# %%
doses = lk.sae.dose(
    lab,
    sae,
    directions,
    (0, 40, 80, 120),
    prompts,
    lambda text: "whale" in text.lower(),
    tokens=16,
    chat=False,
    random=0,  # a random feature stands there already
    progress=False,
)
own = doses[doses["direction"] == "held"]
takes_over.show(round(10 * own["share"].max()))

# %% tags=["nbval-check-output"]
columns = ["direction", "strength", "share", "low", "high", "loss", "broken"]
print(doses[columns].round(2).to_string(index=False))

# %%
lk.views.doses(doses, concept="a whale")

# %%
for row in doses[doses["strength"].isin([0, 80])].itertuples():
    print(f"{row.direction:20}{row.strength:3.0f}  {row.prompt}{row.example!r}")

# %% [markdown]
# **It does not take over here.** Held at 80, the feature brings a whale into two texts of ten, at 40 and at 120 into one each. From ten
# openings, two may be anything from 6 to 51 % (*low*, *high*; and the best of three values was picked). At 120 six of the ten texts
# fall apart (*broken*). That is one feature of one small model and 16 tokens; it says nothing about others.
#
# - **Which steers better?** Pushing the feature brings two whales as well, the difference of means one, at a higher price. With
#   ten openings that is no difference: the intervals overlap. The random feature brings none. It has a subject of its own, by the
#   way: look at its text.
# - **What does it cost?** At 80 the random feature costs about as much as the whale, pushed. It is one draw, and others would cost more
#   or less; but much of the price seems to be that of being pushed at all.
# - **Why not like the bridge?** We don't know; it was not tested. That model is far larger, its feature one of millions; theirs was
#   held at ten times its highest activation, and ours breaks at twice.
# - **Did we only choose badly?** Perhaps. There are openings and strengths where the whale comes (try "My favourite animal is" below).
#   Had we looked for them first and then counted, the claim might have seemed to hold. That is why all was fixed before.

# %% tags=["answer"]
best = own.sort_values(["share", "strength"], ascending=[False, True]).iloc[0]
lk.claim(
    "golden-gate",
    round(100 * best["share"]),
    note=f"at strength {best['strength']:.0f}; without steering {own['share'].iloc[0]:.0%}",
)

# %% [markdown]
# Try it yourself: move the sliders, change the opening. (They go to twice a feature's highest activation in text.)

# %%
lk.views.steering(
    lk.sae.steered(lab, sae, tokens=30, chat=False),
    [
        (feature.index, "whale", round(lk.sae.dashboard(lab, feature).largest)),
        (random_feature.index, "random", round(lk.sae.dashboard(lab, random_feature).largest)),
    ],
    prompt="My favourite thing to do on Sunday is",
)

# %% [markdown]
# **To take away:** a push along a feature can bring its subject into a text, and need not. Fix the openings and strengths before you
# count; set a plain direction and a random one beside it before you credit the autoencoder.

# %% [markdown]
# ## 7 · What an autoencoder can't tell
# *4 minutes · easy · before you believe one*
#
# - **Not the whole model.** What the features leave unexplained is not nothing: section 3 showed what the model loses without it.
# - **Not the only dictionary.** Trained again from other random numbers, many features would come out otherwise, or split in two.
#   Ours is one run of one seed, and nobody knows the truth as we did in the toy.
# - **Not every subject.** It read few texts of five kinds: presidents, Moby-Dick, an encyclopaedia, Python, mathematics, Chinese.
#   That it has a whale feature says as much about its training texts as about the model. It has read no chat.
# - **Not what a feature is for.** Examples show where it fires. What it does, only an edit shows; and an edit as strong as those
#   above takes the model where no text takes it.
# - **Not always the best tool.** A difference of means costs a dozen sentences. If you know what you look for, try it first.
#   An autoencoder earns its price when you do *not* know what there is to be found.
#
# **To take away:** features are a good way to ask questions of a model. The answers come from the checks.

# %% [markdown]
# ## What you have seen
# - A space holds far more nearly perpendicular directions than dimensions; few at a time can share it.
# - An autoencoder with two matrices, which keeps only the `k` largest activations, finds such directions, in a toy most of the true ones.
# - The real one explains most of a token with 32 features, and with only those the model still loses something.
# - A feature's name is a rule, to be tested on fresh text.
# - Steering cost plausibility at every strength we tried; whether the subject comes has to be counted. Here it came now and then,
#   and took nothing over.
#
# Can you say, without looking: why is the first token left out? Why does balanced accuracy not reward saying no? What would you
# compare a feature with before you say that it steers well?
#
# <details><summary>Answers</summary>
#
# Its list of numbers is a hundred times as long as others' and much the same for every text. Because the tokens it does not fire on
# are only one of two groups that count the same. A difference of means, a random feature, no steering at all; and the loss of what is written.
# </details>

# %%
lk.progress()

# %% [markdown]
# **To read more:** N. Elhage et al., *Toy Models of Superposition* (2022); H. Cunningham et al., *Sparse Autoencoders Find Highly
# Interpretable Features* (2023); T. Bricken et al., *Towards Monosemanticity* (2023); L. Gao et al., *Scaling and Evaluating Sparse
# Autoencoders* (2024); A. Templeton et al., *Scaling Monosemanticity* (2024), with the bridge; T. Bolukbasi et al., *An
# Interpretability Illusion for BERT* (2021), on why strong examples alone flatter; S. Marks and M. Tegmark, *The Geometry of Truth*
# (2023), on differences of means.
