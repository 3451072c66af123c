"""labkit.lora.finetune: it learns, in the background, and neither the lab nor the process is changed by it."""

from __future__ import annotations

import _thread
import json
import math
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import fuzz
import numpy as np
import pytest
import torch

import labkit as lk
from labkit.lora import checkpoints, finetuning, forgetting, masks
from labkit.lora.finetuning import finetune
from labkit.lora.runs import Run, current_run
from labkit.lora.settings import checked
from labkit.lora.trainers import SeededDropout, epoch_batches, neftune

WORDS = ["sat", "tree", "dog", "mat", "tired", "other", "because", "was", "where", "after"]
DATA = [{"prompt": f"the cat {word}", "completion": f"{word} ran"} for word in WORDS[:8]]
HELD_OUT = [{"prompt": f"the cat {word}", "completion": f"{word} ran"} for word in WORDS[8:]]
QUICK: dict[str, Any] = {"targets": "all-linear", "rank": 4, "learning_rate": 1e-2, "batch": 4, "prompt": False}


def tiny() -> lk.Lab:
    return lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")


def tune(lab: lk.Lab, **options: Any) -> Run[lk.Lab]:
    given: dict[str, Any] = {**QUICK, "steps": 4, "general": False, **options}
    return finetune(lab, given.pop("data", DATA), **given)


def tensors_of(run: Run[lk.Lab]) -> dict[str, torch.Tensor]:
    return dict(run.adapter.tensors)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def learnt() -> Run[lk.Lab]:
    """A finished run, with everything measured."""
    lab = tiny()
    return finetune(lab, DATA, **{**QUICK, "prompt": None}, steps=20, held_out=HELD_OUT, new_tokens=4).wait()


# what it does ---------------------------------------------------------------------------------------------------------


def test_it_learns_and_tells_how(learnt: Run[lk.Lab]) -> None:
    history = learnt.history
    assert list(history) == [
        *("step", "loss", "held_out", "forgetting", "kl"),
        *("learning_rate", "gradient_norm", "tokens_per_second", "seconds_left"),
    ]
    assert list(history["step"]) == list(range(21))
    assert history["loss"][20] < history["loss"][1] - 0.2
    measured = history[history["held_out"].notna()]
    assert list(measured["step"]) == [0, 3, 6, 9, 12, 15, 18, 20]
    assert measured["held_out"].iloc[-1] < measured["held_out"].iloc[0] - 0.2
    assert history["learning_rate"][1] == pytest.approx(1e-2)
    assert history["learning_rate"][20] == pytest.approx(1e-2 / 20)
    assert (history["gradient_norm"][1:] > 0).all()
    assert (history["tokens_per_second"][1:] > 0).all()
    assert history["seconds_left"][20] == 0
    assert learnt.state == "finished"
    assert [step for step, _ in learnt.samples] == list(measured["step"])
    assert "step 20 of 20" in repr(learnt)


def test_an_untouched_model_has_forgotten_nothing(learnt: Run[lk.Lab]) -> None:
    before, *_, after = learnt.steps
    assert (before.forgetting, before.kl) == (0.0, 0.0)
    assert after.kl > 1e-4
    assert after.forgetting != 0


def test_what_is_measured_is_what_the_lab_computes(learnt: Run[lk.Lab]) -> None:
    lab = learnt.original
    mask = masks.mask(lab, HELD_OUT)

    def losses() -> list[float]:
        found: list[float] = []
        for sample in mask.samples:
            logits = lab.trace(list(sample.ids), keep="logits").logits
            nats = torch.nn.functional.cross_entropy(
                logits[:-1].double(), torch.tensor(sample.ids[1:]), reduction="none"
            )
            found += nats[torch.tensor(sample.learns[1:])].tolist()
        return found

    assert np.mean(losses()) == pytest.approx(learnt.steps[0].held_out, abs=1e-5)
    with learnt.adapter.on():
        assert np.mean(losses()) == pytest.approx(learnt.steps[-1].held_out, abs=1e-5)


