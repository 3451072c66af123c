# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 3 · Generation: how text comes out
#
# [![Open in Colab](attachment:colab.png)]({{COLAB}})
#
# A model gives a score to every token. Everything after that is up to the program around it: which token is taken, what is
# remembered, what is forbidden, and how many tokens one pass brings. In this notebook you build these parts by hand, hold
# the model to a form, branch its texts, and let a small model draft for a large one.
#
# ![A text and two branches of it, each with another token in one place](attachment:03_generation.png)
#
# | | |
# |---|---|
# | **Time** | {{MINUTES}} minutes in {{SECTIONS}} sections, about {{EXERCISE_MINUTES}} of them for six exercises; an extra section takes {{EXTRA_MINUTES}} more. Each section can be done alone |
# | **Contains** | {{EXERCISES}}, {{PREDICTIONS}}, {{CLAIMS}} from articles put to the test |
# | **Runs on** | any computer with {{MEMORY}} of free memory; no GPU, no account; the model (93 MB) is fetched once |
# | **You need** | to read Python and a little PyTorch; notebook 02 helps with section 3 |
# | **You will be able to** | say what each sampling setting does, what a cache saves, what a JSON mode guarantees and what it does not, and when drafting makes a model faster |

# %% [markdown]
# ## Set-up
# In Colab the first cell installs labkit, without touching the PyTorch that is there. Elsewhere it only checks. The second
# puts two models on the bench: a real one that chats, and a very small one that is part of labkit, for what has to be done
# many times.
#
# **Run these two. Then start at any section.**

# %%
# set-up

# %%
import torch

lab = lk.load(dtype="float32", device="cpu")
tiny = lk.load("labkit-dense", dtype="float32", device="cpu")
lab

# %% [markdown]
# ## 1 · From scores to one token
# *9 minutes · easy · what every setting acts on*
#
# For the next token the model gives a score to each of the 49,152 tokens it knows, the **logits**. The softmax turns them
# into probabilities. Between the two stand filters, always in the same order: a form, a repetition penalty, the
# temperature, top-k, top-p, min-p. What is left is drawn from. Here is one choice, before and after each:

# %%
beginning = "The best thing about living by the sea is"
gen = lab.generate(beginning, chat=False, max_new_tokens=8, temperature=0.8, top_p=0.9, seed=0)
choice = gen.distribution(0, k=6)
choice

# %% tags=["nbval-check-output"]
for row in choice.stages.to_dict("records"):
    print(
        f"{row['stage']:12} {row['tokens']:6,} tokens left, entropy {row['entropy']:.2f} nats"
    )

# %% [markdown]
# The **entropy** says how open the choice is: 0 where only one token is possible. The same for every token of the text: point
# at one, and see what the filters made of it.

# %%
lk.views.tokens(gen)

# %% [markdown]
# The **temperature** divides the logits. Below 1 the best tokens gain, above 1 all others do. A program that serves many
# people writes many texts at once, and each may have a temperature of its own:

# %%
# exercise: generation.with_temperature as checked

# %% [markdown]
# By hand and by labkit: with what probability was the first token drawn?

# %%
beginnings = ["The capital of France is", "The best thing about living by the sea is"]
logits = torch.stack([lab.next_logits(text, chat=False) for text in beginnings])
temperature = torch.tensor([0.5, 1.5])
by_hand = torch.softmax(logits / temperature[:, None], dim=-1)

# %% tags=["nbval-check-output"]
for row, text in enumerate(beginnings):
    T = float(temperature[row])
    one = lab.generate(text, chat=False, max_new_tokens=1, temperature=T, seed=0)
    apart = abs(by_hand[row, one.ids[0]].log() - one.sampled_logprobs[0])
    print(f"at {T}: {one.tokens[0]!r}, the same to 1e-4: {bool(apart < 1e-4)}")
if checked.passed:
    yours = with_temperature(logits, temperature)
    print("your function, to 1e-5:", bool((yours - by_hand).abs().max() < 1e-5))

# %% [markdown]
# **To take away:** the model's part ends with the logits. A setting changes how a token is chosen from them, never the
# model.

