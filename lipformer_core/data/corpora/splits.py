"""Splits by PERSON. Where a corpus has too few persons for that (one GRID speaker, somebody's own three clips) they
are by clip, the last ones by name held out, and the manifest says so. One video alone is split by time.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from ...config import DataSettings
from ...errors import DataError
from ...timing import FPS
from .layout import ClipSource

FEWEST_PERSONS = 5  # below this a split by person leaves too little to train on
HELD_OUT_CLIPS = 30  # of a person, at most, where the split is by clip
VALIDATION_CLIPS = 6
HELD_OUT = ("val", "test")
BY_TIME = "time"  # the split of a source whose usable frames `by_time` divides
SHORTEST = 6 * FPS  # usable frames of such a source
VAL_SHARE, TEST_SHARE = 0.08, 0.14  # of them, but not less than
VAL_LEAST, TEST_LEAST = FPS, 3 * FPS // 2
GAP = FPS  # frames between two splits that nobody sees, but not more than
GAP_SHARE = 0.05


def split(sources: list[ClipSource], held_out: Collection[str] = HELD_OUT) -> list[ClipSource]:
    """The same rows with their splits: the last tenth of the persons by name is test, the tenth before it val.

    held_out : the splits to draw, where the corpus itself has set test apart ("val" alone)
    Rows of missing clips count for nothing and follow their person.
    """
    persons = _persons(sources)
    if len(persons) < FEWEST_PERSONS:
        return _by_clip(sources, held_out)
    tenth = max(1, len(persons) // 10)
    where = {}
    for number, name in enumerate(name for name in ("test", "val") if name in held_out):
        where |= dict.fromkeys(persons[len(persons) - (number + 1) * tenth : len(persons) - number * tenth], name)
    return [replace(s, split=where.get(s.person, "train")) for s in sources]


def named(sources: list[ClipSource], settings: DataSettings) -> list[ClipSource]:
    """The same rows with the persons whom the settings name held out and all others in train; as they are, if none.

    raises DataError for a named person without a usable clip
    """
    where = dict.fromkeys(settings.val_persons, "val") | dict.fromkeys(settings.test_persons, "test")
    if not where:
        return sources
    persons = _persons(sources)
    if unknown := sorted(set(where) - set(persons)):
        known = f"{', '.join(persons[:10])}{' …' if len(persons) > 10 else ''}"
        raise DataError(f"val_persons, test_persons: nobody is called {', '.join(unknown)}; there are {known}")
    return [replace(s, split=where.get(s.person, "train")) for s in sources]


def by_time(ranges: list[tuple[int, int]], shortest: int) -> list[tuple[str, int, int]]:
    """Divide a source's usable frames, ranges [first, last) in order of time: (split, first, last), in the same order.

    First train, then val, then test, with a gap between them. A piece of less than `shortest` frames is left out.
    """
    total = sum(last - first for first, last in ranges)
    gap = min(GAP, round(GAP_SHARE * total))
    test = max(TEST_LEAST, round(TEST_SHARE * total))
    val = max(VAL_LEAST, round(VAL_SHARE * total))
    train = total - test - val - 2 * gap
    places = {"train": (0, train), "val": (train + gap, train + gap + val), "test": (total - test, total)}
    pieces = []
    for name, (begin, end) in places.items():
        before = 0  # usable frames before this range
        for first, last in ranges:
            low, high = max(first, first + begin - before), min(last, first + end - before)
            if high - low >= shortest:
                pieces.append((name, low, high))
            before += last - first
    return pieces


def rule(sources: list[ClipSource]) -> str:
    """What `split` did, in words."""
    persons = _persons(sources)
    if len(persons) < FEWEST_PERSONS:
        return f"by clip: fewer than {FEWEST_PERSONS} persons, the last clips by name are held out"
    usable = [s for s in sources if not s.missing]
    if len(persons) == len(usable) and all(s.still for s in usable):
        return "by image: nothing says who is on a picture, so each counts as a person"
    return "by person"


def shared_persons(sources: list[ClipSource]) -> int:
    """How many persons have usable clips in more than one split."""
    splits = Counter(person for person, _ in {(s.person, s.split) for s in sources if not s.missing})
    return sum(count > 1 for count in splits.values())


def _persons(sources: list[ClipSource]) -> list[str]:
    return sorted({s.person for s in sources if not s.missing})


def _by_clip(sources: list[ClipSource], held_out: Collection[str]) -> list[ClipSource]:
    where = {}
    for person in _persons(sources):
        own = [number for number, s in enumerate(sources) if s.person == person and not s.missing]
        n_test = min(HELD_OUT_CLIPS, len(own) // 3) if "test" in held_out else 0
        n_val = min(VALIDATION_CLIPS, (len(own) - n_test) // 4) if "val" in held_out else 0
        where |= dict.fromkeys(own[len(own) - n_test :], "test")
        where |= dict.fromkeys(own[len(own) - n_test - n_val : len(own) - n_test], "val")
    return [replace(s, split=where.get(number, "train")) for number, s in enumerate(sources)]
