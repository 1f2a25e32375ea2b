"""What people call the parts of a data set: train, val, test and so on, alone or within longer names."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from undiffuse.errors import UndiffuseError

PART_KINDS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation", "heldout", "holdout"),
}
KIND_OF = {word: kind for kind, words in PART_KINDS.items() for word in words}
FILLING = {  # words that say nothing of which part it is, or of what
    *("set", "sets", "data", "dataset", "split", "part", "folder", "file", "files", "shard", "shards", "public"),
    *("image", "images", "img", "imgs", "picture", "pictures", "pics", "photo", "photos", "frames", "private"),
}
ALONE = "*"  # the pattern of a name that says nothing but its part


@dataclass(frozen=True)
class PartName:
    """A name that tells a part. kind: train, val or test; pattern: the name's other words, around a star."""

    kind: str
    pattern: str

    @property
    def held_out(self) -> bool:
        return self.kind != "train"


@lru_cache(maxsize=1 << 16)
def part_name(name: str) -> PartName | None:
    """What a name says of a part, as seg_train, train2017, Test_images, validationSet; None if it says nothing, or two
    things. Numbers do not tell parts from each other."""
    plain = re.sub(r"(?i)(held|hold)[-_ ]out", "heldout", name)
    words = re.findall(r"[^\W\d_]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", plain).lower())
    kinds = [KIND_OF.get(re.sub(r"(?<=.)(sets?|data|images?)$", "", word)) for word in words]
    known = list(dict.fromkeys(kind for kind in kinds if kind))
    if not known or len({kind == "train" for kind in known}) > 1:
        return None
    around = [ALONE if kind else word for word, kind in zip(words, kinds, strict=True) if word not in FILLING]
    first = around.index(ALONE)
    return PartName(known[0], "_".join([*around[: first + 1], *(word for word in around[first:] if word != ALONE)]))


def part_word(name: str) -> PartName | None:
    """The part that a word such as train, Validation or test_set says, and nothing else; None of another word."""
    found = part_name(name)
    return found if found is not None and found.pattern == ALONE else None


def sides_among(names: Collection[str], alone: bool = True) -> dict[str, bool]:
    """Those of the names, which lie beside each other, that are parts, and whether each is held out; {} if none are.

    Parts differ by the word of the part alone: train and test, or seg_train and seg_test; so a class may be called
    train. alone: plain words, such as val and test, are parts without the other kind beside them. Raises UndiffuseError
    where all names are of parts of both kinds, and not alike.
    """
    known = {name: found for name in names if (found := part_name(name))}
    alike: dict[str, dict[str, bool]] = {}
    for name, found in known.items():
        alike.setdefault(found.pattern, {})[name] = found.held_out
    both = {pattern: sides for pattern, sides in alike.items() if len({*sides.values()}) == 2}
    if ALONE in both or len(both) == 1:
        return both[ALONE] if ALONE in both else next(iter(both.values()))
    every = len(known) == len(names)
    if both or (every and len({found.held_out for found in known.values()}) == 2):
        some = " and ".join(sorted(known)[:2])
        raise UndiffuseError(
            f"{some} may be parts or classes: call the parts train and test, or take no name for a part with "
            "data.split=none"
        )
    plain = alone and len(known) > 1 and all(name.lower() in KIND_OF for name in names)
    return alike[ALONE] if plain else {}


def sides_told(sides: Mapping[str, bool]) -> str:
    """Which of the first few is held out, and which is not."""
    told = [f"{name} {'held out' if held_out else 'to train on'}" for name, held_out in sides.items()]
    return ", ".join(told[:4]) + (" ..." if len(told) > 4 else "")


def kinds_in(folders: Collection[str]) -> set[str]:
    """The kinds of parts, train, val and test, that folders of a path are called after."""
    return {part.kind for folder in folders if (part := part_word(folder))}
