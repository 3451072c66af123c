"""A thousand damaged files of each kind: each is read, or refused with one sentence, at once and in little memory."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz
import pytest

from labkit.errors import BadModelFile, LabError
from labkit.models.files import (
    check_folder,
    check_gguf_architecture,
    check_gguf_tokenizer,
    read_gguf_header,
    read_safetensors_header,
)
from labkit.models.loading import Options, open_model

N, SEED = 1000, 20_260
LIMIT_SECONDS = 8.0  # thousands of times what a case takes: a loop that doesn't end, not a slow machine
LIMIT_BYTES = 4 << 20  # of Python's memory for one case; the files have 50 KB and 160 KB


def validate_gguf(path: Path) -> None:
    header = read_gguf_header(path)
    check_gguf_architecture(header)
    check_gguf_tokenizer(header)


def validate_folder(path: Path) -> None:
    check_folder(path.parent)


@pytest.fixture(scope="module")
def gguf_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz.tiny_gguf(tmp_path_factory.mktemp("original") / "tiny.gguf", quantized=True)


@pytest.fixture(scope="module")
def folder_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz.tiny_folder(tmp_path_factory.mktemp("original") / "model") / "model.safetensors"


def gguf_cases(original: Path, n: int = N) -> Iterator[fuzz.Case]:
    header = read_gguf_header(original)
    return fuzz.cases(original.read_bytes(), n, seed=SEED, header=header.data_start)


def safetensors_cases(original: Path, n: int = N) -> Iterator[fuzz.Case]:
    data = original.read_bytes()
    return fuzz.cases(data, n, seed=SEED, header=fuzz.safetensors_header_bytes(data))


def folder_with(original: Path, to: Path) -> Path:
    """A copy of the folder; the path of the weights in it."""
    return Path(shutil.copytree(original.parent, to)) / original.name


def expect_clean(outcomes: list[fuzz.Outcome]) -> None:
    """Opened or refused, nothing else; one line each; in time."""
    for outcome in outcomes:
        assert outcome.kind in ("opened", "BadModelFile"), (outcome.case, outcome.error)
        assert outcome.seconds < LIMIT_SECONDS, outcome.case
        if outcome.error is not None:
            message = str(outcome.error)
            assert message.isprintable(), (outcome.case, message)
            assert 40 < len(message) < 400, (outcome.case, message)
            assert message.endswith("."), (outcome.case, message)
            assert "; " in message, (outcome.case, message)
    counts = fuzz.tally(outcomes)
    # Both must come up often, or the fuzzer tests nothing.
    assert counts["opened"] > len(outcomes) / 20, counts
    assert counts["BadModelFile"] > len(outcomes) / 2, counts


@pytest.mark.parametrize("read", [read_gguf_header, validate_gguf])
def test_damaged_gguf_files(read: Callable[[Path], Any], gguf_original: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    expect_clean([fuzz.run_through(read, case, path) for case in gguf_cases(gguf_original)])


@pytest.mark.parametrize("read", [read_safetensors_header, validate_folder])
def test_damaged_safetensors_files(read: Callable[[Path], Any], folder_original: Path, tmp_path: Path) -> None:
    path = folder_with(folder_original, tmp_path / "model")
    expect_clean([fuzz.run_through(read, case, path) for case in safetensors_cases(folder_original)])


def test_damaged_jsons_of_a_folder(tmp_path: Path) -> None:
    folder = fuzz.tiny_folder(tmp_path / "model", max_shard_size="50KB")
    for name in ("config.json", "model.safetensors.index.json", "tokenizer_config.json"):
        path = folder / name
        original = path.read_bytes()
        cases = fuzz.cases(original, N // 5, seed=SEED, header=len(original))
        for outcome in [fuzz.run_through(validate_folder, case, path) for case in cases]:
            assert outcome.kind in ("opened", "BadModelFile"), (outcome.case, outcome.error)
            assert outcome.error is None or str(outcome.error).isprintable(), outcome.case
        path.write_bytes(original)


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_little_memory(kind: str, gguf_original: Path, folder_original: Path, tmp_path: Path) -> None:
    original, read, some = (
        (gguf_original, validate_gguf, gguf_cases(gguf_original))
        if kind == "gguf"
        else (folder_original, read_safetensors_header, safetensors_cases(folder_original))
    )
    path, peaks = tmp_path / original.name, {}
    read(original)  # caches (regular expressions, codecs) are filled once
    tracemalloc.start()
    try:
        for case in some:
            path.write_bytes(case.data)
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            with contextlib.suppress(BadModelFile):
                read(path)
            peaks[case.number] = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    worst = max(peaks, key=peaks.__getitem__)
    assert peaks[worst] < LIMIT_BYTES, f"case {worst} took {peaks[worst]:,} bytes"


def test_cases_are_the_same_again(gguf_original: Path) -> None:
    first, again = list(gguf_cases(gguf_original, 50)), list(gguf_cases(gguf_original, 50))
    assert first == again
    assert len({case.data for case in first}) > 45
    done = {name for case in gguf_cases(gguf_original, 300) for name in case.done}
    assert done == {mutate.__name__ for mutate in fuzz.MUTATIONS}


def test_run_through_notes_what_happens(tmp_path: Path) -> None:
    def endless(_: Path) -> None:
        while True:
            with contextlib.suppress(Exception):  # as a library might
                sum(range(1000))

    case = fuzz.Case(0, (), b"abc")
    assert fuzz.run_through(Path.read_bytes, case, tmp_path / "a").value == b"abc"
    assert fuzz.run_through(lambda p: 1 / 0, case, tmp_path / "a").kind == "ZeroDivisionError"
    assert fuzz.run_through(endless, case, tmp_path / "a", limit_seconds=0.1).kind == "TookTooLong"


# ----------------------------------------------------------------------------------- what passes must open, or be refused


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No progress bars and warnings from the libraries; what the test asserts is what they return and raise."""
    import torch
    import transformers

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small only wait for each other
    shown = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity(shown)


