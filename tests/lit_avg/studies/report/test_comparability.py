from lit_avg.studies.report.comparability import asked, comparable_groups, same_questions


def told(*questions: str) -> frozenset[str]:
    return frozenset(questions)


def test_rows_that_tell_nothing_belong_to_the_others_only_where_these_agree() -> None:
    assert comparable_groups([told(), told("x"), told("x")]) == [0, 0, 0]
    assert comparable_groups([told(), told("x"), told("y"), told()]) == [2, 0, 1, 2]
    assert comparable_groups([told(), told()]) == [0, 0]


def test_rows_with_some_seeds_alone_are_asked_the_same_as_those_with_others() -> None:
    every, first, second = told("0", "1"), told("0"), told("1")
    assert comparable_groups([every, first, second, told("other")]) == [0, 0, 0, 1]
    assert same_questions(every, first)
    assert not same_questions(first, told("other"))


def test_a_result_from_before_there_was_a_hash_tells_nothing() -> None:
    assert asked({0: {"metrics": {}}, 1: {"questions": None}, 2: {"questions": "x"}}) == {"x"}
