"""Mappings to dataclasses: what is accepted, and what the errors say."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcdnet.config import apply_overrides, from_dict, to_dict
from bcdnet.errors import RecipeError


@dataclass(frozen=True)
class Leaf:
    size: int
    rate: float = 0.5
    kind: Literal["round", "32"] = "round"
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    share: int | float = 0
    on: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise RecipeError(f"size: must be >= 1, got {self.size}")


@dataclass(frozen=True)
class Open:
    name: str
    rest: dict[str, Any] = field(default_factory=dict, metadata={"rest": True})


@dataclass(frozen=True)
class Tree:
    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    maybe: Leaf | None = None
    open: Open = field(default_factory=lambda: Open("default"))


def test_nested_values_take_their_types() -> None:
    tree = from_dict(
        Tree,
        {
            "leaf": {"size": 3.0, "rate": "1e-3", "kind": 32, "pair": [0, 1], "names": ["a"], "share": 2, "on": True},
            "leaves": [{"size": 1}, {"size": 2}],
            "maybe": None,
            "open": {"name": "x", "width": 0.25, "deep": {"a": 1}},
        },
    )
    assert tree.leaf == Leaf(3, 0.001, "32", (0.0, 1.0), ("a",), 2, True)
    assert isinstance(tree.leaf.size, int)
    assert isinstance(tree.leaf.share, int)
    assert [leaf.size for leaf in tree.leaves] == [1, 2]
    assert tree.maybe is None
    assert tree.open.rest == {"width": 0.25, "deep": {"a": 1}}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"leaf": {"size": 1, "rat": 1}}, "leaf.rat: unknown key; did you mean 'rate'?"),
        (
            {"leaf": {"size": 1, "zzz": 1}},
            "leaf.zzz: unknown key; known keys: kind, names, on, pair, rate, share, size",
        ),
        ({"lea": {}, "leaf": {"size": 1}}, "lea: unknown key; did you mean 'leaf'?"),
        ({"leaf": {}}, "leaf.size: required, but not given"),
        ({"leaf": {"size": "big"}}, "leaf.size: expected a whole number, got str 'big'"),
        ({"leaf": {"size": 1.5}}, "leaf.size: expected a whole number, got float 1.5"),
        ({"leaf": {"size": True}}, "leaf.size: expected a whole number, got bool True"),
        ({"leaf": {"size": float("inf")}}, "leaf.size: expected a whole number, got float inf"),
        ({"leaf": {"size": None}}, "leaf.size: expected a whole number, got nothing"),
        ({"leaf": {"size": 1, "rate": "fast"}}, "leaf.rate: expected a number, got str 'fast'"),
        ({"leaf": {"size": 1, "rate": float("nan")}}, "leaf.rate: expected a number, got float nan"),
        ({"leaf": {"size": 1, "on": 1}}, "leaf.on: expected true or false, got int 1"),
        (
            {"leaf": {"size": 1, "kind": "rounds"}},
            "leaf.kind: must be one of 'round', '32', got 'rounds'; did you mean 'rou",
        ),
        ({"leaf": {"size": 1, "pair": [1]}}, "leaf.pair: expected 2 values, got 1"),
        ({"leaf": {"size": 1, "names": "abc"}}, "leaf.names: expected a list, got str 'abc'"),
        ({"leaf": {"size": 1, "names": ["a", 3]}}, "leaf.names.1: expected a string, got int 3; quote it"),
        ({"leaf": {"size": 1, "names": [None]}}, "leaf.names.0: expected a string, got nothing"),
        ({"leaf": {"size": 0}}, "leaf.size: must be >= 1, got 0"),
        ({"leaf": {"size": 1}, "leaves": [{"size": 1}, {"size": 0}]}, "leaves.1.size: must be >= 1, got 0"),
        ({"leaf": 3}, "leaf: expected a mapping of keys, got int 3"),
        ({"leaf": {"size": 1}, "open": {}}, "open.name: required, but not given"),
    ],
)
def test_errors_name_the_full_key(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        from_dict(Tree, mapping)
    assert str(caught.value).startswith(message)


@given(
    st.builds(
        Leaf,
        size=st.integers(1, 99),
        rate=st.floats(allow_nan=False, allow_infinity=False),
        kind=st.sampled_from(["round", "32"]),
        pair=st.tuples(st.floats(0, 1), st.floats(0, 1)),
        names=st.lists(st.text()).map(tuple),
        share=st.one_of(st.integers(0, 9), st.floats(0, 0.9)),
        on=st.booleans(),
    )
)
def test_to_dict_is_the_inverse(leaf: Leaf) -> None:
    tree = Tree(leaf, leaves=(leaf,), open=Open("n", {"k": [1, 2]}))
    assert from_dict(Tree, to_dict(tree)) == tree


def test_overrides_read_yaml_and_leave_the_original_alone() -> None:
    original = {"a": {"b": 1}, "steps": [{"name": "one", "lr": 1}, {"name": "two"}]}
    changed = apply_overrides(
        original,
        [
            "a.b=2",
            "a.new.deep=[1, x]",
            "steps.0.lr=1e-3",
            "steps.two.lr=0.5",
            "flag=true",
            "path=a=b",
            "none=null",
            "hash=runs/x #2 ",
            "all=#2",
            "date=2026-11-28",
            "quoted='a #b'",
            "map={a: b} # c",
        ],
    )
    assert changed == {
        "a": {"b": 2, "new": {"deep": [1, "x"]}},
        "steps": [{"name": "one", "lr": "1e-3"}, {"name": "two", "lr": 0.5}],
        "flag": True,
        "path": "a=b",
        "none": None,
        "hash": "runs/x #2",
        "all": "#2",
        "date": "2026-11-28",
        "quoted": "a #b",
        "map": {"a": "b"},
    }
    assert original == {"a": {"b": 1}, "steps": [{"name": "one", "lr": 1}, {"name": "two"}]}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("epochs", "override 'epochs': expected key=value"),
        ("=1", "override '=1': expected key=value"),
        ("a.b.c=1", "override 'a.b.c=1': a.b is int 1, which has no keys"),
        ("a.b.c.d=1", "override a.b.c: int 1 has no keys"),
        ("steps.three.lr=1", "override steps.three: no entry 'three' in the list (one, two)"),
        ("steps.2.lr=1", "override steps.2: no entry '2' in the list (one, two)"),
        ("a..b=1", "override 'a..b=1': expected key=value"),
        ("none.0=1", "override none.0: no entry '0' in the list (it is empty)"),
        ("a.b={c: 1, c: 2}", "cannot read the value '{c: 1, c: 2}'"),
        ("a.b=[1", "cannot read the value '[1'"),
        ("a.b=2024-13-45", "cannot read the value '2024-13-45'"),
        ("a.b=bad\udcff dir", r"bad\udcff dir: is not UTF-8, as recipes are"),
        ("a.b=" + "[" * 5000, "cannot read the value '[["),
    ],
)
def test_wrong_overrides_are_named(word: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        apply_overrides({"a": {"b": 1}, "steps": [{"name": "one"}, {"name": "two"}], "none": []}, [word])
    assert str(caught.value).startswith(message)