def test_the_lab_is_not_changed_and_can_be_used_meanwhile() -> None:
    lab = tiny()
    before = {name: value.clone() for name, value in lab.model.state_dict().items()}
    asked = lab.next_logits("the cat")
    config = lab.model.config.to_dict()
    run = tune(lab, steps=6, neftune=5.0)
    assert torch.equal(lab.next_logits("the cat"), asked)
    run.wait()
    assert torch.equal(lab.next_logits("the cat"), asked)
    after = lab.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(weight.requires_grad and weight.grad is None for weight in lab.model.parameters())
    assert lab.model.config.to_dict() == config
    assert "forward" not in vars(lab.model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lab.model.modules())
    assert not any("peft" in type(module).__module__ for module in lab.model.modules())


def test_weights_are_there_once(learnt: Run[lk.Lab]) -> None:
    places = {weight.data_ptr() for weight in learnt.original.model.parameters()}
    twin = [weight for name, weight in learnt._tuning.model.named_parameters() if "lora" not in name]
    assert {weight.data_ptr() for weight in twin} == places
    assert not {id(weight) for weight in twin} & {id(weight) for weight in learnt.original.model.parameters()}


def test_random_states_threads_and_the_screen_are_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    lab = tiny()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[union-attr, index]
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    tune(lab, steps=3, held_out=HELD_OUT).wait()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index, union-attr]
    assert random.getstate() == states[2]
    assert (torch.get_default_dtype(), torch.get_num_threads()) == (dtype, threads)
    out, err = capfd.readouterr()
    assert out.count("\n") == 1
    assert "lk.views.training(run)" in out
    assert err == ""


def test_the_same_seed_gives_the_same_adapter_whatever_else_is_drawn() -> None:
    one = tune(tiny()).wait()
    run = tune(tiny())
    while not run.done:
        torch.manual_seed(0)
        torch.rand(100), np.random.rand(10)
    other = run.wait()
    assert equal(tensors_of(one), tensors_of(other))
    assert [step.loss for step in one.steps[1:]] == [step.loss for step in other.steps[1:]]
    assert not equal(tensors_of(one), tensors_of(tune(tiny(), seed=1).wait()))


def test_nothing_but_completions_is_learnt_and_nothing_held_out(learnt: Run[lk.Lab]) -> None:
    wanted = {sample.ids: sample.labels for sample in masks.mask(learnt.original, DATA).samples}
    held_out = {sample.ids for sample in masks.mask(learnt.original, HELD_OUT).samples}
    seen = set()
    for batch in learnt._tuning._trainer.get_train_dataloader():  # type: ignore[attr-defined]
        for ids, labels, real in zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True):
            row = tuple(ids[real].tolist())
            assert labels[real].tolist() == wanted[row]
            assert (labels[~real] == -100).all()
            seen.add(row)
    assert seen == wanted.keys()
    assert not seen & held_out


# ending and going on --------------------------------------------------------------------------------------------------


def stopped_after(run_steps: int, lab: lk.Lab, **options: Any) -> Run[lk.Lab]:
    """A run that is stopped from its own thread after so many steps."""
    ready = threading.Event()
    made: list[Run[lk.Lab]] = []

    def watch(step: Any) -> None:
        ready.wait(30)
        if step.step == run_steps:
            made[0].stop()

    made.append(tune(lab, **options))
    made[0].subscribe(watch)
    ready.set()
    return made[0].wait()


