# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 5 · LoRA: teach a model something, and take it back
#
# [![Open in Colab](attachment:colab.png)]({{COLAB}})
#
# A model has hundreds of millions of weights. To teach it a task you train less than a hundredth of that, in small matrices
# beside its own. In this notebook you build such a layer by hand, teach a real model a task in about a minute, see what it
# forgot on the way, and switch it all off again.
#
# ![A training: the loss on held-out answers falls, the loss on general text rises](attachment:05_lora.png)
#
# | | |
# |---|---|
# | **Time** | {{MINUTES}} minutes in {{SECTIONS}} sections, about {{EXERCISE_MINUTES}} of them for six exercises; three extra sections take {{EXTRA_MINUTES}} more. Each section can be done alone |
# | **Contains** | {{EXERCISES}}, {{PREDICTIONS}}, {{CLAIMS}} from articles put to the test |
# | **Runs on** | any computer with {{MEMORY}} of free memory; no GPU, no account; labkit's default model (93 MB, fetched once) |
# | **You need** | to read Python and a little PyTorch (a tensor, its shape, `@` for a matrix product) |
# | **You will be able to** | check what of your data is learnt before you train, tune a model on a small computer, and say what it cost |

# %% [markdown]
# ## Set-up
# In Colab the first cell installs labkit, without touching the PyTorch that is there. Elsewhere it only checks. The second
# opens the model and makes a task: dates as people write them, and the same dates as ISO 8601 has them. A generator makes
# them, so every answer can be checked. 16 dates are **held out**: nothing is ever trained on them.
#
# **Run these two. Then start at any section.**

# %%
# set-up

# %%
import torch

lab = lk.load(dtype="float32", device="cpu")
task = lk.lora.tasks.dates(n=160, held_out=16)
for sample in task.train[:3]:
    print(f"{sample.prompt!r} -> {sample.completion!r}")

# %% [markdown]
# ## 1 · What is learnt
# *10 minutes · easy · look before you train*
#
# A model learns from a sample by predicting its tokens, one after the other. Which tokens? If all of them, it learns to write
# questions; if the last is left out, it never learns to stop. Both have happened in public trainings, for hours, without an
# error. So look first. Shaded tokens carry loss; the others are only read.

# %%
found = lk.lora.mask(lab, task.train)
lk.views.mask(found)

# %% [markdown]
# What stands around the question is the **chat template**, the frame in which this model was trained to answer: a system
# message, then the turns, each between `<|im_start|>` and `<|im_end|>`. The answer carries loss, and so does the `<|im_end|>`
# after it, at which the model stops.

# %% tags=["nbval-check-output"]
print(
    f"{len(found.samples)} samples, {found.tokens:,} tokens, "
    f"of which {found.trained:,} carry loss"
)
print(f"ends with: {found.ending}")

# %% [markdown]
# In code a token without loss has the label -100. That is a convention of PyTorch's loss.

# %%
# exercise: lora.labels

# %% [markdown]
# What can't be trained on rightly is refused, with the reason:

# %% tags=["nbval-check-output"]
import textwrap

empty = [{"prompt": "What is the date today?", "completion": ""}]
twice = [{"prompt": s.prompt, "completion": s.completion} for s in task.train[:2]]
for what, data, held_out in (
    ("an empty answer", empty, None),
    ("held out and trained on", twice, twice),
):
    try:
        lk.lora.prepared(lab, data, held_out)
    except lk.LabError as error:
        print(f"{what}:", *textwrap.wrap(str(error), 90), sep="\n  ")

# %% [markdown]
# **To take away:** the answer and its end carry loss, the prompt does not. Look at the mask before every training.

# %% [markdown]
# ## 2 · The loss
# *10 minutes · medium · one shift, one mask*
#
# At each token the model gives a probability to every token that might come next. The loss is minus the log of the
# probability of the one that does come, in **nats**; 0 would be certain and right.

# %%
# exercise: lora.tuning_loss as checked

# %% [markdown]
# The same by hand on a held-out sample, and by labkit. Beside it the first thing that a measure of change has to show: a model
# that nobody touched has forgotten exactly nothing.

# %% tags=["nbval-check-output"]
one = lk.lora.mask(lab, [task.held_out[0]]).samples[0]
logits = lab.trace(one.ids, keep="logits").logits
labels = torch.tensor(one.labels)
log_p = logits[:-1].log_softmax(-1)
learnt = labels[1:] != -100
by_hand = -log_p[learnt, labels[1:][learnt]].mean().item()

