"""Splits by PERSON. Where a corpus has too few persons for that (one GRID speaker, somebody's own three clips) they
are by clip, the last ones by name held out, and the manifest says so.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from ...config import Config
from ...errors import DataError
from .source import ClipSource

FEWEST_PERSONS = 5  # below this a split by person leaves too little to train on
HELD_OUT_CLIPS = 30  # of a person, at most, where the split is by clip
VALIDATION_CLIPS = 6
HELD_OUT = ("val", "test")


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


def named(sources: list[ClipSource], config: Config) -> list[ClipSource]:
    """The same rows with the persons whom the settings name held out and all others in train; as they are, if none.

    raises DataError for a named person without a usable clip
    """
    where = dict.fromkeys(config.val_persons, "val") | dict.fromkeys(config.test_persons, "test")
    if not where:
        return sources
    persons = _persons(sources)
    if unknown := sorted(set(where) - set(persons)):
        known = f"{', '.join(persons[:10])}{' …' if len(persons) > 10 else ''}"
        raise DataError(f"val_persons, test_persons: nobody is called {', '.join(unknown)}; there are {known}")
    return [replace(s, split=where.get(s.person, "train")) for s in sources]


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
