"""Where features are at work: every count against a plain loop over the tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from dictionaries import folder, make_lab, weights
from planted import detectors, rows
from safetensors.numpy import load_file, save_file

import labkit as lk
from labkit.errors import BadInput, BadModelFile
from labkit.sae import Index, indexing
from labkit.sae.indexing import AFTER, BEFORE, EDGES, PARTS, SPREAD, TOP, WINDOW, Collector

FEATURES, K, LENGTH = 12, 3, 50
NOTHING = 2**16 - 1  # no token, among ids of two bytes
ARRAYS = ("counts", "largest", "histogram", "kind_sums", "ids", "activations", "peaks", "values", "of_kind")


class Pieces:
    """Made-up pieces of text, some of them short, with features found in them; feature FEATURES - 1 is at work nowhere."""

    def __init__(self, count: int = 40, *, seed: int = 0, half: bool = False) -> None:
        draw = np.random.default_rng(seed)
        self.lengths = draw.integers(1, LENGTH + 1, count)
        self.lengths[:3] = LENGTH, WINDOW - 1, 1
        self.ids = np.full((count, LENGTH), NOTHING, dtype=np.uint16)
        self.kept = np.zeros((count, LENGTH), dtype=bool)
        for piece, length in enumerate(self.lengths):
            self.ids[piece, :length] = draw.integers(0, 1_000, length)
            self.kept[piece, 1:length] = draw.random(length - 1) < 0.9
        self.kinds = draw.integers(0, 2, count).astype(np.uint8)
        tokens = int(self.kept.sum())
        self.indices = np.array([draw.permutation(FEATURES - 1)[:K] for _ in range(tokens)])
        self.values = (draw.gamma(1.0, 5.0, (tokens, K)) * (draw.random((tokens, K)) < 0.9)).astype(np.float32)
        if half:
            self.indices, self.values = self.indices.astype(np.int16), self.values.astype(np.float16)
        else:
            self.indices = np.where(self.values > 0, self.indices, -1)  # as an SAE gives them

    def add_to(self, collector: Collector, pieces: slice) -> None:
        before = int(self.kept[: pieces.start].sum())
        mine = slice(before, before + int(self.kept[pieces].sum()))
        collector.add(self.ids[pieces], self.kept[pieces], self.kinds[pieces], self.indices[mine], self.values[mine])

    def index(self, *, at_once: int = 1_000, seed: int = 0) -> Index:
        collector = Collector(FEATURES, ("prose", "code"), seed)
        for start in range(0, len(self.ids), at_once):
            self.add_to(collector, slice(start, min(start + at_once, len(self.ids))))
        return collector.finish()

    def heights(self) -> np.ndarray:
        """(features, pieces, LENGTH): each feature's activation on each token."""
        found = np.zeros((FEATURES, *self.ids.shape))
        for place, indices, values in zip(np.argwhere(self.kept), self.indices, self.values, strict=True):
            for feature, value in zip(indices, values, strict=True):
                if value > 0:
                    found[feature, place[0], place[1]] = value
        return found


@pytest.fixture(scope="module", params=["float32", "as the recipe stores them"])
def pieces(request: pytest.FixtureRequest) -> Pieces:
    return Pieces(half=request.param != "float32")


# counts ----------------------------------------------------------------------------------------------------------------


def test_counts_sums_and_the_largest_are_those_of_a_loop(pieces: Pieces) -> None:
    found, heights = pieces.index(), pieces.heights()
    assert found.counts.tolist() == (heights > 0).sum((1, 2)).tolist()
    np.testing.assert_array_equal(found.largest, heights.max((1, 2)).astype(np.float32))
    for kind in (0, 1):
        mine = pieces.kinds == kind
        np.testing.assert_allclose(found.kind_sums[:, kind], heights[:, mine].sum((1, 2)), rtol=1e-6)
        assert found.kind_tokens[kind] == pieces.kept[mine].sum()
    assert found.tokens == pieces.kept.sum()
    np.testing.assert_allclose(found.density, found.counts / pieces.kept.sum())
    assert found.kinds == ("prose", "code")