# %% [markdown]
# ## 2 · Cutting the tail
# *11 minutes · medium · top-k, top-p, min-p*
#
# Most tokens are nonsense after any given beginning, but there are so many that together they are drawn often. So one cuts
# them off. **Top-k** keeps the k best. **Top-p** keeps the fewest that add up to a probability of p. **Min-p** keeps those
# with at least that share of the best token's probability.

# %%
question = "The best thing about living by the sea is ... How many tokens stay with top_p=0.9?"
stay = lk.predict("generation.tail", question, unit="tokens", low=1, high=49_152)
stay

# %%
beginnings = ["The capital of France is", "The best thing about living by the sea is"]
left = {}
for text in beginnings:
    for name, value in (("top_k", 50), ("top_p", 0.9), ("min_p", 0.1)):
        one = lab.generate(
            text, chat=False, max_new_tokens=1, temperature=1.0, seed=0, **{name: value}
        )
        left[text, name] = int(one.distribution(0).stages["tokens"].iloc[-1])
stay.show(left[beginnings[1], "top_p"])

# %% tags=["nbval-check-output"]
for text in beginnings:
    counts = ", ".join(f"{name} {left[text, name]:,}" for name in ("top_k", "top_p", "min_p"))
    print(f"{text!r}: {counts}")

# %% [markdown]
# A fixed k keeps as many where the model is sure as where it is not. The other two follow the model. Top-p by hand:

# %%
# exercise: generation.top_p as checked

# %% tags=["nbval-check-output"]
from transformers import TopPLogitsWarper

logits = torch.stack([lab.next_logits(text, chat=False) for text in beginnings])
kept = TopPLogitsWarper(0.9)(None, logits).isfinite()
print("tokens that stay, by transformers:", kept.sum(-1).tolist())
if checked.passed:
    print("by your function, the same:", torch.equal(top_p(logits, 0.9).isfinite(), kept))

# %% [markdown]
# Turn it yourself. The bars are the next token's probabilities; below, the model writes on.

# %%
lk.views.temperature(lab, beginnings[1], chat=False, max_new_tokens=12)

# %% [markdown]
# **To take away:** temperature reshapes, the others cut. Top-p and min-p cut much where the model is sure, and little where
# it is not.

# %% [markdown]
# ## 3 · The cache
# *13 minutes · medium · why writing is not slower than it is*
#
# To write a token the model has to look back at all tokens before it, at their keys and values (notebook
# [02_attention](02_attention.ipynb)). Those don't change when the text grows. So they are kept: the **KV cache**.

# %%
question = (
    "A prompt of 100 tokens, 100 tokens written. "
    "Without a cache, how many times as many tokens go through the model?"
)
times = lk.predict("generation.cache", question, unit="times", low=1, high=1000)
times

# %%
prompt, new = 100, 100
without = sum(prompt + i for i in range(new))  # the whole text, for every new token
with_it = prompt + new - 1  # the prompt once, then each new token once
times.show(without / with_it)

# %% tags=["nbval-check-output"]
print(
    f"without {without:,}, with a cache {with_it:,} tokens: "
    f"{without / with_it:.0f} times as many"
)

# %% [markdown]
# What has to be computed with a cache? Only the new tokens, which look at what is cached and at one another:

# %%
# exercise: generation.with_cache

# %% [markdown]
# In the real model: read all but the last token of a text and keep keys and values, then give it the last token alone.

# %%
ids = torch.tensor([tiny.tokenizer(lk.quantization.texts(1)["prose"][0][:200]).input_ids])
with torch.no_grad():
    whole = tiny.model(ids).logits[0, -1]
    read = tiny.model(ids[:, :-1], use_cache=True).past_key_values
    taken = sum(part.nbytes for layer in read.layers for part in (layer.keys, layer.values))
    alone = tiny.model(ids[:, -1:], past_key_values=read).logits[0, -1]

# %% tags=["nbval-check-output"]
print("the last token's logits, the same to 1e-4:", bool((whole - alone).abs().max() < 1e-4))
for_a_token = tiny.memory().kv_bytes_per_token
print(
    f"bytes of the cache for a token: {taken // (ids.shape[1] - 1):,} measured, "
    f"{for_a_token:,} computed"
)

