"""The page of a served model in a real browser: answers, errors, colours, and no execution of markup.

Oracle: `Predictor.predict` on the same text.
"""

import json

import pytest
from support.browser import needs_browser, page_in_browser
from support.served import TOKEN, http_server_for

import cxml
from cxml.serving import ServeOptions

pytestmark = needs_browser

TEXT = "cholera due to vibrio"


def ask(page, text, token=TOKEN):
    page.get_by_label("Token").fill(token)
    page.get_by_label("Text").fill(text)
    page.get_by_role("button", name="Predict labels").click()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_text_gets_its_labels_their_scores_and_the_way_through_the_tree(server, output, colours):
    (expected,) = cxml.Predictor.from_checkpoint(output).predict([TEXT], k=3)
    with page_in_browser(colours) as (page, complaints):
        page.goto(server[0])
        page.get_by_label("Labels").fill("3")
        ask(page, TEXT)
        page.locator("#labels > li").first.wait_for()
        heads = [item.inner_text().split("\n") for item in page.locator("#labels .head").all()]
        assert [[name, score] for name, score in heads] == [[label.name, f"{label.score:.3f}"] for label in expected]
        page.get_by_text("Way through the label tree").first.click()
        assert "the label itself" in page.locator(".path").first.inner_text()
        assert not complaints


def test_its_colours_follow_the_system(server):
    grounds = []
    for colours in ("light", "dark"):
        with page_in_browser(colours) as (page, _):
            page.goto(server[0])
            grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    light, dark = (sum(int(part) for part in ground.strip("rgb()").split(",")) for ground in grounds)
    assert light > 3 * 200
    assert dark < 3 * 60


def test_what_the_server_refuses_is_said_and_the_next_try_works(server):
    with page_in_browser() as (page, _):
        page.goto(server[0])
        ask(page, TEXT, "wrong")
        page.get_by_role("alert").wait_for()
        assert page.get_by_role("alert").inner_text().startswith("401")
        ask(page, TEXT)
        page.locator("#labels > li").first.wait_for()
        assert page.get_by_role("alert").is_hidden()


def test_markup_in_a_text_stays_text(server):
    with page_in_browser() as (page, complaints):
        page.goto(server[0])
        ask(page, "<img src=x onerror=\"document.title = 'run'\"> fever")
        page.locator("#labels > li").first.wait_for()
        assert page.title() != "run"
        assert not complaints


def test_a_title_stands_beside_the_name_where_it_says_more():
    async def answer(asked):
        labels = [("2316", "barge <i>flat</i>"), ("4038", "4038"), ("17", None)]
        found = [{"label": i, "name": name, "score": 0.5, "title": title} for i, (name, title) in enumerate(labels)]
        return json.dumps({"predictions": [found]}).encode()

    with http_server_for(answer, ServeOptions()) as (port, _), page_in_browser() as (page, complaints):
        page.goto(f"http://127.0.0.1:{port}")
        page.get_by_label("Text").fill(TEXT)
        page.get_by_role("button", name="Predict labels").click()
        page.locator("#labels > li").first.wait_for()
        names = [head.locator("> span").first.inner_text() for head in page.locator("#labels .head").all()]
        assert names == ["2316 barge <i>flat</i>", "4038", "17"]
        assert not complaints
