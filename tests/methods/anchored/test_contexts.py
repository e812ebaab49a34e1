from ultraedit.methods.anchored.contexts import Agenda


def test_forms_come_in_turn_until_they_are_learned():
    agenda = Agenda(4, 1)
    seen = []
    for learned in (False, True, False, True, False):
        (form,) = agenda.next()
        seen.append(form)
        agenda.told(0, True)
        agenda.told(form, learned)
    assert seen == [1, 2, 3, 1, 3]
    # All that wait come before what was learned, and that, oldest first, before nothing.
    assert agenda.next() == [3]
    agenda.told(3, True)
    assert agenda.next() == [2]


def test_as_many_as_there_are():
    assert Agenda(1, 3).next() == []
    assert Agenda(3, 5).next() == [1, 2]
    assert Agenda(3, 0).next() == []
