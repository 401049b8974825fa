import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bcdnet.data import AugmentConfig, Batches, Images
from bcdnet.errors import RecipeError


def numbered(count: int) -> Images:
    """A set whose every image and label is its own index."""
    labels = torch.arange(count)
    return Images(labels.to(torch.uint8).view(-1, 1, 1, 1), labels, ["class"] * count, AugmentConfig())


@given(
    count=st.integers(1, 100),
    parts=st.integers(1, 4),
    share=st.integers(1, 8),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_ranks_share_each_global_batch(count, parts, share, drop_last, shuffle, epoch):
    source, size = numbered(count), parts * share
    if drop_last and count < size:
        with pytest.raises(RecipeError, match=f"batch_size: {size} is more than the {count} images"):
            Batches(source, size, drop_last=True)
        return
    settings = {"seed": 5, "drop_last": drop_last, "shuffle": shuffle}
    whole = [labels for _, labels in Batches(source, size, **settings)(epoch)]
    ranks = [list(Batches(source, size, rank=rank, world_size=parts, **settings)(epoch)) for rank in range(parts)]
    assert {len(batches) for batches in ranks} == {len(whole)}
    for number, batch in enumerate(whole):
        for rank in range(parts):
            images, labels = ranks[rank][number]
            assert torch.equal(labels, batch[rank::parts])
            assert torch.equal(images.flatten().long(), labels)
    seen = torch.cat(whole).sort().values
    if drop_last:
        assert len(seen) == count // size * size
        assert len(seen.unique()) == len(seen)
    else:
        assert torch.equal(seen, torch.arange(count))


@given(st.integers(0, 12), st.integers(0, 2))
def test_resuming_yields_the_rest(start, epoch):
    batches = Batches(numbered(100), 8, seed=1)
    whole = [labels.tolist() for _, labels in batches(epoch)]
    assert [labels.tolist() for _, labels in batches(epoch, start=start)] == whole[start:]


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return torch.cat([labels for _, labels in Batches(numbered(200), 32, seed=seed)(epoch)]).tolist()

    assert order(1, 0) == order(1, 0)
    orders = [order(seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    batches = Batches(numbered(200), 32, seed=1)
    assert [torch.cat([labels for _, labels in batches(epoch)]).tolist() for epoch in (0, 1, 0)] == orders[:2] + orders[
        :1
    ]
    assert torch.cat([labels for _, labels in Batches(numbered(50), 8, shuffle=False)(3)]).tolist() == list(range(50))


def test_global_generators_are_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(Batches(numbered(50), 8)(0))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(RecipeError, match="batch_size: 9 must be a positive multiple of the 2 processes"):
        Batches(numbered(50), 9, world_size=2)
    with pytest.raises(RecipeError, match="batch_size: 0"):
        Batches(numbered(50), 0)
