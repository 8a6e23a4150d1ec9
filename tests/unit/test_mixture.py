"""The order of samples: exact weights, every document once in an epoch, whole documents, exact resume."""

import json
from collections import Counter

import numpy as np
import pytest

from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.indexed_writer import IndexedWriter
from megatron_lmt.data.interleaver import Interleaver
from megatron_lmt.data.mixture import Mixture
from megatron_lmt.data.packing import best_fit, lengths_of, whole_documents
from megatron_lmt.data.stream import FIRST_WINDOW, LARGEST_WINDOW, SAMPLER_VERSION, SourceStream, permute
from megatron_lmt.data.weights import Phase, Plan, Source
from megatron_lmt.languages import directions, is_downsampled

SEQ_LENGTH = 100


def write_documents(prefix, lengths):
    with IndexedWriter(prefix, np.dtype(np.int32)) as writer:
        for number, length in enumerate(lengths):
            writer.add_document([[number] * int(length)])
        writer.close()
    return IndexedReader(prefix)


@pytest.fixture
def reader(tmp_path):
    """600 documents: most are short, some just one token, some longer than a sample."""
    lengths = np.random.default_rng(0).integers(2, 60, 600)
    lengths[::50], lengths[7::100] = 1, 250
    return write_documents(tmp_path / "documents", lengths)


def groups_and_weights(groups):
    """Groups of weights → the group of each source, and its weight; the weights sum to 1."""
    names = [str(number) for number, weights in enumerate(groups) for _ in weights]
    weights = np.array([weight for weights in groups for weight in weights])
    return names, weights / weights.sum()


def random_groups(seed):
    random = np.random.default_rng(seed)
    return [
        (random.pareto(random.choice([0.3, 0.7, 2]), random.integers(1, 60)) + 1e-5).tolist()
        for _ in range(random.integers(1, 6))
    ]


@pytest.mark.parametrize(
    "groups",
    [
        [[1.0]],
        [[1.0], [1.0]],
        [[1 - 1e-5], [1e-5]],
        [[0.7, 0.1, 0.1, 0.05, 0.05]],
        *map(random_groups, range(12)),
    ],
)
def test_every_prefix_is_within_one_sample_of_the_weights(groups):
    names, weights = groups_and_weights(groups)
    interleaver = Interleaver(names, weights)
    starts = np.cumsum([0, *map(len, groups)])[:-1]
    drawn = np.zeros(len(weights), dtype=int)
    for turn in range(1, 4001):
        drawn[interleaver.next_source()] += 1
        off = drawn - weights * turn
        assert np.abs(off).max() < 1
        assert np.abs(np.add.reduceat(off, starts)).max() < 2


def test_three_equal_groups_of_60_118_and_116_sources_stay_equal():
    names, weights = groups_and_weights([[1 / 60] * 60, [1 / 118] * 118, [1 / 116] * 116])
    interleaver, drawn = Interleaver(names, weights), np.zeros(294, dtype=int)
    for turn in range(1, 4001):
        drawn[interleaver.next_source()] += 1
        assert np.abs(drawn - weights * turn).max() < 1
        assert np.abs(np.add.reduceat(drawn, [0, 60, 178]) - turn / 3).max() < 1


def test_downsampled_directions_are_spread_over_the_run():
    sizes = np.random.default_rng(0).normal(1, 0.02, 234)  # as multi-way text after its cleaning
    downsampled = np.array([is_downsampled(*direction.split("-")) for direction in directions("all")])
    names, weights = groups_and_weights([(np.where(downsampled, 0.05, 1) * sizes).tolist()])
    interleaver = Interleaver(names, weights)
    are_downsampled = downsampled[[interleaver.next_source() for _ in range(10_240)]]
    share = weights[downsampled].sum()
    assert abs(are_downsampled[:480].sum() - share * 480) < 4  # of 22; none when each waited for its deadline
    assert are_downsampled.reshape(-1, 128).mean(1).max() < 0.1  # of a step; 0.31 then, and 0.05 on average


def test_shares_are_kept_after_a_billion_samples():
    names, weights = groups_and_weights([[1 / 60] * 60, [1 / 118] * 118, [1 / 116] * 116])
    done = np.floor(weights * 10**9).astype(np.int64)
    done[: 10**9 - done.sum()] += 1
    interleaver = Interleaver(names, weights, done)
    for turn in range(10**9 + 1, 10**9 + 1501):
        interleaver.next_source()
        assert np.abs(interleaver.drawn - weights * turn).max() < 1
    assert interleaver.drawn.sum() == 10**9 + 1500