def test_stop_keeps_what_was_learnt_and_resume_goes_on_as_it_would_have(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 9, "save_every": 2, "held_out": HELD_OUT, "measure_every": 3}
    straight = tune(tiny(), **options).wait()
    run = stopped_after(5, tiny(), **options, folder=tmp_path)
    assert run.state == "stopped"
    assert 5 <= run.step < 9
    assert not equal(tensors_of(run), tensors_of(straight))
    with pytest.raises(lk.BadInput, match="resume=True"):
        tune(tiny(), **options, folder=tmp_path)
    with pytest.raises(lk.BadInput, match="rank=4, and this run has 2"):
        tune(tiny(), **options, folder=tmp_path, resume=True, rank=2)
    again = tune(tiny(), **options, folder=tmp_path, resume=True).wait()
    assert equal(tensors_of(again), tensors_of(straight))
    assert [(s.step, s.loss, s.held_out) for s in again.steps[1:] if s.step != 3] == [
        (s.step, s.loss, s.held_out) for s in straight.steps[1:] if s.step != 3
    ]
    over = tune(tiny(), **options, folder=tmp_path, resume=True).wait()
    assert over.state == "finished"
    assert equal(tensors_of(over), tensors_of(straight))


def test_a_finished_schedule_free_run_that_is_taken_up_again_has_the_weights_it_ended_with(tmp_path: Path) -> None:
    pytest.importorskip("schedulefree")
    options: dict[str, Any] = {"schedule": "schedule_free", "folder": tmp_path}
    over = tune(tiny(), **options).wait()
    again = tune(tiny(), **options, resume=True).wait()
    assert again.state == "finished"
    assert equal(tensors_of(again), tensors_of(over))


def test_a_stopped_run_keeps_its_last_step_in_the_folder(tmp_path: Path) -> None:
    run = stopped_after(3, tiny(), steps=9, save_every=100, folder=tmp_path)
    kept = checkpoints.latest(tmp_path)
    assert kept is not None
    assert kept.step == run.step < 9
    again = tune(tiny(), steps=9, save_every=100, folder=tmp_path, resume=True).wait()
    assert equal(tensors_of(again), tensors_of(tune(tiny(), steps=9).wait()))


def test_a_stop_does_not_wait_for_what_is_left_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()
    made: list[Run[lk.Lab]] = []
    measured = forgetting._loss

    def stop_after_two(*given: Any) -> float:
        if threading.current_thread() is not threading.main_thread():
            ready.wait(30)
            if made[0].step == 2:
                made[0].stop()
        return measured(*given)

    options: dict[str, Any] = {"held_out": HELD_OUT, "general": ["where was the dog"], "prompt": "the"}
    monkeypatch.setattr(forgetting, "_loss", stop_after_two)
    run = tune(tiny(), steps=8, measure_every=1, **options)
    made.append(run)
    ready.set()
    run.wait()
    monkeypatch.undo()
    assert run.state == "stopped"
    assert run.samples[-1][0] == 1, "asked to stop in the middle of a measurement, the run still wrote an answer"
    assert math.isfinite(run.steps[-1].held_out)


def test_a_run_on_other_held_out_samples_is_another(tmp_path: Path) -> None:
    options: dict[str, Any] = {"folder": tmp_path, "held_out": HELD_OUT, "general": ["where was the dog"]}
    tune(tiny(), steps=2, **options).wait()
    for other in ({"held_out": HELD_OUT[:1]}, {"general": ["the other dog"]}, {"measure_samples": 1}):
        with pytest.raises(lk.BadInput, match=f"another {next(iter(other))}|measure_samples=16|of a run with"):
            tune(tiny(), steps=2, resume=True, **{**options, **other})


@pytest.mark.parametrize(
    "options",
    [
        {"method": "pissa"},
        {"method": "full", "learning_rate": 1e-3},
        {"schedule": "schedule_free"},
        {"optimizer": "sophia", "learning_rate": 1e-3},
    ],
    ids=str,
)
def test_every_method_goes_on_as_it_would_have(options: dict[str, Any], tmp_path: Path) -> None:
    options = {"steps": 4, "save_every": 2, "general": False, **options}
    if "schedule" in options:
        pytest.importorskip("schedulefree")
    straight = tune(tiny(), **options).wait()
    stopped_after(2, tiny(), **options, folder=tmp_path)
    again = tune(tiny(), **options, folder=tmp_path, resume=True).wait()
    assert again.state == "finished"
    one, other = (run._tuning.model.state_dict() for run in (straight, again))
    assert equal(one, other)


