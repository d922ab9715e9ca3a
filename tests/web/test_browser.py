"""The web app in a browser: a question from the prompt box to the heat map, and all that may happen on the way.

The model is a tiny random one. With NOISER_SCREENSHOTS=FOLDER it is the default model, and the screenshots stay there.
"""

import base64
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import noiser
from noiser.errors import ModelError
from noiser.web.middleware import Access
from tests.browser import browser, needs_chromium
from tests.conftest import byte_tokenizer, tiny
from tests.web_server import Served, serving

__all__ = ["browser"]
pytestmark = needs_chromium
SHOTS = os.environ.get("NOISER_SCREENSHOTS")
PROMPT = "The Eiffel Tower is located in the city of"
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
TOKEN = "a-token-of-this-test"
PATIENCE = 180_000 if SHOTS else 30_000
"""Milliseconds; the default model is not a tiny one."""
DONE = "#app-share:not([hidden])"


def small() -> noiser.LanguageModel:
    """Random, of 2 layers; its tokens are bytes, and it takes chats."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return noiser.load(tiny("llama", vocab_size=259, max_position_embeddings=128), tokenizer)


@pytest.fixture(scope="module")
def site() -> Iterator[Served]:
    lm = noiser.load() if SHOTS else small()
    with serving(lambda: lm) as found:
        yield found


class Visit:
    """A page, and all that it should not have done."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.url = f"{url}/"
        self.seen: list[str] = []
        self.requests: list[str] = []
        self.allowed: tuple[str, ...] = ()
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        if url.startswith("http"):
            self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        self.page = self.open()

    def open(self) -> Any:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.seen.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.seen.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.seen.append(f"dialog: {dialog.message}"))
        return page

    def close(self) -> None:
        foreign = [url for url in self.requests if not url.startswith((self.url, "blob:", "data:"))]
        seen = [text for text in self.seen if not any(part in text for part in self.allowed)]
        self.context.close()
        assert not foreign, foreign
        assert not seen, seen


@pytest.fixture
def visit(browser: Any, site: Served) -> Iterator[Visit]:
    made = Visit(browser, site.url)
    made.page.goto(site.url)
    made.page.wait_for_selector("#app-dot[data-status=ready]", timeout=60_000)
    yield made
    made.close()


def ask(page: Any, prompt: str = PROMPT) -> None:
    """Write a prompt and send it by the keyboard."""
    page.fill("#app-prompt", prompt)
    page.press("#app-prompt", "Control+Enter")


def texts(page: Any) -> list[list[tuple[str, str]]]:
    """Text and class of every token, row by row."""
    read = "rows => rows.map(row => [...row.querySelectorAll('.noiser-token')].map(token => [token.textContent, token.className]))"
    return page.eval_on_selector_all(".noiser-row", read)


def choose(page: Any, *methods: str) -> None:
    """Exactly these methods, by their chips, with their own defaults."""
    page.eval_on_selector("#app-methods", "methods => { methods.open = true; }")
    for box in page.locator("#app-families input").all():
        box.set_checked(box.get_attribute("value") in methods, force=True)
    if "noiser" in methods:  # it comes with the options of the recommended method
        options_of(page, "noiser").get_by_role("button", name="Reset to defaults").click()


def says(page: Any, part: str, pattern: str) -> None:
    """Wait until this part's text has the pattern in it."""
    page.locator(part, has_text=re.compile(pattern)).wait_for(state="attached")


def options_of(page: Any, method: str) -> Any:
    """The options of a chosen method, opened."""
    page.eval_on_selector("#app-methods", "methods => { methods.open = true; }")
    block = page.locator("#app-options > li", has=page.locator("h3", has_text=re.compile(f"^{method}$")))
    block.locator("details").evaluate("details => { details.open = true; }")
    return block