# %% [markdown]
# Kept is a key and a value for each token, layer and key-value head. In large models that is a lot. Those whose heads share
# keys and values, or that look back through a window of limited width, pay less (the cache alone, in 16 bits):

# %% tags=["nbval-check-output"]
for name in ("llama-2-7b", "llama-2-70b", "mistral-7b", "llama-3.2-1b"):
    short, long = (
        lk.memory(name, tokens=n, dtype="bfloat16").kv_cache_bytes for n in (4_096, 65_536)
    )
    print(
        f"{name:13} {short / 2**30:6.2f} GiB at 4,096 tokens {long / 2**30:7.2f} GiB at 65,536"
    )

# %% [markdown]
# Many prompts begin alike: with the same instructions, the same document. Then what they share is read once:

# %%
document = lk.quantization.texts(2)["encyclopaedia"][1][:300]
with lab.prefix(document, chat=False):
    answers = [
        lab.generate(document + more, chat=False, max_new_tokens=5)
        for more in ("\nIn one word, this text is about", "\nThe most important fact is")
    ]

# %% tags=["nbval-check-output"]
for each in answers:
    print(f"{each.reuse.tokens} tokens taken over, {each.reuse.run} run")

# %% [markdown]
# **To take away:** a cache turns a cost that grows with the square of the length into one that grows with the length, and
# pays with memory.

# %% [markdown]
# ## 4 · Another way to go on
# *9 minutes · easy · branches share a cache*
#
# What if the model had taken its second choice? A **branch** has the same tokens up to one place and another one there. All
# before that place is in the cache.

# %%
story = lab.generate("Once upon a time, there was a", chat=False, max_new_tokens=16)
at = 8
other = story.top(2)[at][1]  # the second best at that place
branched = story.branch(at, other.id)

# %% tags=["nbval-check-output"]
print("first: ", repr(story.text))
print("branch:", repr(branched.text))
print(
    f"tokens taken over: {branched.reuse.tokens}, "
    f"run before the next came: {branched.reuse.run}"
)

# %% [markdown]
# (Two are run where one would do: the token before the place as well, so that labkit sees the distribution there again, and
# notices if the model has been changed.) It is the text that a fresh run gives:

# %% tags=["nbval-check-output"]
known = story.prompt_ids + story.ids[:at] + [other.id]
fresh = lab.generate(known, max_new_tokens=16 - at - 1)
print("same tokens:", fresh.ids == branched.ids[at + 1 :])

# %% [markdown]
# What has to be done to the keys and values of the first text?

# %%
# exercise: generation.branch

# %% [markdown]
# Now you: hold a token, click one of its alternatives, and the text goes on from there.

# %%
lk.views.tree(story)

# %% [markdown]
# In a conversation every reply is such a tree. (Say something to it. It is a very small model: don't believe a word.)

# %%
lk.views.chat(lab, max_new_tokens=48)

# %% [markdown]
# **To take away:** where texts begin alike, what they share is computed once. That makes it cheap to look to the side.

# %% [markdown]
# ## 5 · Hold it to a form
# *14 minutes · medium · JSON mode, and what it guarantees*
#
# Ask a small model for one word, and it talks:

# %%
ask = "Is this review positive or negative? The food was cold and the waiter rude."
words = ["positive", "negative"]
free = lab.generate(ask, max_new_tokens=10)
print(free.text)

# %% [markdown]
# But we choose the tokens. At each step, give every token that leads to none of the words the score minus infinity:

# %%
question = (
    "How much of the model's own probability for the first token do the two words leave out?"
)
lost = lk.predict("generation.forbidden", question, unit="%", low=0, high=100)
lost

# %%
held = lab.generate(ask, form=words)
lost.show(100 * held.forbidden[0])

# %% [markdown]
# Such a mask, for words of one token or several:

# %%
# exercise: generation.masked_choice as checked

# %% tags=["nbval-check-output"]
logits = lab.next_logits(ask)
options = [lab.tokenizer(word).input_ids for word in words]
first = [option[0] for option in options]
by_hand = 1 - torch.softmax(logits, dim=-1)[first].sum()
print(f"the answer: {held.text}")
print(f"forbidden: {held.forbidden[0]:.1%} by labkit, {by_hand:.1%} by hand")
if checked.passed:
    masked = masked_choice(logits, options, [], lab.tokenizer.eos_token_id)
    print("your function's best token:", lab.token_text(int(masked.argmax())))