@pytest.mark.parametrize("size", [1, 2, 3, 100, 1023, 1025])
def test_permutation_has_each_place_once_and_depends_on_the_key(size):
    places = np.arange(size, dtype=np.uint64)
    one, other = permute(places, size, b"one"), permute(places, size, b"other")
    assert sorted(one) == sorted(other) == list(range(size))
    assert np.array_equal(one, permute(places, size, b"one"))
    if size > 10:
        assert not np.array_equal(one, other) and not np.array_equal(one, np.arange(size))


def test_packing_fills_bins_and_loses_nothing():
    lengths = np.random.default_rng(2).integers(1, 101, 5000).tolist()
    bins = best_fit(lengths, 100)
    assert sorted(item for members in bins for item in members) == list(range(5000))
    assert all(sum(lengths[item] for item in members) <= 100 for members in bins)
    assert sum(lengths) / (100 * len(bins)) > 0.99


@pytest.mark.parametrize("packing", ["documents", "concatenate"])
def test_every_document_is_seen_once_before_any_is_seen_twice(reader, packing):
    stream = SourceStream(reader, "x", 3, SEQ_LENGTH, packing)
    with_loss = {i for i in range(reader.num_documents) if reader.document_lengths(np.array([i]))[0] > 1}
    orders = []
    seen: list[int] = []
    while len(orders) < 3:
        # documents in the order of their first piece; a document that ends an epoch may share a sample with the next
        seen += [document for document, start, _ in stream.next_pieces().tolist() if start == 0]
        if len(seen) >= len(with_loss):
            epoch, seen = seen[: len(with_loss)], seen[len(with_loss) :]
            assert set(epoch) == with_loss
            orders.append(epoch)
    assert orders[0] != orders[1] != orders[2]


def test_only_documents_longer_than_a_sample_are_cut(reader):
    stream = SourceStream(reader, "x", 3, SEQ_LENGTH, "documents")
    positions: Counter = Counter()
    while stream.epoch == 0:
        for document, start, stop in stream.next_pieces().tolist():
            length = int(reader.document_lengths(np.array([document]))[0]) - 1
            assert stop - start in (length, SEQ_LENGTH, length % SEQ_LENGTH)
            positions[document] += stop - start
    for document, count in positions.items():
        assert count % (int(reader.document_lengths(np.array([document]))[0]) - 1) == 0


def test_concatenated_documents_lose_no_position_and_come_in_one_piece_after_another(reader):
    stream = SourceStream(reader, "x", 3, SEQ_LENGTH, "concatenate")
    pieces = np.concatenate([stream.next_pieces() for _ in range(150)])
    for before, after in zip(pieces, pieces[1:], strict=False):
        length = int(reader.document_lengths(before["document"])) - 1
        if before["stop"] < length:
            assert (after["document"], after["start"]) == (before["document"], before["stop"])
        else:
            assert after["start"] == 0


@pytest.mark.parametrize("packing", ["documents", "concatenate"])
def test_samples_are_full(reader, packing):
    stream = SourceStream(reader, "x", 3, SEQ_LENGTH, packing)
    filled = [lengths_of(stream.next_pieces()).sum() for _ in range(500)]
    assert max(filled) <= SEQ_LENGTH and np.mean(filled) / SEQ_LENGTH > 0.99


def test_packing_takes_each_position_of_all_documents_once(reader):
    documents = np.arange(reader.num_documents)
    pieces = np.concatenate(whole_documents(documents, reader.document_lengths(documents) - 1, SEQ_LENGTH))
    assert lengths_of(pieces).sum() == reader.num_tokens - reader.num_documents
    assert len({(document, start) for document, start, _ in pieces.tolist()}) == len(pieces)


def make_mixture(tmp_path, packing="documents", phases=None):
    readers = {}
    for name, count in (("a", 90), ("b", 7), ("c", 300)):
        if not (tmp_path / f"{name}.bin").exists():
            write_documents(tmp_path / name, np.random.default_rng(count).integers(2, 80, count))
        readers[name] = IndexedReader(tmp_path / name)
    sources = [Source(name, "group", tmp_path / name) for name in readers]
    plan = Plan(sources, phases or [Phase(0, [0.5, 0.2, 0.3])])
    return Mixture(plan, readers, 5, SEQ_LENGTH, packing)


def draw(mixture, count):
    """Source and pieces of the next samples."""
    return [(sample.source, sample.pieces.tolist()) for sample in (mixture.next_sample() for _ in range(count))]


PHASES = [Phase(0, [0.5, 0.5, 0.0]), Phase(100, [0.1, 0.2, 0.7]), Phase(250, [0.0, 0.9, 0.1])]