general = ["The sea was calm that morning, and the ship lay still."]
untouched = lk.lora.forgotten(lab, lab, [task.held_out[0]], general=general).set_index("texts")
library = untouched.loc["task", "original_loss"]
print(
    f"by hand {by_hand:.4f} nats, by labkit the same to 1e-5: {abs(by_hand - library) < 1e-5}"
)
print("an untouched model's change on general text:", untouched.loc["general", "change"])
if checked.passed:
    print("your function:", abs(tuning_loss(logits, labels).item() - by_hand) < 1e-5)

# %% [markdown]
# **To take away:** the scores at a token are about the next one; the loss is the mean over the tokens that have a label.

# %% [markdown]
# ## 3 · A small matrix beside a large one
# *14 minutes · medium · what LoRA is*
#
# To change what a layer does, one could train its matrix *W*. **LoRA** (Hu et al. 2021) leaves *W* as it is and adds the
# product of two thin matrices: *a* leads from the layer's input to a few numbers, *b* leads from those to its output. How few
# is the **rank**. The product is scaled by alpha / rank; together they are called an **adapter**.

# %%
# exercise: lora.adapted

# %% [markdown]
# A whole LoRA layer fits on a few lines. Beside it the library that most people use, peft, with the same numbers:

# %% tags=["nbval-check-output"]
import peft


class LoRALayer(torch.nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear, self.scale = linear.requires_grad_(False), alpha / rank
        self.a = torch.nn.Parameter(
            torch.randn(rank, linear.in_features) / linear.in_features**0.5
        )
        self.b = torch.nn.Parameter(
            torch.zeros(linear.out_features, rank)
        )  # so it begins as it was

    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.a.T) @ self.b.T


torch.manual_seed(0)
linear = torch.nn.Linear(576, 192, bias=False)
x = torch.randn(5, 576)
before = linear(x)
ours = LoRALayer(linear, rank=16, alpha=32)
print("before the first step nothing has changed:", torch.equal(ours(x), before))

config = peft.LoraConfig(r=16, lora_alpha=32, target_modules=["0"], init_lora_weights=False)
theirs = peft.inject_adapter_in_model(config, torch.nn.Sequential(linear))[0]
ours.a.data = theirs.lora_A["default"].weight.data
ours.b.data = theirs.lora_B["default"].weight.data
print("ours as peft's, to 1e-6:", torch.allclose(ours(x), theirs(x), atol=1e-6, rtol=0))

# %% [markdown]
# After training the small product can be added to *W*, and the layer costs what it did before:

# %%
# exercise: lora.merged

# %% tags=["nbval-check-output"]
together = linear.weight + ours.scale * ours.b @ ours.a
merged_output = x @ together.T
print("merged, to 1e-5:", torch.allclose(merged_output, ours(x), atol=1e-5, rtol=0))
print("and other than before:", not torch.allclose(merged_output, before, atol=1e-2))

# %% [markdown]
# **To take away:** LoRA adds b @ a, scaled, to what a layer puts out. As b begins at zero, training begins with the model as
# it was; afterwards the product can be merged.

# %% [markdown]
# ## 4 · A sliver of the weights
# *9 minutes · easy · why it fits on a small computer*
#
# An article gives this configuration: rank 16, on the query and value projections. What share of LLaMA 2 7B's weights does it
# train?

# %%
question = "Rank 16 on queries and values of LLaMA 2 7B: what share of the weights is trained?"
sliver = lk.predict("lora.share", question, unit="%", low=0, high=20)
sliver

# %%
# exercise: lora.trainable

# %% [markdown]
# labkit counts it on the model's own shape, without any weight in memory, and with everything that training needs besides:

# %%
seven = lk.lora.cost("llama-2-7b", rank=16, targets=("q_proj", "v_proj"), dtype="bfloat16")
sliver.show(100 * seven.share)

# %% tags=["nbval-check-output"]
whole = lk.lora.cost("llama-2-7b", method="full", dtype="bfloat16")
packed = lk.lora.cost("llama-2-7b", rank=16, method="qlora", dtype="bfloat16")
for name, cost in (("LoRA", seven), ("QLoRA", packed), ("full", whole)):
    print(
        f"{name:6}{cost.trainable:14,} trained ({cost.share:.3%}), "
        f"{cost.total_bytes / 2**30:5.1f} GiB in all"
    )