# %% [markdown]
# (labkit allows every way to spell a word, such as *n* + *egative*. By hand we allowed one.) The answer is now one of two
# words. But where nearly all of what the model wanted to say was forbidden, the answer is made by the form as much as by the
# model.
#
# JSON works the same way. What may come next is found by a parser, here llguidance. The strip under the text shows
# what the form forbade:

# %%
schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "job": {"type": "string", "maxLength": 20},
    },
    "required": ["name", "age", "job"],
    "additionalProperties": False,
}
facts = [
    "Ana is 34 years old and works as a nurse.",
    "Ben is 61 years old and works as a baker.",
    "Chloe is 27 years old and works as a pilot.",
    "Farid is 45 years old and works as a farmer.",
]
prompts = [
    f"{fact} Write this as a JSON object with the keys name, age and job." for fact in facts
]
whole = lab.generate(prompts[0], form=schema, max_new_tokens=40)
lk.views.tokens(whole, prompt=False)

# %% [markdown]
# An article states: masking logits guarantees valid JSON without a retry, at no cost. Each prompt drawn with and without:

# %%
import json


def is_json(text):
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


settings = {"max_new_tokens": 40, "temperature": 0.7, "seed": 0}
without = lab.generate(prompts, **settings)
masked = lab.generate(prompts, form=schema, **settings)
for a, b in zip(without, masked, strict=True):
    print(repr(a.text[:60]), "|", repr(b.text))

# %% tags=["nbval-check-output"]
plain, valid = (sum(is_json(each.text) for each in made) for made in (without, masked))
steps = sum(len(each) for each in masked)
overridden = sum(len(each.overridden) for each in masked)
print(f"valid: {plain} of {len(prompts)} without, {valid} of {len(prompts)} with the mask")
print(f"at {overridden} of {steps} steps the form forbade more than half")
cut = lab.generate(prompts[0], form=schema, max_new_tokens=6)
print(f"with six tokens: {cut.text!r}, complete: {cut.form_complete}")

# %%
lk.claim("json-for-free", valid / len(prompts), note="share that is valid with the mask")

# %% [markdown]
# Valid, where the text may end. A limit of tokens cuts it anywhere, and the guarantee is gone. And *valid* is not *right*:
# compare what is above with the facts.
#
# A good library says what it can't do. One that leaves a keyword out in silence lets wrong texts through:

# %% tags=["nbval-check-output"]
try:
    lab.generate("Three numbers:", form={"type": "array", "uniqueItems": True})
except lk.BadInput as refused:
    print(refused)

# %% [markdown]
# **To take away:** a mask guarantees the form of a text that may end, and nothing about what it says. The probability that
# it forbade tells how hard it had to push.

# %% [markdown]
# ## 6 · Several tokens in one pass
# *14 minutes · hard · speculative decoding*
#
# To write one token every weight is read from memory, and that is what takes the time. To *check* several tokens, they are read
# once for all of them. So somebody cheap drafts some tokens, and the model checks them in one pass: it keeps those it would
# have written itself, and one more.
#
# The cheapest draft needs no model: look up how the text went on when it last read like this.

# %%
fruit = "apples, pears, plums, cherries"
listing = f"Repeat this list exactly:\n{fruit}, {fruit}\n"
question = "Up to ten drafted tokens a pass. How many tokens does a pass bring here?"
brings = lk.predict("generation.speculation", question, unit="tokens", low=1, high=11)
brings

# %%
plain = lab.generate(listing, max_new_tokens=24)
drafted = lab.generate(listing, max_new_tokens=24, speculation="prompt_lookup")
brings.show(drafted.speculation.tokens_per_pass)

# %% tags=["nbval-check-output"]
said = drafted.speculation
print("the same tokens:", drafted.ids == plain.ids)
print(f"{said.accepted} of {said.proposed} drafted tokens accepted")
print(f"{said.tokens_per_pass:.2f} tokens a pass, at most {said.perfect_tokens_per_pass:.2f}")

