"""The next item is prepared while the current one is used, and no sooner."""

import threading

import pytest

from bigain.utils.prefetch import prefetch


def test_order_is_kept():
    assert list(prefetch(lambda i: i * i, range(5))) == [0, 1, 4, 9, 16]
    assert list(prefetch(str, [])) == []


def test_one_ahead():
    begun = [threading.Event() for _ in range(4)]

    def prepare(i: int) -> int:
        begun[i].set()
        return i

    for i in prefetch(prepare, range(4)):
        if i < 3:
            assert begun[i + 1].wait(10), "the next one is under way"
        assert not any(event.is_set() for event in begun[i + 2 :])


def test_an_error_comes_in_its_turn():
    def prepare(i):
        if i == 1:
            raise OSError("item 1")
        return i

    items = prefetch(prepare, range(3))
    assert next(items) == 0
    with pytest.raises(OSError, match="item 1"):
        next(items)