here = lk.lora.cost(lab, rank=16, targets=("q_proj", "v_proj"))
print(f"this lab's model: {here.trainable:,} trained ({here.share:.2%})")
lk.claim("lora-small", round(100 * seven.share, 3))

# %% [markdown]
# Full tuning keeps a gradient and two running means of Adam for every weight; LoRA only for the sliver. **QLoRA** (Dettmers et
# al. 2023) also packs the frozen weights into 4 bits. What is left are **activations**, which are kept for the backward pass
# and depend on the batch and its length, not on the rank.
#
# **To take away:** the trained share is small, and smaller the larger the model; what it saves are gradients and Adam's means.

# %% [markdown]
# ## 5 · Teach it
# *7 minutes · easy · a real training, about a minute*
#
# Before it learns, the model answers like this:

# %%
before = lk.lora.exact_match(lab, task)
for answer in before.table.head(3)[["prompt", "answer"]].itertuples():
    print(f"{answer.prompt!r}\n   -> {answer.answer!r}")
print(f"\nright: {before.share:.0%} of {len(before)}")

# %%
question = "After 34 steps of 4 samples: how many of the 16 held-out dates will be right?"
right = lk.predict("lora.right", question, unit="%", low=0, high=100)
right

# %% [markdown]
# The training runs in the background; the lab can be used meanwhile. Watch the curves: loss on the batch, loss on held-out
# answers, and **forgetting**, the loss on general text less what it was before. *Stop* keeps what was learnt so far.

# %%
run = lk.lora.finetune(
    lab,
    task.train,
    steps=34,
    batch=4,
    rank=16,
    alpha=32,
    held_out=task.held_out,
    measure_every=17,
)
lk.views.training(run)

# %%
run.wait()
adapter = run.adapter
run.history[["step", "loss", "held_out", "forgetting", "kl"]].dropna(subset=["held_out"]).round(
    3
)

# %%
with adapter.on():
    after = lk.lora.exact_match(lab, task)
right.show(100 * after.share)

# %%
gain = lk.lora.gain(before, after)
print(
    f"right before {before.share:.0%}, after {after.share:.0%}: "
    f"{gain.difference:+.0%} ({gain.low:+.0%} to {gain.high:+.0%})"
)
print(
    f"the same answers to other questions: {after.others:.0%}; "
    f"one answer to all: {after.constant:.0%}"
)
gain.table.head(4)[["prompt", "wanted", "after"]]

# %% [markdown]
# The two numbers in the second line are what no skill would give: the tuned model does read the question.
#
# An article states that a small tuned model beats a large one on a narrow task. No large model is at hand here, so that can't
# be tested. What can: the same model untuned, and untuned with eight solved examples in its prompt, which is how one asks a
# general model.

# %% tags=["answer"]
shown = [
    m
    for s in task.train[:8]
    for m in (
        {"role": "user", "content": s.prompt},
        {"role": "assistant", "content": s.completion},
    )
]
prompts = [[*shown, {"role": "user", "content": s.prompt}] for s in task.held_out]
answers = lab.generate(prompts, max_new_tokens=task.most_tokens)
solved = sum(
    task.grade(s.prompt, a.text.strip()) for s, a in zip(task.held_out, answers, strict=True)
)
print(
    f"untuned {before.share:.0%}, with eight examples {solved / len(answers):.0%}, "
    f"tuned {after.share:.0%}"
)
lk.claim(
    "small-beats-giant", 100 * after.share, note="after 34 steps; no large model is at hand"
)

# %% [markdown]
# **To take away:** a narrow task with checkable answers is learnt in seconds from some hundred samples. Hold some out, and
# put beside the result what no skill gives.

# %% [markdown]
# ## 6 · What it forgot
# *6 minutes · easy · nothing is free*
#
# The model was shown dates and nothing else. What has that done to everything else? (If you come from elsewhere, this section
# takes the adapter that comes with labkit, made in the same way with 40 steps.)

# %%
adapter = globals().get("adapter") or lk.lora.load(lab, "labkit-dates")
question = "On ordinary text, how much did the model's loss rise?"
forgot = lk.predict("lora.forgotten", question, unit="nats", low=-0.5, high=2)
forgot

