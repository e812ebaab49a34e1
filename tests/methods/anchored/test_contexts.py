from ultraedit.methods.anchored.contexts import FormQueue


def test_forms_come_in_turn_until_they_are_learned():
    queue = FormQueue(4, 1)
    seen = []
    for learned in (False, True, False, True, False):
        (form,) = queue.next()
        seen.append(form)
        queue.record(0, True)
        queue.record(form, learned)
    assert seen == [1, 2, 3, 1, 3]
    # All that wait come before what was learned, and that, oldest first, before nothing.
    assert queue.next() == [3]
    queue.record(3, True)
    assert queue.next() == [2]


def test_as_many_as_there_are():
    assert FormQueue(1, 3).next() == []
    assert FormQueue(3, 5).next() == [1, 2]
    assert FormQueue(3, 0).next() == []