def test_a_prompt_becomes_a_map_of_three_methods(visit: Visit):
    """The prompt box has the focus, and three methods explain what was typed, each token of it.

    Mutant caught: `promptBox.focus();` left out.
    """
    page = visit.page
    assert page.evaluate("document.activeElement.id") == "app-prompt"
    page.keyboard.type(PROMPT)
    assert page.text_content("#app-count") == f"{len(PROMPT)} characters"
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(DONE)
    rows = texts(page)
    assert len(rows) == 3
    assert all(PROMPT in "".join(text for text, _ in row) for row in rows)
    page.hover(".noiser-row .noiser-token >> nth=2")
    assert re.search(r"[+-]\d\.\d", page.text_content(".noiser-details"))


def test_only_what_was_changed_is_sent(visit: Visit):
    """Two methods, one option changed: the request names these methods, that option and nothing else.

    Mutant caught: `fields.filter(() => true)` instead of those that changed.
    """
    page = visit.page
    choose(page, "noiser", "lime")
    options_of(page, "lime").get_by_label("samples").fill("20")
    assert "lime (1 option changed)" in page.text_content("#app-chosen")
    with page.expect_request("**/api/explain") as sent:
        ask(page)
    assert sent.value.post_data_json == {"prompt": PROMPT, "methods": {"lime": {"samples": 20}, "noiser": {}}, "curves": True}
    page.wait_for_selector(DONE)
    assert [row.get_attribute("data-method") for row in page.locator(".noiser-row").all()] == ["lime", "noiser"]
    options_of(page, "lime").get_by_role("button", name="Reset to defaults").click()
    assert "changed" not in page.text_content("#app-chosen")


def test_an_option_out_of_range_is_refused_where_it_is(visit: Visit):
    """The field is brought into sight and has the focus; nothing is asked.

    Mutant caught: `box.open = true` in `reveal` left out.
    """
    page = visit.page
    options_of(page, "noiser").get_by_label("samples, as a number").fill("0")
    page.eval_on_selector("#app-methods", "methods => { methods.open = false; }")
    ask(page)
    page.locator("#app-noiser-samples-number:focus").wait_for()
    assert not [url for url in visit.requests if "explain" in url]


def test_a_click_on_an_output_token_shows_its_map(visit: Visit):
    """Three generated tokens, each with a map of its own."""
    page = visit.page
    choose(page, "occlusion")
    page.get_by_role("radio", name="The model\u2019s answer").check()
    page.fill("#app-generate", "3")
    ask(page)
    page.wait_for_selector(DONE)
    outputs = page.locator(".noiser-output")
    assert outputs.count() == 3
    before = page.eval_on_selector_all(".noiser-token", "all => all.map(token => token.getAttribute('aria-label') + token.className)")
    outputs.nth(2).click()
    after = page.eval_on_selector_all(".noiser-token", "all => all.map(token => token.getAttribute('aria-label') + token.className)")
    assert before != after
    assert outputs.nth(2).get_attribute("aria-pressed") == "true"


def test_a_word_is_asked_with_its_space_and_what_is_hidden_is_not_asked(visit: Visit):
    """Target and foil get their leading space; what was typed before for another kind of question is not sent.

    Mutants caught: `.disabled = false` instead of `field.hidden`; the space not put in front.
    """
    page = visit.page
    choose(page, "occlusion")
    page.get_by_role("radio", name="A text of mine").check()
    page.fill("#app-continuation", "not this")
    page.get_by_role("radio", name="A word of mine").check()
    page.fill("#app-target", "green")
    page.fill("#app-foil", "blue")
    assert "\u201c\u00b7green\u201d rather than \u201c\u00b7blue\u201d" in page.text_content("#app-what-hint")
    with page.expect_request("**/api/explain") as sent:
        ask(page)
    assert sent.value.post_data_json == {
        "prompt": PROMPT, "methods": {"occlusion": {}}, "target": " green", "foil": " blue", "curves": True,
    }  # fmt: skip
    page.wait_for_selector(DONE)
    assert "green" in page.text_content(".noiser-question")
    assert "blue" in page.text_content(".noiser-question")
    page.get_by_role("radio", name="The model\u2019s answer").check()
    page.fill("#app-generate", "2")
    with page.expect_request("**/api/explain") as sent:
        ask(page)
    assert sent.value.post_data_json == {"prompt": PROMPT, "methods": {"occlusion": {}}, "generate": 2, "curves": True}
    page.locator(".noiser-output").nth(1).wait_for()