def test_the_histogram_counts_every_token_once(pieces: Pieces) -> None:
    found, heights = pieces.index(), pieces.heights()
    np.testing.assert_array_equal(found.histogram.sum(1), found.counts)
    for feature in range(FEATURES):
        values = heights[feature][heights[feature] > 0].clip(EDGES[0], np.nextafter(EDGES[-1], 0))
        np.testing.assert_array_equal(found.histogram[feature], np.histogram(values, EDGES)[0])


def test_what_lies_beyond_the_bins_counts_in_the_outer_ones() -> None:
    collector = Collector(1, ("text",))
    values = np.array([[0.001], [EDGES[0]], [EDGES[2]], [EDGES[-1]], [1e6]], dtype=np.float32)
    kept = np.ones((1, 5), dtype=bool)
    collector.add(np.zeros((1, 5), np.uint16), kept, np.zeros(1, int), np.zeros((5, 1), int), values)
    histogram = collector.finish().histogram[0]
    assert histogram[[0, 2, -1]].tolist() == [2, 1, 2]
    assert histogram.sum() == 5


def test_a_feature_at_work_nowhere_has_nothing(pieces: Pieces) -> None:
    found, last = pieces.index(), FEATURES - 1
    for name in ("counts", "largest", "histogram", "kind_sums", "activations", "values"):
        assert not getattr(found, name)[last].any(), name
    assert (found.ids[last] == NOTHING).all()


# examples --------------------------------------------------------------------------------------------------------------


def test_the_strongest_are_the_peaks_of_the_strongest_pieces(pieces: Pieces) -> None:
    found, heights = pieces.index(), pieces.heights()
    for feature in range(FEATURES):
        peaks = np.sort(heights[feature].max(1))[::-1]
        expected = peaks[:TOP] * (peaks[:TOP] > 0)
        np.testing.assert_array_equal(found.values[feature, :TOP], expected.astype(np.float32))


def where(pieces: Pieces, found: Index, feature: int, slot: int) -> tuple[int, int]:
    """(piece, position) of an example's peak: found by its value, which no other token has."""
    heights = pieces.heights()[feature].astype(np.float32)
    ((piece, position),) = np.argwhere(heights == found.values[feature, slot])
    return int(piece), int(position)


def test_examples_are_the_text_around_their_peak() -> None:
    pieces = Pieces()
    found, heights = pieces.index(), pieces.heights()
    starts, ends, shorts = 0, 0, 0
    for feature in range(FEATURES - 1):
        for slot in np.flatnonzero(found.values[feature]):
            piece, position = where(pieces, found, feature, slot)
            length = int(pieces.lengths[piece])
            ids = found.ids[feature, slot]
            n = int((ids != NOTHING).sum())
            assert n == min(length, WINDOW)
            peak = int(found.peaks[feature, slot])
            start = position - peak
            assert 0 <= start <= start + n <= length
            np.testing.assert_array_equal(ids[:n], pieces.ids[piece, start : start + n])
            assert (ids[n:] == NOTHING).all()
            if n == WINDOW and start > 0 and start + n < length:
                assert (peak, n - 1 - peak) == (BEFORE, AFTER)
            starts, ends, shorts = starts + (start == 0), ends + (start + n == length), shorts + (n < WINDOW)
            assert found.of_kind[feature, slot] == pieces.kinds[piece]
            value = found.values[feature, slot]
            assert found.activations[feature, slot, peak] == 255
            assert heights[feature, piece].max() == pytest.approx(value)  # the peak of its piece
            shown = found.activations[feature, slot] / 255 * value
            np.testing.assert_allclose(
                shown[:n], heights[feature, piece, start : start + n], atol=value * (0.5 / 255 + 1e-6)
            )
            assert not found.activations[feature, slot, n:].any()
    assert min(starts, ends, shorts) > 3  # beginnings, ends and short pieces have all been seen


def test_no_two_examples_of_a_feature_are_of_one_piece() -> None:
    pieces = Pieces()
    found = pieces.index()
    for feature in range(FEATURES - 1):
        of = [where(pieces, found, feature, slot)[0] for slot in np.flatnonzero(found.values[feature])]
        assert len(of) == len(set(of)) > TOP