CHILD = """
import sys
sys.path.insert(0, {support!r})
from test_finetuning import tiny, tune
run = tune(tiny(), steps=400, save_every=2, folder={folder!r}, resume=True)
run.subscribe(lambda step: print("step", step.step, flush=True))
run.wait()
"""


def test_a_killed_process_loses_the_last_steps_at_most(tmp_path: Path) -> None:
    here = Path(__file__)
    code = CHILD.format(support=str(here.parent), folder=str(tmp_path / "run"))
    code = f"import sys; sys.path.insert(0, {str(here.parents[1] / 'support')!r})\n" + code
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    reached = 0
    for line in child.stdout:
        if line.startswith("step"):
            reached = int(line.split()[1])
        if reached >= 7:
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    kept = checkpoints.latest(tmp_path / "run")
    assert kept is not None
    assert kept.step >= reached - 2
    folder = tmp_path / "run"
    with pytest.raises(lk.BadInput, match="steps=400"):
        tune(tiny(), steps=kept.step + 2, save_every=2, folder=folder, resume=True)
    run = stopped_after(kept.step + 2, tiny(), steps=400, save_every=2, folder=folder, resume=True)
    assert run.step >= kept.step + 2
    assert [step.step for step in run.steps] == list(range(run.step + 1))
    straight = stopped_after(run.step, tiny(), steps=400)
    assert [s.loss for s in straight.steps[1 : run.step + 1]] == [s.loss for s in run.steps[1:]]