@pytest.mark.parametrize("how", ["button", "escape"])
def test_a_long_job_is_cancelled_and_the_next_one_asked(visit: Visit, site: Served, how: str):
    """The model stops within seconds, the page says so, and the next question is answered at once.

    Mutant caught: `control.abort();` left out.
    """
    page = visit.page
    choose(page, "noiser")
    options_of(page, "noiser").get_by_label("samples, as a number").fill("4000")
    before = site.lm.token_counter.forward_tokens
    ask(page, f"{PROMPT}, {how}")
    says(page, "#app-words", r"token-forwards")
    assert page.is_visible("#app-progress")
    if how == "button":
        page.click("#app-cancel")
    else:
        page.keyboard.press("Escape")
    assert page.text_content("#app-words") == "Cancelled."
    assert not page.is_visible("#app-cancel")
    choose(page, "occlusion")
    ask(page)
    page.wait_for_selector(DONE, timeout=15_000)
    assert len(texts(page)) == 1
    assert site.lm.token_counter.forward_tokens - before < 1_000_000, "all of it would be some 4 million"


def test_a_link_shows_the_same_again(visit: Visit):
    """Opened in another tab, and reloaded there, a link gives the same map by the same units as soon as Ask is pressed.

    Mutants caught: the viewer's state left out of the link; `targetForm.fill` left out of `fillForm`; `linked.fragment` not handed on.
    """
    page = visit.page
    choose(page, "occlusion", "recency")
    page.get_by_role("radio", name="A word of mine").check()
    page.fill("#app-target", "gr\u00fcn \U0001f33f")
    ask(page)
    page.wait_for_selector(DONE)
    page.get_by_role("radio", name="Word", exact=True).check()
    page.click("#app-link")
    says(page, "#app-shared", "Copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert "#ask=" in link
    assert "unit=word" in link
    assert page.evaluate("location.hash") == "", "a question in the address would be kept in the browser's history"
    other = visit.open()
    other.goto(link)
    for _ in range(2):
        says(other, "#app-words", "Press Ask")
        assert other.evaluate("document.activeElement.id") == "app-ask"
        other.keyboard.press("Enter")
        other.wait_for_selector(DONE)
        assert texts(other) == texts(page)
        assert other.input_value("#app-prompt") == PROMPT
        assert other.input_value("#app-target") == "gr\u00fcn \U0001f33f"
        other.get_by_role("radio", name="Token", exact=True).check()
        other.get_by_role("radio", name="Word", exact=True).check()
        other.reload()


def test_a_foreign_page_starts_no_job_by_opening_a_link(visit: Visit, site: Served):
    """It navigates a tab to the app, and changes the fragment of one that is open: the form is filled in, and nothing is asked.

    Mutant caught: `ask(request, location.hash)` in `openLink`.
    """
    spent = site.lm.token_counter.forward_tokens
    request = base64.urlsafe_b64encode(json.dumps({"prompt": "not mine", "methods": {"noiser": {"samples": 9}}}).encode()).decode()
    page = visit.open()
    page.goto(f"{visit.url}#ask={request.rstrip('=')}")
    says(page, "#app-words", "Press Ask")
    assert page.input_value("#app-prompt") == "not mine"
    visit.page.evaluate(f"location.hash = '#ask={request.rstrip('=')}'")
    says(visit.page, "#app-words", "Press Ask")
    page.wait_for_timeout(500)
    assert not [url for url in visit.requests if "explain" in url] and site.lm.token_counter.forward_tokens == spent
    visit.page.click("#app-ask")
    visit.page.wait_for_selector(DONE)
    assert "1 option changed" in visit.page.text_content("#app-chosen")


def test_a_method_is_compared_with_itself(visit: Visit):
    """Two rows of one method with other options; the link and the history bring both back.

    Mutants caught: `label` is always the name; a further row left out of `fill`.
    """
    page = visit.page
    choose(page, "noiser")
    first = options_of(page, "noiser")
    first.get_by_label("samples, as a number").fill("3")
    first.get_by_role("button", name="Compare with other options").click()
    second = page.locator("#app-options > li").nth(1)
    ask(page)
    page.wait_for_selector(DONE)
    assert len(texts(page)) == 2, "defaults are options as well"
    second.get_by_label("samples, as a number").fill("4")
    second.get_by_label("bound").select_option(label="none")
    ask(page, "another prompt")
    page.locator(".app-again").nth(1).wait_for()
    names = page.eval_on_selector_all(".noiser-row", "rows => rows.map(row => row.getAttribute('aria-label'))")
    assert names == ["noiser:samples=3", "noiser:samples=4+bound=none"]
    page.locator(".app-again").nth(1).click()
    page.locator(".app-again").nth(0).click()
    assert [box.input_value() for box in page.locator("#app-options").get_by_label("samples, as a number").all()] == ["3", "4"]
    assert page.locator("#app-options > li").nth(1).get_by_label("bound").evaluate("box => box.selectedOptions[0].text") == "none"
    second = page.locator("#app-options > li").nth(1)
    second.get_by_role("button", name="Remove this row").click()
    assert page.locator("#app-options > li").count() == 1
    first.get_by_role("button", name="Compare with other options").click()
    page.locator("#app-options").get_by_label("samples, as a number").nth(1).fill("3")
    page.locator("#app-options > li").nth(0).get_by_role("button", name="Reset").click()
    page.locator("#app-options > li").nth(1).get_by_role("button", name="Reset").click()
    ask(page)
    says(page, "#app-error", "same options")


@pytest.mark.parametrize("fragment", ["ask=%%%", "ask=e30", "ask=eyJwcm9tcHQiOiAxfQ", "ask=eyJwcm9tcHQiOiJhIiwidGFyZ2V0IjpbXX0"])
def test_a_damaged_link_is_said_to_be_one(visit: Visit, fragment: str):
    """Nothing is asked."""
    page = visit.open()
    page.goto(f"{visit.url}#{fragment}")
    says(page, "#app-error", r"damaged")
    assert not [url for url in visit.requests if "explain" in url]


def test_what_was_asked_is_shown_again_without_asking(visit: Visit):
    """Two questions; the first again, as it was left and with its form; then forgotten.

    Mutant caught: `fillForm(entry.request);` left out of `reopen`.
    """
    page = visit.page
    choose(page, "occlusion")
    ask(page, "One two three")
    page.wait_for_selector(DONE)
    page.get_by_role("radio", name="Word", exact=True).check()
    ask(page, "Four five six")
    page.locator(".app-again").nth(1).wait_for()
    asked = len([url for url in visit.requests if "explain" in url])
    page.locator(".app-again").nth(1).click()
    assert page.input_value("#app-prompt") == "One two three"
    assert page.locator(".app-again").nth(1).get_attribute("aria-current") == "true"
    assert [text.strip() for text, _ in texts(page)[0]][:3] == ["One", "two", "three"]
    assert page.locator(".noiser-unit input[value=word]").is_checked()
    page.locator("#app-history .app-remove").nth(1).click()
    assert page.locator(".app-again").count() == 1
    assert len([url for url in visit.requests if "explain" in url]) == asked
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_an_example_fills_the_form_and_asks(visit: Visit):
    """The second one is a contrast: both words are in the question."""
    page = visit.page
    choose(page, "occlusion")
    page.locator("#app-examples button").first.click()
    page.wait_for_selector(DONE)
    assert page.input_value("#app-prompt") in page.text_content(".noiser-row")


def test_a_saved_page_opens_offline_with_the_same_map(visit: Visit, tmp_path: Path, browser: Any):
    """One file that needs no server and no network; markup in the prompt stays text.

    Mutant caught: `<` left as it is by `inScript`.
    """
    page = visit.page
    choose(page, "occlusion", "noiser")
    ask(page, "</script ><script >alert(1)</script ><!-- $& &amp; \u2028 \u202egrass is")
    page.wait_for_selector(DONE)
    with page.expect_download() as download:
        page.click("#app-save")
    saved = tmp_path / download.value.suggested_filename
    assert re.fullmatch(r"noiser-[\w-]+\.html", saved.name)
    download.value.save_as(saved)
    offline = Visit(browser, "file:/", offline=True)
    offline.page.goto(saved.as_uri())
    offline.page.wait_for_selector(".noiser-row")
    assert texts(offline.page) == texts(page)
    assert "alert(1)</script >" in offline.page.title()
    offline.close()


def test_an_error_is_said_in_words(visit: Visit):
    """Beside the form; the next question takes it away."""
    page = visit.page
    choose(page, "occlusion")
    visit.allowed = ("the server responded with a status of 422", "the server responded with a status of 413")
    ask(page, "")
    assert page.text_content("#app-error") == "Write a prompt first."
    choose(page)
    ask(page)
    assert page.text_content("#app-error") == "Choose at least one method."
    choose(page, "occlusion")
    ask(page, "x" * 40_000)
    says(page, "#app-error", r"40,000 characters")
    ask(page)
    page.wait_for_selector(DONE)
    assert page.text_content("#app-error") == ""


def test_a_full_queue_and_a_lost_server_are_said_with_what_to_do(visit: Visit):
    """429 with its Retry-After, and a connection that fails."""
    page = visit.page
    visit.allowed = ("429", "ERR_FAILED")
    body = '{"error": {"class": "QueueFull", "message": "16 requests are waiting already: ask again later"}}'
    page.route("**/api/explain", lambda route: route.fulfill(status=429, headers={"Retry-After": "12"}, body=body))
    ask(page)
    says(page, "#app-error", r"waiting already.* in about 12 s")
    page.unroute("**/api/explain")
    page.route("**/api/explain", lambda route: route.abort())
    ask(page)
    says(page, "#app-error", r"does not answer")


def test_a_chat_is_asked_as_messages(visit: Visit):
    """What is typed in one kind of prompt stays while the other is shown."""
    page = visit.page
    choose(page, "occlusion")
    page.fill("#app-prompt", "a text")
    page.get_by_role("radio", name="Chat").check()
    page.get_by_label("Message", exact=True).fill("Is grass green?")
    page.get_by_role("button", name="Add a message").click()
    assert page.get_by_label("Role").nth(1).input_value() == "assistant"
    page.get_by_label("Message", exact=True).nth(1).fill("Yes,")
    page.get_by_role("radio", name="Text", exact=True).check()
    assert page.input_value("#app-prompt") == "a text"
    page.get_by_role("radio", name="Chat").check()
    with page.expect_request("**/api/explain") as sent:
        page.get_by_label("Message", exact=True).nth(1).press("Control+Enter")
    messages = [{"role": "user", "content": "Is grass green?"}, {"role": "assistant", "content": "Yes,"}]
    assert sent.value.post_data_json["messages"] == messages
    page.wait_for_selector(DONE)


def test_a_token_is_kept_for_the_tab_and_leaves_the_address(browser: Any):
    """From the address, or from the form that asks for it.

    Mutant caught: `setAddress(` left out of `takeToken`.
    """
    with serving(small, access=Access(token=TOKEN)) as served:
        visit = Visit(browser, served.url)
        visit.allowed = ("401",)
        page = visit.page
        page.goto(f"{served.url}/#token={TOKEN}")
        page.wait_for_selector("#app-dot[data-status=ready]")
        assert page.evaluate("location.href") == f"{served.url}/"
        page.reload()
        page.wait_for_selector("#app-dot[data-status=ready]")
        visit.close()
        visit = Visit(browser, served.url)
        visit.allowed = ("401",)
        page = visit.page
        page.goto(served.url)
        page.fill("#app-token-text", "wrong")
        page.press("#app-token-text", "Enter")
        page.locator("#app-token-text:focus").wait_for()
        page.fill("#app-token-text", TOKEN)
        page.press("#app-token-text", "Enter")
        page.wait_for_selector("#app-form:not([hidden])")
        choose(page, "occlusion")
        ask(page)
        page.wait_for_selector(DONE)
        assert TOKEN not in page.content()
        visit.close()


def test_a_token_in_a_link_never_replaces_one_that_works(browser: Any):
    """A foreign page opens the app with a token of its own: the tab keeps its token. A token that is refused makes way.

    Mutant caught: `useOfferedToken()` without `if (!server.hasToken())`.
    """
    with serving(small, access=Access(token=TOKEN)) as served:
        visit = Visit(browser, served.url)
        visit.allowed = ("401",)
        page = visit.page
        page.goto(f"{served.url}/#token={TOKEN}")
        page.wait_for_selector("#app-dot[data-status=ready]")
        page.evaluate("location.hash = '#token=a-token-of-another-page'")
        page.wait_for_function("location.hash === ''")
        page.reload()
        page.wait_for_selector("#app-dot[data-status=ready]")
        assert page.evaluate("sessionStorage.getItem('noiser-token')") == TOKEN
        page.evaluate("sessionStorage.setItem('noiser-token', 'an-old-token-of-ours')")
        page.goto(f"{served.url}/?again#token={TOKEN}")
        page.wait_for_selector("#app-dot[data-status=ready]")
        assert page.evaluate("sessionStorage.getItem('noiser-token')") == TOKEN
        visit.close()


def test_a_question_waits_for_the_model(browser: Any):
    """While the model is read the form can be filled in and sent; the answer comes when it is there."""
    there = threading.Event()
    with serving(lambda: small() if there.wait(30) else None, ready=False) as served:
        visit = Visit(browser, served.url)
        visit.allowed = ("503",)
        page = visit.page
        page.goto(served.url)
        page.wait_for_selector("#app-dot[data-status=loading]")
        choose(page, "occlusion")
        ask(page)
        says(page, "#app-words", r"still being")
        there.set()
        page.wait_for_selector(DONE)
        visit.close()


def test_a_model_that_fails_is_said(browser: Any):
    """The server stays, and says why there is no model."""

    def load() -> Any:
        raise ModelError("there is no model 'nothing'")

    with serving(load, ready=False) as served:
        visit = Visit(browser, served.url)
        visit.allowed = ("503",)
        visit.page.goto(served.url)
        visit.page.wait_for_selector("#app-dot[data-status=failed]")
        assert "no model 'nothing'" in visit.page.text_content("#app-model")
        ask(visit.page)
        says(visit.page, "#app-error", r"no model 'nothing'")
        visit.close()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {}),
        ("dark", {"color_scheme": "dark"}),
        ("narrow", {"viewport": {"width": 360, "height": 780}}),
    ],
)
def test_it_can_be_used_by_everybody(browser: Any, site: Served, tmp_path: Path, name: str, options: dict):
    """No violation that axe finds, with all parts of the form open and with a result; no scrolling sideways."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    folder = Path(SHOTS) if SHOTS else tmp_path
    visit = Visit(browser, site.url, **options)
    page = visit.page
    page.goto(site.url)
    page.wait_for_selector("#app-dot[data-status=ready]", timeout=60_000)
    page.screenshot(path=folder / f"{name}-empty.png")
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    found = axe.run(page).response["violations"]
    page.screenshot(path=folder / f"{name}-form.png", full_page=True)
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = false")
    ask(page)
    page.wait_for_selector(DONE)
    page.screenshot(path=folder / f"{name}-result.png", full_page=True)
    found += axe.run(page).response["violations"]
    assert [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    visit.close()
