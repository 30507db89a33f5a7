"""Every case of what must not go wrong has a test that is named for it."""

import ast
from pathlib import Path

import pytest
from cases import CASES, numbers_in, stores_of


def names() -> set[str]:
    trees = (ast.parse(path.read_text()) for path in Path(__file__).parent.rglob("test_*.py"))
    functions = (node for tree in trees for node in ast.walk(tree))
    return {
        node.name for node in functions if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_no_case_is_without_a_test() -> None:
    held = set().union(*(numbers_in(name) for name in names()))
    assert sorted(set(CASES) - held) == []


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("test_case_17_one_grant", {17}),
        ("test_case_46_a_402_for_ever[exact]", {46}),
        ("test_case_46_402_after_paying", {46}),
        ("test_cases_16_and_53_no_secret_shows", {16, 53}),
        ("test_a_case_that_names_none", set()),
        ("test_case_99_unknown", set()),
    ],
)
def test_a_name_says_which_cases_it_is_about(name: str, numbers: set[int]) -> None:
    assert numbers_in(name) == numbers


def test_the_parameters_of_a_test_say_over_which_stores_it_runs() -> None:
    tests = ["a.py::test_case_27_x[redis-cluster-16]", "a.py::test_case_27_x[sqlite-16]", "a.py::b"]
    assert stores_of(tests) == "sqlite, redis-cluster"
