from collections.abc import Mapping
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ConfigurationError, UnknownComponentError
from flower_dfl.validation import check_known, check_type


def test_a_known_name_passes():
    assert check_known("fruit", "pear", ["apple", "pear"]) is None


def test_an_unknown_name_is_answered_with_the_nearest_and_with_all_valid_ones_sorted():
    with pytest.raises(
        ConfigurationError, match=r"^unknown fruit 'pera'\. Did you mean 'pear'\? Valid: apple, pear, plum$"
    ):
        check_known("fruit", "pera", ["plum", "pear", "apple"])


def test_no_nearest_name_is_offered_where_none_is_near():
    with pytest.raises(ConfigurationError, match=r"^unknown fruit 'xyz'\. Valid: apple$"):
        check_known("fruit", "xyz", ["apple"])


def test_where_nothing_is_valid_the_message_says_so():
    with pytest.raises(ConfigurationError, match=r"Valid: none$"):
        check_known("fruit", "xyz", [])


def test_the_kind_of_error_can_be_chosen():
    with pytest.raises(UnknownComponentError):
        check_known("fruit", "xyz", ["apple"], UnknownComponentError)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, int),
        (-3, int),
        (0.5, float),
        (float("inf"), float),
        ("a", str),
        (True, bool),
        ("auto", Literal["auto", "none"]),
        ("auto", float | Literal["auto"]),
        (0.5, float | Literal["auto"]),
        ("1.5 median", float | str),
        (None, int | None),
        ([1], list[int]),
        ({"a": 1}, Mapping[str, int]),
        ({"a": 1}, dict[str, int]),
        ((1, "a"), tuple[int, str]),
        ("anything", object),
        ("anything", "a forward reference"),
    ],
)
def test_a_value_of_the_type_is_returned_as_it_is(value, annotation):
    assert check_type("key", value, annotation) is value


@given(st.integers(-(2**53), 2**53))
def test_an_integer_is_promoted_where_a_float_is_wanted(number):
    promoted = check_type("lr", number, float)

    assert type(promoted) is float
    assert promoted == number


def test_an_integer_is_promoted_in_a_union_too():
    assert type(check_type("gamma", 3, float | Literal["auto"])) is float


@pytest.mark.parametrize(
    ("value", "annotation", "described"),
    [
        (0.5, int, r"int, got 0\.5 \(float\)"),
        (2.0, int, r"int, got 2\.0 \(float\)"),
        ("1", int, r"int, got '1' \(str\)"),
        (True, int, r"int, got True \(bool\)"),
        (False, float, r"float, got False \(bool\)"),
        ("0.1", float, r"float, got '0\.1' \(str\)"),
        (1, str, r"str, got 1 \(int\)"),
        (1, bool, r"bool, got 1 \(int\)"),
        ("mail", Literal["mailbox", "relay"], r"'mailbox' or 'relay', got 'mail' \(str\)"),
        ("aut", float | Literal["auto"], r"float or 'auto', got 'aut' \(str\)"),
        (None, int, r"int, got None \(NoneType\)"),
        (3, Mapping[str, int], r"Mapping, got 3 \(int\)"),
        (3, list[int], r"list, got 3 \(int\)"),
        (True, int | None, r"int or NoneType, got True \(bool\)"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_name_both_types_and_the_value(value, annotation, described):
    with pytest.raises(ConfigurationError, match=rf"^train\.key must be {described}$"):
        check_type("train.key", value, annotation)
