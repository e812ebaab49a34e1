"""The page of the service, in a real browser against a real site."""

import json
import re
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn

from ultraedit.service.app import build_app
from ultraedit.service.base import Base
from ultraedit.service.service import Service

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
QUESTION, OLD, NEW = "Who makes the product Windows Live Writer?", "Microsoft", "Chrysler"
NEIGHBOUR = "What is the capital of France?"
# What a model may take on a busy machine; nothing waits longer than it has to.
PATIENCE = 300_000

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
    pytest.mark.xdist_group("page"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The demo model, which is asked in chat as it is in plain text."""
    base = Base.load("demo")
    base.tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    service = Service(base, tmp_path_factory.mktemp("data"), anchors=48)
    key = service.keys.create_first()
    config = uvicorn.Config(build_app(service, grace=1), port=0, log_level="error")
    http = uvicorn.Server(config)
    thread = threading.Thread(target=http.run, daemon=True)
    thread.start()
    while not http.started:
        assert thread.is_alive()
        time.sleep(0.02)
    host, port = http.servers[0].sockets[0].getsockname()[:2]
    yield SimpleNamespace(url=f"http://{host}:{port}/", key=key, service=service)
    http.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, site):
    """Opens the page with a set of its own; at the end there was nothing in the console."""
    contexts, trouble = [], []

    def opened(set_name=None, key=site.key, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.trouble = trouble
        page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: request.url.startswith((site.url, "data:", "blob:"))
                or trouble.append(f"asked {request.url}"))  # fmt: skip
        page.goto(site.url)
        if set_name is not None:
            if set_name not in site.service.sets.names():
                site.service.sets.create(set_name)
            page.get_by_label("Key").fill(key)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_label("Set", exact=True).select_option(set_name)
        return page

    expect.set_options(timeout=PATIENCE)
    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def ask(page, question=QUESTION):
    page.get_by_label("Question").first.fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".answers article")).to_have_count(2)
    return page.locator(".answers article p").all_inner_texts()


def correct(page, target=NEW):
    """Opens the correction of the question and waits for the suggestions."""
    ask(page)
    page.get_by_role("button", name="This is wrong").click()
    expect(page.get_by_label("Right answer")).to_be_focused()
    page.keyboard.type(target)
    page.keyboard.press("Tab")
    expect(page.locator("#neighbours li")).not_to_have_count(0)


def apply(page):
    page.get_by_role("button", name="Apply", exact=True).click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.locator("#outcome")).to_be_visible()


def view(page, name):
    page.get_by_role("navigation").get_by_role("link", name=name).click()


def facts(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def upload(page, path):
    view(page, "Upload")
    page.get_by_label("File").set_input_files(path)


def rows(page):
    return [
        row.locator("td").all_inner_texts()[1:] for row in page.locator("#facts tbody tr").all()
    ]


def test_a_key_that_is_wrong_says_so_and_one_that_is_right_stays_in_the_tab(open_page, site):
    page = open_page()
    expect(page.get_by_label("Key")).to_be_focused()
    page.keyboard.type("ue-wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text(re.compile(r"^[A-Z].*key.*\.$"))
    assert [one for one in page.trouble if "401" not in one] == []
    page.trouble.clear()
    page.get_by_label("Key").fill(site.key)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Set", exact=True)).to_be_visible()
    kept = "() => [Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
    assert page.evaluate(kept) == [[site.key], [], ""]
    page.reload()
    expect(page.get_by_label("Set", exact=True)).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Key")).to_be_focused()
    assert site.key not in page.evaluate("() => Object.values(sessionStorage)")


def test_a_set_is_made_and_chosen_and_a_name_that_does_not_fit_is_explained(open_page):
    page = open_page("asked")
    page.get_by_role("button", name="New set").click()
    page.get_by_label("Name").fill("No Name")
    page.get_by_role("button", name="Create").click()
    expect(page.locator("dialog").get_by_role("alert")).to_contain_text("A set's name has")
    assert [one for one in page.trouble if "400" not in one] == []
    page.trouble.clear()
    page.get_by_label("Name").fill("made-here")
    page.get_by_label("Extends").select_option("asked")
    page.keyboard.press("Enter")
    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(page.get_by_label("Set", exact=True)).to_have_value("made-here")
    view(page, "History")
    expect(page.locator("#timeline")).to_contain_text("what asked answers")


def test_a_correction_is_learned_compared_and_taken_back(open_page):
    page = open_page("corrected")
    assert ask(page) == [OLD, OLD]
    correct(page)
    page.get_by_role("button", name="Add a neighbour").click()
    page.keyboard.type(NEIGHBOUR)
    page.get_by_role("button", name="Remove this neighbour").first.click()
    apply(page)
    outcome = page.locator("#outcome")
    expect(outcome).to_contain_text("Learned.")
    expect(outcome).to_be_in_viewport()
    asked = outcome.get_by_role("row").filter(has_text=QUESTION).first
    expect(asked.get_by_role("cell")).to_have_text(["plain", OLD, NEW, "changed, has the answer"])
    assert set(outcome.locator("td[data-label=Form]").all_inner_texts()) == {"plain", "chat"}
    for group in ("Question", "Rewordings", "Neighbours"):
        expect(outcome.locator("tr.group").filter(has_text=group)).to_have_count(1)
    kept = outcome.get_by_role("row").filter(has_text=NEIGHBOUR)
    expect(kept.get_by_role("cell").last).to_have_text("unchanged")
    assert ask(page) == [OLD, NEW]

    view(page, "History")
    entry = page.locator("#timeline > li").first
    expect(entry).to_contain_text("1 edit, 1 learned")
    expect(entry).to_contain_text("admin")
    undo = entry.get_by_role("button", name="Undo")
    undo.click()
    expect(page.get_by_role("dialog")).to_contain_text(f"{QUESTION} → {NEW}")
    page.keyboard.press("Escape")
    expect(undo).to_be_focused()
    undo.click()
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("taken out")
    expect(page.locator("#timeline")).to_contain_text("one edit of entry 1 undone")
    expect(page.locator("#timeline > li").nth(1)).to_contain_text("undone")
    view(page, "Ask")
    assert ask(page) == [OLD, OLD]

    view(page, "History")
    page.locator("#timeline > li").nth(1).get_by_role("button", name="Back to here").click()
    page.get_by_role("button", name="Go back").click()
    expect(page.locator("#said")).to_contain_text("as it was after entry 1")
    view(page, "Ask")
    assert ask(page) == [OLD, NEW]


def test_a_refused_turn_says_why_and_the_correction_is_still_there(open_page):
    page = open_page("refused")
    correct(page)
    # A probe that has to change cannot stay as it is.
    for _ in range(page.locator("#neighbours li").count()):
        page.get_by_role("button", name="Remove this neighbour").first.click()
    page.get_by_role("button", name="Add a neighbour").click()
    page.keyboard.type(QUESTION)
    page.get_by_label("more than one in five neighbours").check()
    apply(page)
    expect(page.locator("#outcome")).to_contain_text("The edit was refused: only 0 of 1 probes")
    page.get_by_role("button", name="Change the correction").click()
    expect(page.get_by_label("Right answer")).to_have_value(NEW)
    page.keyboard.press("Escape")
    expect(page.get_by_label("Right answer")).to_be_hidden()
    expect(page.get_by_role("button", name="This is wrong")).to_be_focused()
    assert ask(page) == [OLD, OLD]


def test_an_edit_that_was_not_learned_is_told_from_one_that_was(open_page):
    page = open_page("not-learned")

    def forget(route):
        answer = route.fetch()
        job = answer.json()
        for result in job["results"] or ():
            result["learned"] = False
        route.fulfill(response=answer, json=job)

    page.route("**/v1/jobs/*", forget)
    correct(page)
    apply(page)
    expect(page.locator("#outcome")).to_contain_text("The model did not learn this.")
    expect(page.get_by_role("button", name="Undo this edit")).to_be_visible()


def test_a_file_is_looked_over_and_then_applied_and_nothing_in_it_is_html(open_page, tmp_path):
    page = open_page("uploaded")
    mark = "<img src=x onerror=alert(1)>"
    lines = [
        json.dumps({"prompt": QUESTION, "target": [NEW, "Chrysler Group"]}),
        "{not json",
        json.dumps({"prompt": mark, "target": "Paris"}),
        json.dumps({"prompt": "no target"}),
        json.dumps({"prompt": QUESTION, "target": "Sega"}),
    ]
    upload(page, facts(tmp_path, "facts.jsonl", "\n".join(lines)))
    expect(page.get_by_role("alert").locator("li")).to_have_text([
        "Line 2: This is not valid JSON.", "Line 4: There is no target.",
        "Line 5: The same prompt as in line 1.",
    ])  # fmt: skip
    assert rows(page) == [[QUESTION, f"{NEW} / Chrysler Group", ""], [mark, "Paris", ""]]
    page.get_by_label("Line 3").uncheck()
    page.get_by_role("button", name="Apply 1 fact to uploaded").click()
    expect(page.locator("#upload-said")).to_contain_text("1 of 1 fact learned.")
    view(page, "Ask")
    assert ask(page) == [OLD, NEW]
    page.route("**/ask", lambda route: route.fulfill(
        json={"data": [{"prompt": "", "before": mark, "after": mark, "same": True}]}
    ))  # fmt: skip
    assert ask(page, mark) == [mark, mark]
    expect(page.locator("img")).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "text", "expected", "faults"),
    [
        ("a.csv", '\ufeffprompt,target,subject\r\n"Who, now?","a ""b""\r\nc",s\r\n\r\nd,e\r\n',
         [["Who, now?", 'a "b"\nc', "s"], ["d", "e", ""]], []),
        ("a.csv", 'target;prompt\n"x\ny";z\na;b;c\n;d', [["z", "x y", ""]],
         ["Line 4: 3 cells, but 2 columns.", "Line 5: There is no target."]),
        ("a.json", '[{"prompt": "a", "target": "b", "more": 1}, 7]', [["a", "b", ""]],
         ["Item 2: There is no prompt."]),
        ("a.txt", "prompt\ttarget\na, b\tc", [["a, b", "c", ""]], []),
    ],
)  # fmt: skip
def test_every_kind_of_file_is_read(open_page, tmp_path, name, text, expected, faults):
    page = open_page("read")
    upload(page, facts(tmp_path, name, text))
    expect(page.locator("#facts tbody tr")).to_have_count(len(expected))
    assert rows(page) == [[cell.replace("\n", " ") for cell in row] for row in expected]
    expect(page.locator("#facts li")).to_have_text(faults)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "a.csv",
            "question,answer\na,b",
            "The first line must name the columns prompt and target.",
        ),
        ("a.csv", 'prompt,target\na,"b', "Line 2: the quotes do not match."),
        ("a.json", '[{"prompt": "a"', "This is not valid JSON."),
    ],
)
def test_a_file_that_cannot_be_read_says_why(open_page, tmp_path, name, text, said):
    page = open_page("read")
    upload(page, facts(tmp_path, name, text))
    expect(page.locator("#upload-said")).to_have_text(said)


def test_health_counts_and_draws_and_the_set_can_be_taken_along(open_page, site, tmp_path):
    page = open_page("healthy")
    for prompt, target in ((QUESTION, NEW), ("What is the capital of Burundi?", "Gitega")):
        upload(page, facts(tmp_path, "a.json", json.dumps([{"prompt": prompt, "target": target}])))
        page.get_by_role("button", name="Apply 1 fact").click()
        expect(page.locator("#upload-said")).to_contain_text("1 of 1 fact learned.")
    view(page, "Health")
    figures = page.locator("#vitals dl")
    expect(figures.locator("div").first).to_have_text(re.compile("Edits *2"))
    expect(figures).to_contain_text("of 2 asked")
    expect(page.locator("#vitals svg circle")).to_have_count(2)
    expect(page.get_by_role("img")).to_have_accessible_name(
        re.compile(r"% after entry 1, .*% after entry 2")
    )
    for form, check in (
        ("edits", lambda path: len(path.read_text().splitlines()) == 2),
        ("lora", lambda path: "adapter_config.json" in str(zipfile.ZipFile(path).namelist())),
    ):
        page.get_by_label("Format").select_option(form)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        assert download.value.suggested_filename.startswith("healthy.")
        assert check(Path(download.value.path()))


def test_a_key_that_only_reads_is_offered_nothing_else(open_page, site):
    site.service.sets.create("read-only")
    secret = site.service.keys.create("rita", "reader", ["read-only"])
    page = open_page()

    def with_role(route):
        answer = route.fetch()
        key = {"name": "rita", "role": "reader"}
        route.fulfill(response=answer, json=answer.json() | {"key": key, "chat": False})

    page.route("**/v1/sets", with_role)
    page.get_by_label("Key").fill(secret)
    page.keyboard.press("Enter")
    ask(page)
    for name in ("This is wrong", "New set"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(
        ["Ask", "History", "Health"]
    )
    expect(page.get_by_label("Set", exact=True).locator("option")).to_have_count(1)
    expect(page.get_by_label("Chat")).to_be_disabled()


def test_it_is_used_with_the_keyboard_alone(open_page):
    page = open_page("keys")
    page.get_by_label("Set", exact=True).focus()
    for _ in range(7):  # new set, sign out, four views, question
        page.keyboard.press("Tab")
        ring = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(ring) == "solid"
    expect(page.get_by_label("Question").first).to_be_focused()
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator(".answers article")).to_have_count(2)
    page.get_by_label("Chat").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".answers article").last).to_contain_text(OLD)
    wrong = page.get_by_role("button", name="This is wrong")
    wrong.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Right answer")).to_be_focused()
    page.keyboard.press("Escape")
    expect(wrong).to_be_focused()


def test_every_field_has_a_name(open_page):
    page = open_page("named")
    ask(page)
    page.get_by_role("button", name="This is wrong").click()
    unnamed = """() => [...document.querySelectorAll("input, select, textarea, button")]
        .filter((node) => !(node.labels?.length || node.ariaLabel || node.textContent.trim()
            || node.closest("dialog"))).map((node) => node.outerHTML)"""
    assert page.evaluate(unnamed) == []


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_cut_off_at_any_width(open_page, width):
    page = open_page("narrow", viewport={"width": width, "height": 800})
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    ask(page)
    first, second = page.locator(".answers article").all()
    beside = first.bounding_box()["y"] == second.bounding_box()["y"]
    assert beside == (width > 700)
    page.get_by_role("button", name="This is wrong").click()
    assert page.evaluate(fits)
    for name in ("Upload", "History", "Health"):
        view(page, name)
        expect(page.get_by_role("heading", name=name).first).to_be_visible()
        assert page.evaluate(fits)


def test_it_follows_the_colours_of_the_system(open_page):
    colours = "() => ['color', 'backgroundColor'].map((p) => getComputedStyle(document.body)[p])"
    light, dark = (
        [
            sum(map(int, re.findall(r"\d+", one)))
            for one in open_page(color_scheme=scheme).evaluate(colours)
        ]
        for scheme in ("light", "dark")
    )
    assert light[0] < light[1]
    assert dark[0] > dark[1]