# %%
lost = lk.lora.forgotten(lab, adapter, task.held_out).set_index("texts")
forgot.show(lost.loc["general", "change"])

# %%
lost[["original_loss", "loss", "change", "change_low", "change_high", "kl"]].round(3)

# %% [markdown]
# On the task's answers the loss fell; on general text it rose, though no text was in the training. The **KL divergence** says
# how far the predictions moved. Shenfeld et al. (2025) find that what a tuning forgets follows from its KL on the new task.
#
# Now turn it yourself. 0 is off, 1 as trained, below 0 takes away what was learnt, beyond 1 overdoes it:

# %%
lk.views.adapter(lab, adapter, "Date: March 5, 2019", tokens=16)

# %% [markdown]
# And off is off. Not nearly: every number is what it was.

# %% tags=["nbval-check-output"]
text = "The sea was calm that morning"
original = lab.trace(text, keep="logits").logits
with adapter.on():
    tuned = lab.trace(text, keep="logits").logits
again = lab.trace(text, keep="logits").logits
print("on, it is another model:", not torch.allclose(tuned, original, atol=1e-2))
print("off, bit for bit the same:", torch.equal(again, original))

# %% [markdown]
# **To take away:** measure what a tuning costs elsewhere, not only what it gains. An adapter can be scaled and switched off;
# the base is never lost.

# %% [markdown]
# ## 7 · Merge, blend, add
# *13 minutes · medium · adapters are vectors*
#
# To hand a tuned model on, merge it. Public tools have lost or doubled merges without a word, so labkit tests each one: the
# merged model has to predict as base and adapter together, and not as the base alone.

# %%
adapter = globals().get("adapter") or lk.lora.load(lab, "labkit-dates")
merged_lab = adapter.merge()
merged_lab.generate("Date: March 5, 2019", max_new_tokens=16).text

# %%
merged_lab.close()

# %% [markdown]
# Two adapters can be on at once, or become one:

# %%
# exercise: lora.blended

# %% [markdown]
# Another adapter comes with labkit: it answers in capitals. Dates and capitals together, and dates less capitals:

# %%
capitals = lk.lora.load(lab, "labkit-capitals")
question = "What is the capital of France?"
both, minus = adapter + capitals, capitals * -1.0
for name, each in (
    ("dates", adapter),
    ("capitals", capitals),
    ("both", both),
    ("minus capitals", minus),
):
    with each.on():
        print(f"{name:15} {lab.generate(question, max_new_tokens=12).text!r}")

# %% [markdown]
# Do they disturb one another? Their updates as long vectors have an angle, which foretells something. What really happens has
# to be measured: each alone on its own task, and both together.

# %%
style = lk.lora.tasks.style(n=40, held_out=16)
pair = {"dates": adapter, "capitals": capitals}
met = lk.lora.interference(pair, {"dates": task.held_out, "capitals": style.held_out})
print(f"cosine of their updates {met.cosines.loc['dates', 'capitals']:+.3f}")
print(f"of random ones, 95 % are below {met.null.loc['dates', 'capitals']:.3f}")
met.table[
    ["adapter", "loss_base", "loss_alone", "loss_together", "harm", "harm_foretold"]
].round(3)

# %% [markdown]
# The angle foretells next to nothing, and the measured harm can be far larger: it says how much one adapter pushes along the
# other's direction, not what it does to the layers after it.
#
# **To take away:** an exact sum of two adapters has the ranks of both. Merging can be tested, so test it. Whether adapters
# get along is measured on text.

# %% [markdown]
# ## 8 · What matters
# *7 minutes · easy · several seeds, recorded*
#
# A training of a minute tells little of what helps in general: another seed, another result. labkit's recipe
# (`labkit/recipes/lora.py`) did the same tunings several times over, mostly of a small model, and kept the records. Each dot
# is a training.

# %%
ranks = lk.lora.recorded("rank")
middle = ranks.groupby("rank")["forgetting"].median()
rank_guess = lk.predict(
    "lora.rank",
    "Forgetting on general text, by rank",
    kind="curve",
    x=[int(r) for r in middle.index],
    low=0,
    high=4,
    x_label="rank",
    y_label="nats",
)
rank_guess

# %%
rank_guess.show(middle.tolist())

# %%
lk.views.runs(ranks, x="rank", y=["held_out", "forgetting"])

