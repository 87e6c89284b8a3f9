from service.newest import Newest


def test_what_was_set_longest_ago_goes() -> None:
    newest = Newest[str, int](2)
    newest["one"], newest["two"], newest["one"], newest["three"] = 1, 2, 11, 3
    assert dict(newest) == {"one": 11, "three": 3}


def test_what_is_taken_out_leaves_room() -> None:
    newest = Newest[str, int](2)
    newest["one"], newest["two"] = 1, 2
    assert newest.pop("one") == 1
    newest["three"] = 3
    assert list(newest) == ["two", "three"]