def test_the_others_are_drawn_over_the_rest_of_the_range() -> None:
    pieces = Pieces(200)
    found = pieces.index()
    drawn = found.values[:-1, TOP:] / found.largest[:-1, None]
    assert found.values.shape[1] == TOP + SPREAD
    for part, (low, high) in enumerate(PARTS):
        there = drawn[:, part][drawn[:, part] > 0]
        assert len(there) > 5
        assert ((there >= low) & (there < high)).all()
    other = pieces.index(seed=1)
    assert not np.array_equal(found.values[:, TOP:], other.values[:, TOP:])
    np.testing.assert_array_equal(found.values[:, :TOP], other.values[:, :TOP])


def test_a_part_of_the_range_without_a_piece_stays_empty() -> None:
    collector = Collector(1, ("text",))
    values = np.array([100.0, 99, 98, 97, 96, 95, 50], dtype=np.float32)[:, None]  # 95 is over 0.9, no top one either
    kept = np.ones((7, 1), dtype=bool)
    collector.add(np.arange(7, dtype=np.uint16)[:, None], kept, np.zeros(7, int), np.zeros((7, 1), int), values)
    found = collector.finish()
    assert found.values[0].tolist() == [100, 99, 98, 97, 96, 0, 50, 0]
    assert found.ids[0, :, 0].tolist() == [0, 1, 2, 3, 4, NOTHING, 6, NOTHING]


def test_of_two_tokens_alike_the_first_is_the_peak() -> None:
    collector = Collector(1, ("text",))
    values = np.array([1, 3, 3, 2], dtype=np.float32)[:, None]
    ids = np.array([[10, 11, 12, 13]], dtype=np.uint16)
    collector.add(ids, np.ones((1, 4), dtype=bool), np.zeros(1, int), np.zeros((4, 1), int), values)
    found = collector.finish()
    assert (found.peaks[0, 0], found.values[0].tolist()) == (1, [3] + [0] * (TOP + SPREAD - 1))
    assert found.activations[0, 0, :4].tolist() == [85, 255, 255, 170]


@pytest.mark.parametrize("at_once", [1, 3, 7, 39])
def test_how_the_pieces_are_dealt_out_does_not_matter(pieces: Pieces, at_once: int) -> None:
    whole, parts = pieces.index(), pieces.index(at_once=at_once)
    for name in ARRAYS:
        if name == "kind_sums":
            np.testing.assert_allclose(whole.kind_sums, parts.kind_sums, rtol=1e-6)
        else:
            np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name), err_msg=name)
    assert whole.kind_tokens == parts.kind_tokens


def test_pieces_without_a_token_to_count_are_no_harm() -> None:
    pieces = Pieces()
    collector = Collector(FEATURES, ("prose", "code"))
    nothing = np.zeros((2, LENGTH), dtype=bool)
    none: Any = np.zeros((0, K))
    collector.add(pieces.ids[:2], nothing, pieces.kinds[:2], none.astype(int), none)
    pieces.add_to(collector, slice(0, len(pieces.ids)))
    found, wanted = collector.finish(), pieces.index()
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    empty = Collector(3, ("text",)).finish()
    assert not empty.counts.any()
    assert empty.tokens == 0


def test_more_features_than_sixteen_bits_count() -> None:
    """In whole numbers wide enough: an int16 array, as the recipe's, can't even hold them."""
    features = 70_000
    collector = Collector(features, ("text",))
    indices = np.array([[0, 40_000], [69_999, 40_000]])
    values = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    collector.add(np.zeros((1, 2), np.uint16), np.ones((1, 2), dtype=bool), np.zeros(1, int), indices, values)
    found = collector.finish()
    assert found.counts[[0, 40_000, 69_999]].tolist() == [1, 2, 1]
    assert found.values[[0, 40_000, 69_999], 0].tolist() == [1, 4, 3]
    assert found.counts.sum() == 4


# files -----------------------------------------------------------------------------------------------------------------


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = Pieces().index()
    found.save(tmp_path / "index.safetensors")
    again = Index.load(tmp_path / "index.safetensors")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))
        assert getattr(found, name).dtype == getattr(again, name).dtype
    assert (again.kinds, again.kind_tokens) == (found.kinds, found.kind_tokens)
    assert [each.name for each in tmp_path.iterdir()] == ["index.safetensors"]