# %% tags=["nbval-check-output"]
print(ranks.groupby("rank")[["held_out", "forgetting", "kl"]].median().round(2).to_string())

# %% [markdown]
# A larger rank learns the task a little better, by less and less, and forgets more and more. (alpha is twice the rank in all of
# them, so the product's scale stays.)
#
# An article states that noise on the embeddings (**NEFTune**, Jain et al. 2023) helps where samples are few. 40 samples, with
# and without:

# %% tags=["nbval-check-output"]
noise = lk.lora.recorded("neftune").fillna({"neftune": 0})
table = noise.groupby(["model", "neftune"])[["held_out", "right", "forgetting"]].median()
print(table.round(3).to_string())
small = table.loc["labkit-dense", "held_out"]
lk.claim("neftune", round(small[5.0] - small[0.0], 2))

# %% [markdown]
# On the small model noise lowers the held-out loss, with every seed, and doubles what is forgotten. On the default model 40
# samples are enough without it, and two seeds show no difference.
#
# And must the learning rate fall along a schedule? A **schedule-free** optimizer (Defazio et al. 2024) averages its weights
# instead:

# %% tags=["nbval-check-output"]
schedules = lk.lora.recorded("schedule")
table = schedules.groupby(["model", "schedule"])[["held_out", "right", "forgetting"]].median()
print(table.round(3).to_string())
small = table.loc["labkit-dense", "held_out"]
lk.claim("schedule-free", round(small["schedule_free"] - small["cosine"], 2))

# %% [markdown]
# Schedule-free does at least as well as the schedules and forgets less, on the default model half as much. It is not merely
# leaving the schedule out: *constant*, without a schedule and without averaging, is the worst of the four on both counts.
#
# "LoRA wants ten times the learning rate of full tuning, and adapters on all matrices, not on attention alone" (Schulman and
# others 2025, *LoRA Without Regret*). By rate, both methods:

# %%
rates = lk.lora.recorded("learning_rate")
lk.views.runs(rates, x="learning_rate", y=["held_out", "forgetting"], by="method")

# %% tags=["nbval-check-output"]
best = rates.groupby(["method", "learning_rate"])["held_out"].median()
for method in ("lora", "full"):
    print(
        f"{method}: best at {best[method].idxmin():g}, held-out loss {best[method].min():.2f}"
    )
where = lk.lora.recorded("targets").groupby("targets")[["held_out", "forgetting"]].median()
print(where.round(2).to_string())

# %% [markdown]
# On this small model LoRA's best rate is three times full tuning's, not ten times. Adapters on all matrices do better than on
# queries and values alone, on both counts. Another paper has it that "LoRA learns less and forgets less" (Biderman et al. 2024).
# Less it learned. But where both came equally far on the task, LoRA had forgotten more, as you can read off the two charts: the
# second half does not hold here. The trainings are short and the model is tiny; on yours, measure.
#
# **To take away:** compare with several seeds and look at the spread. What lowers the loss on the task may raise what is
# forgotten; always look at both.

# %% [markdown]
# That was the main line. If you stop here, go on to *What you have seen* at the end. Three sections are left for those who
# want more.

# %% [markdown]
# ## 9 · A rank for your budget
# *Extra, 5 minutes · easy · count before you train*

# %%
# exercise: lora.largest_rank

# %%
for rank in (1, 4, 16, 64):
    each = lk.lora.cost(lab, rank=rank)
    parts = each.set_index("part")["bytes"]
    print(
        f"rank {rank:2}: adapter {parts['adapter'] / 1e6:5.1f} MB, with gradients and Adam "
        f"{(parts['adapter'] + parts['gradients'] + parts['optimizer']) / 1e6:6.1f} MB"
    )

# %% [markdown]
# **To take away:** each trained number costs sixteen bytes: itself, its gradient, and two means.

# %% [markdown]
# ## 10 · Inside the change
# *Extra, 9 minutes · medium · what did it learn where?*
#
# The product b @ a is a matrix like any other. How large is it beside the one that it changes, and how many directions does it
# use?

# %%
# exercise: lora.effective_rank

# %%
adapter = globals().get("adapter") or lk.lora.load(lab, "labkit-dates")
lk.views.updates(lk.lora.updates(adapter))

# %% [markdown]
# The dashed line is what a random change of the same rank would use. What was learnt uses fewer directions of the sixteen it
# has: a first sign that a lower rank would do.
#
# **To take away:** a change of low rank is easily taken apart. Its size by layer says where the tuning moved the model.