@pytest.mark.parametrize(
    ("packing", "fingerprint"), [("documents", "49c6ab4130ae5e22"), ("concatenate", "214fc71be7b3ea96")]
)
def test_the_order_is_that_of_this_sampler_version(tmp_path, packing, fingerprint):
    """Another fingerprint means another order: raise SAMPLER_VERSION, so that runs from before are not resumed with it."""
    mixture = make_mixture(tmp_path, packing, PHASES)
    draw(mixture, 500)
    assert (SAMPLER_VERSION, mixture.fingerprint) == (3, fingerprint)


@pytest.mark.parametrize("stop_after", [1, 37, 100, 150, 391])
@pytest.mark.parametrize(("packing", "phases"), [("documents", None), ("documents", PHASES), ("concatenate", None)])
def test_a_resumed_mixture_goes_on_exactly(tmp_path, stop_after, packing, phases):
    whole = make_mixture(tmp_path, packing, phases)
    expected = draw(whole, 400)
    first = make_mixture(tmp_path, packing, phases)
    for _ in range(stop_after):
        first.next_sample()
    second = make_mixture(tmp_path, packing, phases)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert draw(second, 400 - stop_after) == expected[stop_after:]
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("packing", ["documents", "concatenate"])
def test_ledger_counts_what_was_drawn(tmp_path, packing):
    mixture = make_mixture(tmp_path, packing)
    drawn = [mixture.next_sample() for _ in range(200)]
    for number, row in enumerate(mixture.ledger(mixture.state_dict())):
        mine = [sample for sample in drawn if sample.source == number]
        pieces = np.concatenate([sample.pieces for sample in mine])
        assert row["samples"] == len(mine)
        assert row["tokens"] == lengths_of(pieces).sum()
        assert row["documents"] == (pieces["start"] == 0).sum()
        assert row["planned_samples"] == 200 * mixture.plan.phases[0].weights[number]
        assert abs(row["samples"] - row["planned_samples"]) < 1
    assert mixture.consumed_samples == 200


def test_windows_grow_with_the_epoch_and_every_one_is_full(tmp_path):
    count = 2 * (FIRST_WINDOW + LARGEST_WINDOW)
    reader = write_documents(tmp_path / "many", np.random.default_rng(4).integers(2, 60, count))
    stream, begins = SourceStream(reader, "x", 3, SEQ_LENGTH, "documents"), {}
    while stream.epoch == 0:
        begins.setdefault(stream.document, []).append(lengths_of(stream.next_pieces()).sum())
    documents = np.diff([*begins, count])
    assert documents[0] >= FIRST_WINDOW and documents.max() < LARGEST_WINDOW + 50 and len(begins) == 7
    assert all(np.mean(filled) / SEQ_LENGTH > 0.98 for filled in begins.values())


def test_seed_changes_the_order(tmp_path, reader):
    one, other = (SourceStream(reader, "x", seed, SEQ_LENGTH, "documents").next_pieces() for seed in (1, 2))
    assert one.tolist() != other.tolist()


def test_a_change_of_weights_repeats_and_skips_no_document(tmp_path):
    """What is drawn of a source over all phases is the beginning of what it would give alone."""
    mixture = make_mixture(tmp_path, phases=PHASES)
    drawn = [mixture.next_sample() for _ in range(400)]
    for number, stream in enumerate(mixture.streams):
        alone = SourceStream(stream.reader, mixture.sources[number].name, 5, SEQ_LENGTH, "documents")
        mine = [sample.pieces.tolist() for sample in drawn if sample.source == number]
        assert mine == [alone.next_pieces().tolist() for _ in mine]
    boundaries = [(phase.start_sample, phase.weights) for phase in PHASES]
    for (start, weights), end in zip(boundaries, [100, 250, 400], strict=True):
        counts = np.bincount([sample.source for sample in drawn[start:end]], minlength=3)
        assert np.abs(counts - np.array(weights) * (end - start)).max() < 1
    ledger = mixture.ledger(mixture.state_dict())
    assert [row["planned_samples"] for row in ledger] == pytest.approx([65, 215, 120])
    assert [row["samples_in_phases"] for row in ledger] == [[50, 15, 0], [50, 30, 135], [0, 105, 15]]


def test_a_source_may_be_added_between_two_starts(tmp_path):
    first = make_mixture(tmp_path, phases=PHASES[:1])
    for _ in range(100):
        first.next_sample()
    state = first.state_dict()
    del state["sources"]["c"]  # it was not in the run file then
    second = make_mixture(tmp_path, phases=PHASES[:2])
    second.load_state_dict(state)
    whole = make_mixture(tmp_path, phases=PHASES[:2])
    assert draw(second, 50) == draw(whole, 150)[100:]