@pytest.mark.parametrize("of", ["", "0123456789abcdef"])
def test_whose_it_is_is_kept_and_a_path_may_be_text(tmp_path: Path, of: str) -> None:
    path = tmp_path / "index.safetensors"
    replace(Pieces().index(), of=of).save(str(path))  # type: ignore[arg-type]
    assert Index.load(str(path)).of == of  # type: ignore[arg-type]
    with pytest.raises(BadModelFile, match=r"gone\.safetensors is not an index of features"):
        Index.load(str(tmp_path / "gone.safetensors"))  # type: ignore[arg-type]


def test_an_index_that_does_not_say_whose_it_is_is_read(tmp_path: Path) -> None:
    """As those of before were written."""
    path = tmp_path / "index.safetensors"
    Pieces().index().save(path)
    save_file(
        load_file(path), path, metadata={"format": indexing.FORMAT, "kinds": '["a", "b"]', "kind_tokens": "[1, 2]"}
    )
    assert Index.load(path).of == ""


def test_a_save_that_breaks_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index.safetensors"
    Pieces().index().save(path)
    before = path.read_bytes()

    def full(_arrays: Any, to: Path, **_: Any) -> None:
        Path(to).write_bytes(b"the beginning")
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(safetensors.numpy, "save_file", full)
        with pytest.raises(OSError, match="no space left"):
            Pieces(seed=1).index().save(path)
    assert path.read_bytes() == before
    Pieces(seed=1).index().save(path)
    np.testing.assert_array_equal(Index.load(path).counts, Pieces(seed=1).index().counts)
    assert [each.name for each in tmp_path.iterdir()] == ["index.safetensors"]


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    arrays = load_file(path)
    about = {"format": indexing.FORMAT, "kinds": '["a", "b"]', "kind_tokens": "[1, 2]"}
    match how:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut in its header":
            path.write_bytes(data[:100])
        case "cut in its numbers":
            path.write_bytes(data[:-1])
        case "text":
            path.write_text("no such thing")
        case "without an array":
            del arrays["peaks"]
            save_file(arrays, path, metadata=about)
        case "of nothing known":
            save_file(arrays, path)
        case "of another format":
            save_file(arrays, path, metadata=about | {"format": "labkit sae index 2"})
        case "an array of another shape":
            save_file(arrays | {"peaks": arrays["peaks"][:, :-1].copy()}, path, metadata=about)
        case "an array of other numbers":
            save_file(arrays | {"ids": arrays["ids"].astype(np.float32)}, path, metadata=about)
        case "a kind too few":
            save_file(arrays, path, metadata=about | {"kinds": '["a"]'})
        case "a peak outside":
            save_file(arrays | {"peaks": np.full_like(arrays["peaks"], WINDOW)}, path, metadata=about)
        case "kinds that are none":
            save_file(arrays, path, metadata=about | {"kinds": "[1, "})
        case "too few counts, and those words":
            save_file(arrays, path, metadata=about | {"kind_tokens": '["a"]'})
        case "counts that are words":
            save_file(arrays, path, metadata=about | {"kind_tokens": '["a", "b"]'})
        case "counts that are no list":
            save_file(arrays, path, metadata=about | {"kind_tokens": "5"})
        case "counts of nothing":
            save_file(arrays, path, metadata=about | {"kind_tokens": "[0, 0]"})
        case "kinds that are a number":
            save_file(arrays, path, metadata=about | {"kinds": "5"})
        case "kinds that are numbers":
            save_file(arrays, path, metadata=about | {"kinds": "[1, 2]"})
        case "a folder":
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize(
    "how",
    [
        *("missing", "empty", "cut in its header", "cut in its numbers", "text", "without an array"),
        *("of nothing known", "of another format", "kinds that are none", "a folder"),
        *("an array of another shape", "an array of other numbers", "a kind too few", "a peak outside"),
        *("too few counts, and those words", "counts that are words", "counts that are no list", "counts of nothing"),
        *("kinds that are a number", "kinds that are numbers"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "index.safetensors"
    Pieces().index().save(path)
    damaged(path, how)
    with pytest.raises(BadModelFile, match=r"index.safetensors is not an index of features, or damaged; make it again"):
        Index.load(path)


# of a model ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return make_lab()


def test_an_index_of_texts_says_where_each_token_stood(lab: lk.Lab) -> None:
    """Feature j is at work on token j only, so that the index is a concordance."""
    texts = {"low": rows(8, 80, tokens=range(3, 50)), "high": rows(9, 60, seed=1, tokens=range(40, 100))}
    found = lk.sae.index(lab, detectors(lab), texts)
    for token in range(100):
        count = [sum(row[1:].count(token) for row in of_kind) for of_kind in texts.values()]
        assert found.counts[token] == sum(count)
        np.testing.assert_allclose(found.kind_sums[token], [2.0 * n for n in count], rtol=1e-3)
        for slot in np.flatnonzero(found.values[token]):
            assert found.ids[token, slot, found.peaks[token, slot]] == token
    assert found.kinds == ("low", "high")
    assert found.kind_tokens == (8 * 79, 9 * 59)


def test_it_is_the_features_of_the_tokens_that_count(lab: lk.Lab, tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path, measured={"typical_norm": 20.0, "outlier": 1.45}))
    texts = rows(12, 90)
    found = lk.sae.index(lab, sae, texts)
    each = lk.sae.features(lab, sae, texts)
    counts, largest = np.zeros(len(sae), int), np.zeros(len(sae))
    for features in each:
        at = features.indices >= 0
        np.add.at(counts, features.indices[at].numpy(), 1)
        np.maximum.at(largest, features.indices[at].numpy(), features.values[at].numpy())
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.largest, largest, rtol=1e-5)
    defined = sum(int(features.defined.sum()) for features in each)
    assert found.tokens == defined < sum(map(len, texts)) - len(texts)
    assert found.kinds == ("texts",)


def test_the_index_that_came_along_is_read(lab: lk.Lab, tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path))
    with pytest.raises(BadInput, match=r"came without an index; make one of your own texts: lk\.sae\.index"):
        lk.sae.index(lab, sae)
    made = lk.sae.index(lab, sae, rows(12, 90))
    made.save(tmp_path / indexing.FILE)
    found = lk.sae.index(lab, sae)
    np.testing.assert_array_equal(found.counts, made.counts)
    assert lk.sae.index(lab, sae) is found
    with pytest.raises(BadInput, match="came without an index"):
        lk.sae.index(lab, detectors(lab))  # without a folder