# %% [markdown]
# ## 11 · What can't be learnt like this
# *Extra, 3 minutes · easy · the counter-example*
#
# A form is learnt in seconds. Arithmetic is not. The same tuning with other tasks, on the default model:

# %% tags=["nbval-check-output"]
tasks = (
    lk.lora.recorded("task")
    .groupby("task")[["right_untuned", "right", "held_out", "forgetting"]]
    .median()
)
print(tasks.round(2).sort_values("right").to_string())

# %% [markdown]
# Dates, sentences to JSON and answers in capitals are forms, and are learnt. Roman numerals take arithmetic on digits, and hardly
# one comes out right; the loss falls all the same, so don't trust the loss alone. A ticket's tag has a form, which is learnt, and
# a judgement in it, which is not always.
#
# Shenfeld et al. (section 6) say that what is forgotten follows from the KL on the new task. All these tunings of the default
# model, and those of the small one:

# %% tags=["nbval-check-output"]
everything = lk.lora.recorded().drop_duplicates(
    [
        "model",
        "task",
        "method",
        "rank",
        "targets",
        "learning_rate",
        "schedule",
        "neftune",
        "samples",
        "steps",
        "seed",
    ]
)
for model in ("smollm2-135m-instruct", "labkit-dense"):
    some = everything[everything["model"] == model]
    print(f"{model}: R² {some['kl'].corr(some['forgetting']) ** 2:.2f} over {len(some)} runs")

# %% [markdown]
# Within the default model's tunings, which have one rank and one rate, KL goes with forgetting and explains less than half of
# the differences. Across ranks and rates, on the small model, it explains next to nothing: the same KL on the task can cost
# little or much elsewhere. The law that they found for large models and long trainings can't be seen here.
#
# And is a model that has read more harder to tune, as one article has it of quantizing (notebook 4)? Three checkpoints of one
# small training, the same tuning:

# %%
along = lk.lora.recorded("harder")
lk.views.runs(along, x="model", y=["held_out", "forgetting"], by="learning_rate")

# %% tags=["nbval-check-output"]
tuned = along[along["learning_rate"] == 1e-3].groupby("model", sort=False)
print(tuned[["held_out_untuned", "held_out", "forgetting"]].median().round(2).to_string())

# %% [markdown]
# No: the checkpoint that had read most gained most from the same tuning and forgot least. It is one training of one small
# model; of quantizing the article's statement held on the same checkpoints.
#
# **To take away:** try a task small before you believe in it, and keep a counter-example at hand.

# %% [markdown]
# ## What you have seen
# - Look at the mask first: the answer and its end carry loss, the prompt does not.
# - LoRA trains two thin matrices beside a frozen one, for LLaMA 2 7B an eighth of a percent of the weights. The product can be
#   merged, scaled, added to others, and switched off without a trace.
# - A narrow task with a checkable answer is learnt in a minute on a small computer; arithmetic is not.
# - Nothing is free: the loss on general text rises, with the rank and the learning rate above all. Measure it beside the gain.
# - One training proves nothing about a method. Several seeds, the same held-out items, and what no skill gives.
#
# Can you say, without looking: why does b begin at zero? Why must the token that ends an answer carry loss? Why is adding a to
# a and b to b not the sum of two adapters?
#
# <details><summary>Answers</summary>
#
# So that training begins with the model as it was: b @ a is zero. Because a model learns to stop only where stopping was
# asked of it. Because (b1 + b2) @ (a1 + a2) has two more products in it, b1 @ a2 and b2 @ a1, which nobody trained.
# </details>

# %%
lk.progress()

# %% [markdown]
# **To read more:** E. Hu et al., *LoRA* (2021); T. Dettmers et al., *QLoRA* (2023); D. Kalajdzievski, *rsLoRA* (2023); S.-Y. Liu
# et al., *DoRA* (2024); F. Meng et al., *PiSSA* (2024); N. Jain et al., *NEFTune* (2023); A. Defazio et al., *The Road Less
# Scheduled* (2024); D. Biderman et al., *LoRA Learns Less and Forgets Less* (2024); R. Shuttleworth et al., *LoRA vs Full
# Fine-tuning* (2024); J. Schulman et al., *LoRA Without Regret* (2025); I. Shenfeld et al., *RL's Razor* (2025).