def test_a_checkpoint_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune(tiny(), steps=2, save_every=2, folder=tmp_path).wait()
    before = checkpoints.latest(tmp_path)
    assert before is not None

    def full(*_args: object, **_options: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints.json, "dumps", full)
    with pytest.raises(OSError, match="space"):
        checkpoints.write(tmp_path, before)
    monkeypatch.undo()
    again = checkpoints.latest(tmp_path)
    assert again is not None
    assert again.step == 2
    (tmp_path / "checkpoint-000002" / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(lk.BadModelFile, match="delete it"):
        tune(tiny(), steps=2, save_every=2, folder=tmp_path, resume=True)


def test_the_adapter_can_be_had_while_it_runs() -> None:
    run = tune(tiny(), steps=300)
    first = run.adapter
    assert run.state == "running"
    with pytest.raises(lk.Unavailable, match="A tuning is running already"):
        tune(tiny())
    assert current_run() is run
    run.stop()
    assert run.state == "stopped"
    assert current_run() is None
    assert not equal(dict(first.tensors), tensors_of(run))
    assert run.stop() is run  # again


def test_an_interrupt_of_wait_stops_the_run() -> None:
    run = tune(tiny(), steps=300)
    raised = threading.Event()

    def interrupt(step: Any) -> None:
        if step.step % 25 == 1 and not raised.is_set():
            _thread.interrupt_main()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever a test before has left there

    try:
        run.subscribe(interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.wait()
    finally:
        raised.set()
        signal.signal(signal.SIGINT, before)
    assert run.stop().state == "stopped"
    assert run.adapter.tensors


def test_reset_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    run = tune(tiny(), steps=300)
    lk.reset()
    assert run.done
    assert "1 tuning stopped" in capsys.readouterr().out


def test_those_who_watch_are_told_and_can_leave(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []
    over = threading.Event()
    run = tune(tiny(), steps=5)

    def broken(_step: object) -> None:
        raise ZeroDivisionError("a view that broke")

    leave = run.subscribe(broken)
    run.subscribe(lambda step: seen.append(step.step), over.set)
    run.wait()
    leave()
    assert over.wait(5)
    assert seen[-1] == 5
    assert run.state == "finished"
    late = threading.Event()
    run.subscribe(lambda step: None, late.set)
    assert late.is_set()

    def broken_end() -> None:
        raise ZeroDivisionError("a view that broke late")

    run.subscribe(lambda step: None, broken_end)
    assert "a view that broke late" in caplog.text


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_loss_that_is_no_number_ends_it_with_a_sentence(method: str) -> None:
    run = tune(tiny(), steps=20, learning_rate=1e30, optimizer="sgd", method=method)
    with pytest.raises(lk.BadInput, match="give a lower learning_rate"):
        run.wait()
    assert run.state == "failed"
    with pytest.raises(lk.Unavailable, match="have left the numbers"):
        _ = run.lab if method == "full" else run.adapter
    assert isinstance(run.error, lk.BadInput)
    assert current_run() is None


def test_the_lab_of_a_run_that_is_over_is_made_once(learnt: Run[lk.Lab], capsys: pytest.CaptureFixture[str]) -> None:
    merged = learnt.lab
    told = capsys.readouterr().out
    assert learnt.lab is merged
    assert capsys.readouterr().out == ""
    merged.close()
    assert not learnt.lab.closed
    assert "merged" in told


def test_a_lab_that_is_closed_meanwhile_costs_no_work(tmp_path: Path) -> None:
    lab = tiny()
    run = tune(lab)
    lab.close()
    run.wait()
    adapter = run.adapter
    adapter.save(tmp_path / "kept")
    fresh = tiny()
    assert lk.lora.load(fresh, tmp_path / "kept").notes == ()
    assert equal(dict(adapter.tensors), tensors_of(tune(tiny()).wait()))
    with adapter.on():
        assert run.original.generate("the cat", max_new_tokens=2).ids


def test_of_two_that_begin_at_once_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, inside, most = tiny(), [0], [0]
    prepare, over = finetuning.prepared, threading.Event()

    def counted(*given: Any, **options: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        try:
            over.wait(0.2)
            return prepare(*given, **options)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(finetuning, "prepared", counted)
    found: list[object] = []

    def begin() -> None:
        try:
            found.append(tune(lab, steps=300))
        except lk.LabError as error:
            found.append(error)

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (run,) = (each for each in found if isinstance(each, Run))
    run.stop()
    assert most == [1]
    assert any(isinstance(each, lk.Unavailable) and "running already" in str(each) for each in found)


def test_a_run_until_a_loss_ends_where_it_reaches_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 12, "held_out": HELD_OUT, "measure_every": 1, "schedule": "constant"}
    whole = tune(tiny(), **options).wait()
    losses = [step.held_out for step in whole.steps]
    goal = losses[5]
    first = next(i for i, loss in enumerate(losses) if loss <= goal)
    run = tune(tiny(), **options, until_loss=goal, folder=tmp_path, save_every=100).wait()
    assert (run.state, run.step, run.reached) == ("finished", first, True)
    assert [step.held_out for step in run.steps] == losses[: first + 1]
    assert run.steps[-1].seconds_left == 0
    again = tune(tiny(), **options, until_loss=goal, folder=tmp_path, resume=True).wait()
    assert (again.state, again.step, again.reached) == ("finished", first, True)
    assert equal(tensors_of(again), tensors_of(run))
    with pytest.raises(lk.BadInput, match="until_loss"):
        tune(tiny(), **options, until_loss=goal / 2, folder=tmp_path, resume=True)
    never = tune(tiny(), **{**options, "steps": 2}, until_loss=1e-6).wait()
    assert (never.state, never.step, never.reached) == ("finished", 2, False)
    there = tune(tiny(), **options, until_loss=losses[0] + 1).wait()
    assert (there.state, there.step, there.reached) == ("finished", 0, True)


def test_full_tuning_to_the_loss_of_an_adapter_is_compared_with_it() -> None:
    lab = tiny()
    options: dict[str, Any] = {"held_out": HELD_OUT, "schedule": "constant", "measure_every": 1}
    lora = tune(lab, steps=8, **options).wait()
    goal = lora.steps[-1].held_out
    full = tune(lab, steps=200, method="full", **{**options, "learning_rate": 1e-3}, until_loss=goal).wait()
    assert full.reached
    assert full.steps[-1].held_out <= goal < full.steps[-2].held_out
    of_lora, of_full = lk.lora.intruders(lora.adapter), lk.lora.intruders(full.lab, lab)
    assert set(of_lora.table["name"]) <= set(of_full.table["name"])


def test_what_is_not_measured_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    run = tune(tiny(), steps=1).wait()
    assert "held_out=0.1" in " ".join(run.notes)
    assert run.notes[0] in capsys.readouterr().out
    assert run.history["kl"].isna().all()
    assert tune(tiny(), steps=1, held_out=HELD_OUT).wait().notes == ()


def test_full_tuning_of_sixteen_bits_is_of_a_float32_copy() -> None:
    half = lk.Lab(fuzz.tiny_model().eval().bfloat16(), fuzz.tiny_tokenizer(), name="tiny")
    exact = lk.Lab(fuzz.tiny_model().eval().bfloat16().float(), fuzz.tiny_tokenizer(), name="tiny")
    before = {name: value.clone() for name, value in half.model.state_dict().items()}
    options: dict[str, Any] = {"steps": 2, "held_out": HELD_OUT, "method": "full", "learning_rate": 1e-5}
    run, right = tune(half, **options).wait(), tune(exact, **options).wait()
    assert run.lab.dtype == torch.float32
    assert equal(run.lab.model.state_dict(), right.lab.model.state_dict())
    assert not equal({name: value.float() for name, value in before.items()}, run.lab.model.state_dict())
    assert (run.steps[0].kl, run.steps[0].held_out) == (0.0, right.steps[0].held_out)
    assert equal(before, half.model.state_dict())
    assert "float32 copy" in " ".join(run.notes)
    assert right.notes == ()
    assert tune(half, **{**options, "method": "lora"}).wait().notes == ()
    cost = lk.lora.cost(half, method="full").table.set_index("part")["bytes"]
    assert cost["weights"] == cost["gradients"] == 4 * sum(weight.numel() for weight in half.model.parameters())


def test_as_many_held_out_samples_are_measured_as_are_asked_for() -> None:
    held_out = [{"prompt": f"the dog {word}", "completion": f"{word} sat"} for word in WORDS]
    run = tune(tiny(), steps=1, held_out=held_out, measure_samples=7).wait()
    lab = run.original
    by_hand = lk.lora.forgotten(lab, lab, held_out[:7], general=["the dog ran"]).table.set_index("texts").loc["task"]
    assert run.steps[0].held_out == pytest.approx(by_hand["loss"], abs=1e-5)
    rows = tune(tiny(), steps=1, held_out=held_out * 2).wait()._tuning.plan.measuring.held_out
    assert rows is not None
    assert len(rows.ids) == 16


# what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"targets": ("q_prj",)}, r"did you mean 'q_proj'\?"),
        ({"targets": ()}, "at least one matrix"),
        ({"targets": "lm_head"}, "no such linear map"),
        ({"targets": "v_proj", "rank": 17}, r"width of v_proj \(16\)"),
        ({"rank": 0}, "rank=0"),
        ({"alpha": 0}, "alpha=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"steps": 0}, "steps=0"),
        ({"method": "lorra"}, "did you mean 'lora'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"learning_rate": -1}, "learning_rate=-1"),
        ({"compute": "int8"}, "compute="),
        ({"schedule": "schedule_free", "optimizer": "sgd"}, "a form of AdamW"),
        ({"warmup": 4}, "warmup=4"),
        ({"until_loss": 1.0}, "held-out samples; give some"),
        ({"until_loss": 0, "held_out": HELD_OUT}, "until_loss=0"),
        ({"resume": True}, "give folder="),
        ({"held_out": DATA[:1]}, "in the training data"),
        ({"data": []}, "data"),
        ({"data": [{"question": "a", "answer": "b"}]}, "columns="),
    ],
)
def test_what_cannot_go_well_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(lk.BadInput, match=sentence):
        tune(tiny(), **options)
    assert current_run() is None


def test_a_model_with_edits_on_is_not_tuned() -> None:
    lab = tiny()
    with lab.edit(lk.ablate_head(0, 0)), pytest.raises(lk.Unavailable, match="edits on"):
        tune(lab)
    assert tune(lab, steps=1).wait().state == "finished"


def test_memory_is_checked_for_the_rows_that_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(finetuning, "check_memory", lambda _lab, _settings, tokens: seen.append(tokens))
    longest = max(len(each.ids) for each in masks.mask(tiny(), DATA).samples)
    tune(tiny(), steps=1, packing=True, max_tokens=48).wait()
    tune(tiny(), steps=1).wait()
    assert seen == [48, longest]


def test_samples_are_asked_with_the_template_and_the_tools_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = tiny()
    lab.tokenizer.chat_template = (
        "{% if tools %}tree {% endif %}{% if tired %}tired {% endif %}"
        "{% for m in messages %}{{ m['content'] }}{{ eos_token if m['role'] == 'assistant' else ' ' }}{% endfor %}"
    )
    asked: list[Any] = []
    generate = lk.Lab.generate

    def watched(self: lk.Lab, prompt: Any, **options: Any) -> Any:
        asked.append(options["template"])
        return generate(self, prompt, **options)

    monkeypatch.setattr(lk.Lab, "generate", watched)
    tools = [{"type": "function", "function": {"name": "ran", "parameters": {}}}]
    turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    options: dict[str, Any] = {"steps": 1, "new_tokens": 2, "template": {"tired": True}}
    tune(lab, data=[{"messages": turns, "tools": tools}] * 4, **options, prompt=None).wait()
    tune(lab, **options, prompt="the dog").wait()
    assert asked == [{"tired": True, "tools": tools}] * 2 + [{"tired": True}] * 2


# its parts ------------------------------------------------------------------------------------------------------------


def test_dropout_draws_as_torch_does() -> None:
    x = torch.randn(40, 7)
    torch.manual_seed(3)
    theirs = torch.nn.functional.dropout(x, 0.3)
    torch.manual_seed(9)
    ours = SeededDropout(0.3, torch.Generator().manual_seed(3))
    assert torch.equal(ours(x), theirs)
    assert torch.equal(ours.eval()(x), x)


def test_neftune_is_transformers_own_and_is_taken_off() -> None:
    from transformers.integrations.neftune import activate_neftune

    model = fuzz.tiny_model().train()
    ids = torch.tensor([[5, 6, 7, 8]])
    handle = activate_neftune(model, 5.0)
    torch.manual_seed(1)
    theirs = model.get_input_embeddings()(ids)
    handle.remove()
    with neftune(model, 5.0, torch.Generator().manual_seed(1)):
        ours = model.get_input_embeddings()(ids)
        plain = model.eval().get_input_embeddings()(ids)
    assert torch.equal(ours, theirs)
    assert torch.equal(plain, model.train().get_input_embeddings()(ids))


def test_each_pass_takes_every_row_once() -> None:
    found = epoch_batches(10, 4, 7, 3)
    assert [len(batch) for batch in found] == [4, 4, 2, 4, 4, 2, 4]
    assert sorted(i for batch in found[:3] for i in batch) == list(range(10))
    assert found[:3] != found[3:6]
    assert found == epoch_batches(10, 4, 7, 3)


def test_settings_are_json() -> None:
    settings = checked(
        **{
            **dict.fromkeys(("rank", "alpha", "steps", "batch"), 4),
            **{"method": "lora", "dropout": 0.1, "neftune": None, "learning_rate": 1e-3, "schedule": "linear"},
            **{"optimizer": "adamw", "warmup": 0, "packing": False, "compute": "float32", "seed": 0},
        }
    )
    assert json.loads(json.dumps(settings.as_dict()))["rank"] == 4
    assert math.isclose(settings.learning_rate, 1e-3)