def test_what_makes_no_index_is_refused(lab: lk.Lab, tmp_path: Path) -> None:
    sae = detectors(lab)
    with pytest.raises(BadInput, match="This corpus has 960 tokens, too few; give at least 1,000"):
        lk.sae.index(lab, sae, {"a": rows(5, 96), "b": rows(5, 96)})
    with pytest.raises(BadInput, match="has 0 tokens"):
        lk.sae.index(lab, sae, [])
    with pytest.raises(BadInput, match="texts are to be a list of texts"):
        lk.sae.index(lab, sae, "a long text " * 1_000)
    with pytest.raises(BadInput, match="was trained on another"):
        lk.sae.index(lab, lk.sae.load(folder(tmp_path, model="another")), rows(12, 90))


def test_ids_take_two_bytes_or_for_large_vocabularies_four(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lab = make_lab()
    sae, texts = detectors(lab), rows(12, 90)
    small, found = lk.sae.index(lab, sae, texts), {}
    for size, kind in ((65_535, np.uint16), (65_536, np.uint32)):
        monkeypatch.setattr(type(lab.tokenizer), "__len__", lambda _, size=size: size)
        lk.sae.index(lab, sae, texts).save(tmp_path / f"{size}")
        found = Index.load(tmp_path / f"{size}")
        assert found.ids.dtype == kind
        assert found.nothing == np.iinfo(kind).max
        np.testing.assert_array_equal(found.ids == found.nothing, small.ids == NOTHING)
        there = found.ids != found.nothing
        np.testing.assert_array_equal(found.ids[there], small.ids[there])
    monkeypatch.undo()
    one, other = (lk.sae.dashboard(lab, sae[9], of=each) for each in (small, found))
    assert one.examples[0].tokens == other.examples[0].tokens
    assert lk.sae.search(lab, sae, "t9", of=found).equals(lk.sae.search(lab, sae, "t9", of=small))


def test_an_index_written_anew_is_read_anew(lab: lk.Lab, tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path))
    for texts in (rows(12, 90), rows(13, 90, seed=1)):
        made = lk.sae.index(lab, sae, texts)
        made.save(tmp_path / "index.safetensors")
        np.testing.assert_array_equal(lk.sae.index(lab, sae).counts, made.counts)


