"""ImageNet's 1000 classes: the WordNet numbers that its folders are called by, and the words for them in models."""

FIRST = "n01440764"


def descriptions() -> list[str]:
    """What the classes are in words, in their usual order, which is that of the folders: `tench, Tinca tinca`, ..."""
    return _wordnet()[1]


def in_words(names: list[str]) -> list[str]:
    """`descriptions()` if the names are the WordNet numbers of all 1000 classes in their order, else the names."""
    if names[:1] != [FIRST]:  # without a look into timm
        return names
    numbers, words = _wordnet()
    return words if names == numbers else names


def _wordnet() -> tuple[list[str], list[str]]:
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    numbers = [info.index_to_label_name(label) for label in range(1000)]
    return numbers, [info.label_name_to_description(number) for number in numbers]