# %%
lk.views.drafts(drafted)

# %% [markdown]
# Greedy, that is easy: a drafted token stays where it is the best one. But what if tokens are to be *drawn*?

# %%
# exercise: generation.accept

# %% [markdown]
# Does that really give the large model's distribution? Take two models with the same tokens, and draw the next token 20,000
# times: plainly from the large one, and drafted by the small one. Distance is the total variation, half the sum of
# all differences of two distributions: 0 for equal ones, 1 for those that have nothing in common.

# %%
small = lk.load("labkit-squeeze", dtype="float32", device="cpu")
p = torch.softmax(tiny.next_logits("The city is", chat=False).double(), dim=-1)
q = torch.softmax(small.next_logits("The city is", chat=False).double(), dim=-1)
n, dice = 20_000, torch.Generator().manual_seed(0)


def drawn(weights):
    return torch.multinomial(weights, n, replacement=True, generator=dice)


draft = drawn(q)
u = torch.rand(n, generator=dice, dtype=torch.float64)
accepted = u < p[draft] / q[draft]
result = torch.where(accepted, draft, drawn((p - q).clamp(min=0)))


def distance(tokens):
    return 0.5 * (torch.bincount(tokens, minlength=len(p)) / n - p).abs().sum().item()


# %% tags=["nbval-check-output"]
print(
    f"distance from p: drawn plainly {distance(drawn(p)):.3f}, by drafts {distance(result):.3f}"
)
print(f"                 the drafts themselves {distance(draft):.3f}")
print(
    f"accepted: {accepted.double().mean():.3f}; "
    f"what p and q have in common: {torch.minimum(p, q).sum():.3f}"
)

# %% [markdown]
# By drafts it is as near as drawing plainly. And the share accepted is just what the two distributions have in common: so a
# draft helps as much as it agrees.
#
# An article states that speculative sampling lowers the latency and leaves the distribution as it was. The second half you
# have just seen. The first depends on the text:

# %%
tale = "Tell me about the sea."
plain = lab.generate(tale, max_new_tokens=20)
drafted = lab.generate(tale, max_new_tokens=20, speculation="prompt_lookup")
print(drafted.speculation)
gain = plain.decode_seconds / drafted.decode_seconds
lk.claim(
    "spec-decoding", round(gain, 2), note="times as fast, on text that does not repeat itself"
)

# %% tags=["nbval-check-output"]
print("the same tokens:", drafted.ids == plain.ids)
print(f"{drafted.speculation.tokens_per_pass:.2f} tokens a pass")

# %% [markdown]
# A pass that brings one token gains nothing: what is left then is the loop around it, a little slower or faster than the
# plain one from run to run.
#
# **To take away:** drafting changes nothing about the text. It is faster where drafts are cheap and often right: in lists,
# code, quotations.

# %% [markdown]
# ## 7 · Does temperature 0 repeat itself?
# *6 minutes · medium · what rounding can do*
#
# Greedy decoding has no dice. Yet people report many answers to one prompt at temperature 0. A server runs
# a prompt beside others, and in another shape of the same product numbers are added up in another order.

# %%
question = (
    "Eight prompts, each written greedily alone and then all at once, in float32. "
    "How many texts change?"
)
choices = ("none", "one or two", "three or more")
changed = lk.predict("generation.temperature_0", question, "choice", choices=choices)
changed

# %%
texts = lk.quantization.texts(4)
starts = [
    t[:n]
    for kind in ("prose", "encyclopaedia")
    for t, n in zip(texts[kind], (60, 90, 120, 150), strict=True)
]


alone = [tiny.generate(start, chat=False, max_new_tokens=24) for start in starts]
together = tiny.generate(starts, chat=False, max_new_tokens=24)
pairs = list(zip(alone, together, strict=True))
texts_changed = sum(a.ids != b.ids for a, b in pairs)
moved = max((a.top_logprobs[0] - b.top_logprobs[0]).abs().max().item() for a, b in pairs)
changed.show(
    "none" if texts_changed == 0 else "one or two" if texts_changed < 3 else "three or more"
)