def test_another_autoencoders_index_is_refused(lab: lk.Lab) -> None:
    sae = detectors(lab)
    for use in (lambda of: lk.sae.dashboard(lab, sae[3], of=of), lambda of: lk.sae.search(lab, sae, "a", of=of)):
        with pytest.raises(BadInput, match="This index is of 12 features and detectors has 100; make it again"):
            use(Pieces().index())
        with pytest.raises(BadInput, match="of takes an index"):
            use({})


USES: dict[str, Callable[[lk.Lab, Any, Index], Any]] = {
    "dashboard": lambda lab, sae, of: lk.sae.dashboard(lab, sae[9], of=of),
    "search": lambda lab, sae, of: lk.sae.search(lab, sae, "t9", of=of),
}


@pytest.mark.parametrize("use", USES)
def test_an_index_says_whose_it_is(use: str, lab: lk.Lab, tmp_path: Path) -> None:
    """Of the same size, so that only the fingerprint tells them apart."""
    sae = detectors(lab)
    found = lk.sae.index(lab, sae, rows(12, 90))
    assert found.of == sae.fingerprint != ""
    found.save(tmp_path / "index.safetensors")
    for of in (found, Index.load(tmp_path / "index.safetensors")):
        USES[use](lab, sae, of)
        USES[use](lab, detectors(lab, name="an equal one"), of)
        other = replace(sae, name="other", decoder=sae.decoder.roll(1, 0))
        with pytest.raises(BadInput, match="This index is of another autoencoder than other; make one of its own"):
            USES[use](lab, other, of)
        USES[use](lab, other, replace(of, of=""))  # of whichever, nobody knows


def test_the_index_that_came_along_says_whose_it_is(lab: lk.Lab, tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path))
    lk.sae.index(lab, sae, rows(12, 90)).save(tmp_path / indexing.FILE)
    assert lk.sae.index(lab, sae).of == sae.fingerprint


@pytest.mark.parametrize("what", ["x", 3, None])
def test_an_index_is_of_an_autoencoder(lab: lk.Lab, what: Any) -> None:
    sae = detectors(lab)
    for wrong, shown in ((what, repr(what) if what is not None else "a NoneType"), (sae[3], "a Feature")):
        for call in (
            lambda wrong=wrong: lk.sae.index(lab, wrong),
            lambda wrong=wrong: lk.sae.index(lab, wrong, rows(12, 90)),
            lambda wrong=wrong: lk.sae.search(lab, wrong, "t9"),
            lambda wrong=wrong: lk.sae.search(lab, wrong, "t9", of=Pieces().index()),
        ):
            with pytest.raises(
                BadInput, match=rf"This takes an autoencoder, such as lk\.sae\.load\(\), and {shown} is"
            ):
                call()


def test_the_metadata_is_plain(tmp_path: Path) -> None:
    """So that anybody reads it with safetensors alone."""
    from safetensors import safe_open

    found = Pieces().index()
    found.save(tmp_path / "index.safetensors")
    with safe_open(tmp_path / "index.safetensors", framework="numpy") as file:
        about = file.metadata()
        assert set(file.keys()) == set(ARRAYS)
    assert json.loads(about["kinds"]) == ["prose", "code"]
    assert tuple(json.loads(about["kind_tokens"])) == found.kind_tokens


def test_an_index_in_the_folder_of_another_autoencoder_is_refused(lab: lk.Lab, tmp_path: Path) -> None:
    sae, other = (lk.sae.load(folder(tmp_path / name, tensors=weights("topk", seed=i))) for i, name in enumerate("ab"))
    lk.sae.index(lab, other, rows(12, 90)).save(tmp_path / "a" / "index.safetensors")
    with pytest.raises(BadInput, match="This index is of another autoencoder"):
        lk.sae.dashboard(lab, sae[3])