def open_and_run(path: Path) -> set[str]:
    """What labkit's own loader makes of the file or folder, used once; gives the names of the model's weights."""
    import torch

    loaded = open_model(path, Options(dtype="float32", device="cpu"))
    ids = loaded.tokenizer("the cat sat on the mat").input_ids
    assert ids
    assert all(0 <= id_ < loaded.model.config.vocab_size for id_ in ids)
    with torch.no_grad():
        loaded.model(torch.tensor([ids]))
    return set(loaded.model.state_dict())


def chosen(
    check: Callable[[Path], Any], cases: Iterator[fuzz.Case], original: Path, header: int, path: Path
) -> tuple[list[fuzz.Case], list[fuzz.Case]]:
    """The cases the check refuses, and those to open: all with a changed header, 25 with changed weights alone."""
    intact = original.read_bytes()[:header]
    refused, by_header, by_weights = [], [], []
    for case in cases:
        if fuzz.run_through(check, case, path).error is not None:
            refused.append(case)
        elif case.data[:header] != intact:
            by_header.append(case)
        else:
            by_weights.append(case)
    assert len(refused) + len(by_header) + len(by_weights) == N
    assert len(refused) > N / 2
    assert len(by_header) > N / 50
    assert len(by_weights) > N / 50
    return refused, by_header + by_weights[:25]


def expect_one_line(outcome: fuzz.Outcome) -> None:
    """Opened, or one of labkit's own errors in one line; nothing else."""
    if outcome.error is not None:
        assert isinstance(outcome.error, LabError), (outcome.case, outcome.error)
        message = str(outcome.error)
        assert message.isprintable(), (outcome.case, message)
        assert 40 < len(message) < 600, (outcome.case, message)


def expect_told(refused: list[fuzz.Case], whole: list[fuzz.Case], open_path: Path, path: Path) -> list[fuzz.Outcome]:
    """The loader refuses what the checks refuse, and opens the rest or says in one line why not: gives what became of it."""
    for outcome in (fuzz.run_through(lambda _: open_and_run(open_path), case, path) for case in refused):
        expect_one_line(outcome)
        assert isinstance(outcome.error, BadModelFile), outcome.case
    outcomes = [fuzz.run_through(lambda _: open_and_run(open_path), case, path) for case in whole]
    for outcome in outcomes:
        expect_one_line(outcome)
    assert fuzz.tally(outcomes)["opened"] >= 25  # the weights alone
    return outcomes


@pytest.mark.usefixtures("quiet")
def test_fuzz_loading_gguf(gguf_original: Path, tmp_path: Path) -> None:
    """What passes the checks opens whole: no weight under another name, none left to chance."""
    path = tmp_path / "model.gguf"
    start = read_gguf_header(gguf_original).data_start
    refused, whole = chosen(validate_gguf, gguf_cases(gguf_original), gguf_original, start, path)
    names = set(fuzz.tiny_model().state_dict())
    for outcome in expect_told(refused, whole, path, path):
        assert outcome.value == names, (outcome.case, outcome.error)


@pytest.mark.usefixtures("quiet")
def test_fuzz_loading_folder(folder_original: Path, tmp_path: Path) -> None:
    """What passes the checks opens exactly when every weight is there under its name: none is left to chance."""
    path = folder_with(folder_original, tmp_path / "model")
    names = set(read_safetensors_header(folder_original).tensors)
    start = fuzz.safetensors_header_bytes(folder_original.read_bytes())
    refused, whole = chosen(validate_folder, safetensors_cases(folder_original), folder_original, start, path)
    for outcome in expect_told(refused, whole, path.parent, path):
        path.write_bytes(outcome.case.data)
        held = set(read_safetensors_header(path).tensors)
        assert (outcome.error is None) == (held >= names), (outcome.case, outcome.error)


def test_tiny_models_are_one_model(tmp_path: Path) -> None:
    """Folder and GGUF hold the same weights and the same tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = fuzz.tiny_folder(tmp_path / "model"), fuzz.tiny_gguf(tmp_path / "tiny.gguf")
    text = "the cat sat on the mat, 42 ü\n"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    other = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert other(text).input_ids == ids[0].tolist()
    assert other.chat_template == tokenizer.chat_template
    assert tokenizer.decode(ids[0]) == text
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        actual = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)(ids).logits
    assert torch.equal(expected, actual)