# %% tags=["nbval-check-output"]
closest = min(lk.generation.smallest_margin(each) for each in alone)
print(f"float32: {texts_changed} of {len(starts)} texts change")
print("log-probabilities move by less than 1e-4:", moved < 1e-4)
print(f"the closest choice had a margin of {closest:.3f}")

# %% [markdown]
# The numbers do change, in a far digit. A text changes only where two tokens are nearer than that. In **bfloat16**, the
# usual format of large models, a number has two or three digits, and two tokens often have the same logit. One prompt, alone
# and beside a second one, in both formats. (What comes out in bfloat16 depends on your processor.)

# %%
fox = "Write a short story about a fox and a clock."
rough = lk.load(dtype="bfloat16", device="cpu")
different = {}
for name, model in (("float32", lab), ("bfloat16", rough)):
    alone = model.generate(fox, max_new_tokens=12)
    beside = model.generate([fox, "Hi!"], max_new_tokens=12)[0]
    different[name] = len({tuple(alone.ids), tuple(beside.ids)})
    print(f"{name}: {different[name]} text(s)")
    print("   ", repr(alone.text))
    print("   ", repr(beside.text))
    if parted := lk.generation.first_difference(alone, beside):
        print(
            f"    they part at token {parted.at}, where the margin was {parted.one_margin:.2f}"
        )
lk.claim("temperature-0", different["bfloat16"], note="texts of one prompt, in bfloat16")

# %% [markdown]
# **To take away:** greedy decoding repeats itself as far as the arithmetic does. In float32 that is nearly always; in 16 bits
# logits tie, and what else is in the batch may decide.

# %% [markdown]
# ## 8 · Faster
# *Extra, 5 minutes · easy · many texts, other engines*
#
# As several tokens can be checked in one pass, so can several texts be written: the weights are read once for all.

# %%
speeds = tiny.throughput(batches=(1, 4, 16), max_new_tokens=12, rounds=1)
lk.views.throughput(speeds)

# %% [markdown]
# And the loop around the model can be another. `speed="fast"` has a loop of labkit's own; llama.cpp is a program made for
# processors, which reads the model's 4-bit file as it is.

# %%
ways = {"plain": {}, "fast": {"speed": "fast"}, "llama.cpp": {"engine": "llama.cpp"}}
for name, how in ways.items():
    try:
        one = lab.generate("Tell me about the sea.", max_new_tokens=12, **how)
        print(f"{name:10} {one.tokens_per_second:6.1f} tokens a second, {one.engine}")
    except lk.LabError as missing:
        print(f"{name:10} {missing}")

# %% [markdown]
# **To take away:** a batch makes all texts together faster, not each of them. An engine makes each faster, and its numbers are
# not quite the same.

# %% [markdown]
# ## What you have seen
# - A token is chosen from logits by filters in a fixed order; they change the choice and not the model.
# - A cache keeps keys and values, so that each new token costs one token. It can be shared: by prompts that begin alike, by
#   branches of a text.
# - A mask guarantees a form, if the text may end. How much probability it forbade tells how hard it pushed.
# - Drafted tokens are checked in one pass. The text is the model's own; the gain depends on how often drafts are right.
# - Temperature 0 is repeatable as far as the arithmetic is.
#
# Can you say, without looking: why does top-k keep too many tokens in one place and too few in another? Why is a valid JSON no
# right answer? When does drafting make a model slower?
#
# <details><summary>Answers</summary>
#
# Because it keeps the same number whether the model is sure or not. Because the mask knows the grammar, and not the facts. When
# drafts are rejected: they took time to make and to check, and brought one token all the same.
# </details>

# %%
lk.progress()

# %% [markdown]
# **To read more:** A. Holtzman et al., *The Curious Case of Neural Text Degeneration* (2020), on top-p; M. Nguyen et al.,
# *Turning Up the Heat: Min-p Sampling* (2024); Y. Leviathan et al., *Fast Inference from Transformers via Speculative
# Decoding* (2022), and C. Chen et al., *Accelerating Large Language Model Decoding with Speculative Sampling* (2023); A.
# Saxena, *Prompt Lookup Decoding* (2023); B. Willard and R. Louf, *Efficient Guided Generation for Large Language Models*
# (2023).
