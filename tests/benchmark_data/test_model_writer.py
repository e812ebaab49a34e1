from ultraedit import Editor
from ultraedit.benchmark_data.facts import Fact, Questions
from ultraedit.benchmark_data.model_writer import EXAMPLES, ModelWriter
from ultraedit.forward.generate import Answer


def test_answers_become_questions_or_are_refused(build, tokenizer, monkeypatch):
    writer = ModelWriter(Editor(build("llama"), tokenizer, method="ultraedit"))
    asked = []

    def answers(ids, most):
        texts = [tokenizer.decode(one) for one in ids]
        asked.extend(texts)
        half = len(texts) // 2
        said = ["Who is Ada?", "Is it paris?", "nobody?"], ["Ada is who?", "What is B?", "C?"]
        return [Answer((1,), said[n // half][n % half]) for n in range(len(texts))]

    monkeypatch.setattr(writer.session.workbench, "answers", answers)
    facts = [Fact(name, "P19", "Paris") for name in ("Ada", "B", "C")]
    assert list(writer.write(facts)) == [
        Questions("Who is Ada?", "Ada is who?"), "answer in question", "subject not in question",
    ]  # fmt: skip
    assert len(asked) == 6
    assert asked[0].endswith("Subject: Ada\nRelation: place of birth\nQuestion:")
    assert EXAMPLES[1][0][2] in asked[3]


def test_any_model_gives_an_answer_for_every_fact(build, tokenizer):
    writer = ModelWriter(
        Editor(build("llama", max_position_embeddings=1024), tokenizer, method="ultraedit")
    )
    found = list(writer.write([Fact(f"S{n}", "P19", "Paris") for n in range(3)]))
    assert len(found) == 3
    assert all(isinstance(one, str) for one in found), "a random model names no subject"
