"""Look at a whole dataset before an hour of training does."""

from collections.abc import Sequence

from bcdnet.data.config import DataConfig
from bcdnet.data.dataset import Dataset
from bcdnet.data.open import open_dataset
from bcdnet.data.problems import label_problems, problems_of, raise_for
from bcdnet.errors import DataError


def check_dataset(config: DataConfig, decode: bool = False, splits: Sequence[str] | None = None) -> None:
    """Check the `splits`, by default the training and test split; with `decode`, decode every image of them too.

    Without `decode` it costs a second or so: files that are missing, empty or truncated, splits that are missing or
    empty, labels out of range (with file and row), classes that differ between the splits. `load_images` of a set that
    goes to memory decodes every image anyway and names the broken ones, so `decode` is for sets that are streamed.

    Raises one DataError with all problems, the first 20 by name.
    """
    problems: list[str] = []
    found: list[tuple[str, Dataset]] = []
    for name in splits or (config.train_split, config.test_split):
        try:
            found.append((name, open_dataset(config.path, name)))
        except DataError as error:
            problems += [str(error)] if str(error) not in problems else []
    for name, dataset in found:
        problems += label_problems(dataset, name)
    if len(found) == 2:
        problems += class_problems(*found[0], *found[1])
    if decode:
        for name, dataset in found:
            problems += problems_of(dataset.image, len(dataset), f"checking {name}")
    raise_for(problems)


def class_problems(train_name: str, train: Dataset, test_name: str, test: Dataset) -> list[str]:
    """How the classes of two splits differ. Sets without names are numbered, and test may then use fewer."""
    if train.class_names == test.class_names:
        return []
    numbered = all(
        names == [str(label) for label in range(len(names))] for names in (train.class_names, test.class_names)
    )
    if numbered and len(test.class_names) < len(train.class_names):
        return []
    if sorted(train.class_names) == sorted(test.class_names):
        return [f"classes differ: {train_name!r} and {test_name!r} have the same ones in another order"]
    differences = f"{len(train.class_names)} classes in {train_name!r}, {len(test.class_names)} in {test_name!r}"
    for name, here, there in ((train_name, train, test), (test_name, test, train)):
        only = [class_name for class_name in here.class_names if class_name not in set(there.class_names)]
        if only:
            differences += f"; only in {name!r}: {', '.join(only[:10])}{', …' if len(only) > 10 else ''}"
    both = "both want a folder, or a name, for each class, even if test has no images of it"
    return [f"classes differ: {differences}; {both}"]
