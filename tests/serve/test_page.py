"""The page at / in a real browser: mouse, keyboard, paste, drop, dark mode, a phone, and the content policy."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")


@pytest.fixture(scope="module")
def address(packed_file: Path, served) -> Iterator[str]:
    with served(packed_file, "--threads", 1) as (address, _):
        yield address


@pytest.fixture
def page(browser: sync_api.Browser, address: str) -> Iterator[sync_api.Page]:
    """The page; at the end it has asked no other host, and neither script nor policy complained."""
    with browser.new_context(viewport={"width": 1100, "height": 800}) as context:
        page = context.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: complaints.append(request.url) if not _ours(request.url, address) else None)
        page.goto(address)
        page.get_by_text("Ready.").wait_for()
        yield page
        assert complaints == []


def _ours(url: str, address: str) -> bool:
    return url.startswith((f"{address}/", f"blob:{address}/"))


def _choose(page: sync_api.Page, data: bytes, name: str = "x.png") -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": data})


def _wait(page: sync_api.Page) -> None:
    page.locator("#status", has_text="%").wait_for()


def test_an_image_gives_bars_a_map_and_facts(page, png, tmp_path) -> None:
    _choose(page, png(48, 32))
    _wait(page)
    shares = [float(text.split()[0]) for text in page.locator("#bars .share").all_inner_texts()]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 100.1
    widths = [box["width"] for box in (bar.bounding_box() for bar in page.locator("#bars .bar").all()) if box]
    assert widths == sorted(widths, reverse=True)
    assert "in the network" in page.locator("#latency").inner_text()
    facts = page.locator("#facts").inner_text()
    assert "16 × 16 pixels, colour" in facts and "% of one bit" in facts and "times smaller than float32" in facts
    assert page.screenshot(path=tmp_path / "light.png")


def test_the_map_lies_on_the_part_that_the_network_sees(page, png) -> None:
    _choose(page, png(64, 32))
    _wait(page)
    image, heat = page.locator("#image").bounding_box(), page.locator("#heat").bounding_box()
    # 64 x 32 becomes 36 x 18, of which the middle 16 x 16 is cut (crop_pct 0.875).
    assert heat["width"] == pytest.approx(image["width"] * 16 / 36, abs=1)
    assert heat["height"] == pytest.approx(image["height"] * 16 / 18, abs=1)
    assert heat["x"] + heat["width"] / 2 == pytest.approx(image["x"] + image["width"] / 2, abs=1)
    page.locator("#opacity").fill("25")
    assert page.locator("#heat").evaluate("element => element.style.opacity") == "0.25"


def test_another_class_has_another_map(page, png) -> None:
    _choose(page, png())
    _wait(page)
    pixels = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.join()"
    first = page.locator("#heat").evaluate(pixels)
    second = page.locator("#bars button").nth(1)
    second.click()
    assert second.get_attribute("aria-pressed") == "true" and page.locator("#heat").evaluate(pixels) != first
    assert page.locator("#shown").inner_text() == second.locator(".name").inner_text()


def test_by_keyboard(page, png) -> None:
    page.keyboard.press("Tab")  # the link to the API
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "drop"
    # Whether the system's own dialog would open, which no test can see.
    page.evaluate("() => { file.onclick = (event) => { event.preventDefault(); window.asked = 1; }; }")
    page.keyboard.press("Enter")
    assert page.evaluate("window.asked") == 1
    _choose(page, png())
    _wait(page)
    page.locator("#drop").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "opacity"
    before = page.locator("#opacity").input_value()
    page.keyboard.press("ArrowLeft")
    assert int(page.locator("#opacity").input_value()) == int(before) - 1
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#bars button").nth(1).get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_paste_and_drop(page, png, kind) -> None:
    page.evaluate(
        """([kind, encoded]) => {
            const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "x.png", { type: "image/png" }));
            const options = { bubbles: true, clipboardData: transfer, dataTransfer: transfer };
            const event = kind === "paste" ? new ClipboardEvent(kind, options) : new DragEvent(kind, options);
            document.querySelector("#drop").dispatchEvent(event);
        }""",
        [kind, base64.b64encode(png()).decode()],
    )
    _wait(page)


def test_what_is_dropped_without_a_file_is_said_to_be_none(page) -> None:
    """A link, say, or an image that is dragged out of another page."""
    page.evaluate("() => { dispatchEvent(new DragEvent('drop', { dataTransfer: new DataTransfer() })); }")
    page.get_by_role("alert").filter(has_text="There is no file in this; drop an image's file.").wait_for()


def test_errors_are_said_and_the_page_goes_on(browser, address, png) -> None:
    page = browser.new_page()
    page.goto(address)
    page.get_by_text("Ready.").wait_for()
    _choose(page, b"no image")
    page.get_by_role("alert").filter(has_text="is not a JPEG, PNG or WEBP image").wait_for()
    _choose(page, bytes(17_000_000))
    page.get_by_role("alert").filter(has_text="longer than 16 MB").wait_for()
    _choose(page, png())
    _wait(page)
    assert page.locator("#error").is_hidden()
    page.route("**/v1/predict?*", lambda route: route.abort())
    _choose(page, png())
    page.get_by_role("alert").filter(has_text="The server cannot be reached.").wait_for()
    page.close()


def test_an_image_that_only_the_server_can_decode_has_bars_and_no_picture(page, png) -> None:
    _choose(page, png(), "shown.png")
    _wait(page)
    page.evaluate("() => { HTMLImageElement.prototype.decode = async () => { throw new Error('no'); }; }")
    before = page.locator("#bars .share").all_inner_texts()
    _choose(page, png(seed=1), "unknown.png")
    page.locator("#status", has_text="%. This browser cannot show the image.").wait_for()
    assert page.locator("#bars .share").all_inner_texts() != before
    for hidden in ("#picture", "#overlay", "#error"):
        assert page.locator(hidden).is_hidden()
    assert page.locator("#invitation").is_visible()


def test_another_model_is_asked_about_the_newest_image(browser, packed_file, png, tmp_path, served) -> None:
    with served(packed_file, shutil.copy(packed_file, tmp_path / "other.bcdn"), "--threads", 1) as (address, _):
        page = browser.new_page()
        page.goto(address)
        page.get_by_text("Ready.").wait_for()
        slow = []
        page.route("**/v1/predict?*model=small", lambda route: slow.append(route))  # never answered
        _choose(page, png(), "first.png")
        page.locator("#model").select_option("other")
        page.get_by_alt_text("first.png").wait_for()
        page.locator("#model").select_option("small")
        _choose(page, png(seed=1), "second.png")
        page.locator("#model").select_option("other")
        page.get_by_alt_text("second.png").wait_for()
        assert len(slow) == 3
        page.close()


def test_dark_and_phone(browser, address, png, tmp_path) -> None:
    phone = {"viewport": {"width": 375, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
    for name, options in (("dark", {"color_scheme": "dark"}), ("phone", phone | {"color_scheme": "light"})):
        with browser.new_context(**options) as context:
            page = context.new_page()
            page.goto(address)
            page.get_by_text("Ready.").wait_for()
            _choose(page, png(60, 40))
            _wait(page)
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (max(map(int, ground[4:-1].split(", "))) < 64) == (name == "dark")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
            small = page.locator("button:visible, input:visible").evaluate_all(
                "elements => elements.filter((e) => e.getBoundingClientRect().height < 32).map((e) => e.id)"
            )
            assert small == []


def test_a_token_is_asked_for(browser, packed_file, png, tmp_path, served) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    with served(packed_file, "--token-file", tmp_path / "token") as (address, _):
        page = browser.new_page()
        page.goto(address)
        page.get_by_label("This server wants a token").fill("0123456789abcde\u20ac")
        page.keyboard.press("Enter")
        page.locator("#token:invalid:focus").wait_for()  # the browser says why, and does not send it
        assert "cannot be reached" not in page.locator("#error").inner_text()
        page.get_by_label("This server wants a token").fill("0123456789abcdef")
        page.keyboard.press("Enter")
        page.get_by_text("Ready.").wait_for()
        _choose(page, png())
        _wait(page)
        page.close()


def test_the_api_page_obeys_the_policy(page, address, tmp_path) -> None:
    page.goto(f"{address}/docs")
    assert page.get_by_role("heading", name="POST /v1/predict").is_visible()
    assert "tabby cat" in "".join(page.locator("pre").all_inner_texts())
    page.screenshot(path=tmp_path / "docs.png", full_page=True)


def test_behind_a_proxy_that_takes_a_prefix_away(page, address, png) -> None:
    prefix = f"{address}/models/cats"
    page.route(
        f"{prefix}/**",
        lambda route: route.fulfill(response=route.fetch(url=f"{address}{route.request.url.removeprefix(prefix)}")),
    )
    page.goto(f"{prefix}/")
    page.get_by_text("Ready.").wait_for()
    _choose(page, png())
    _wait(page)
    page.get_by_role("link", name="API").click()
    assert page.url == f"{prefix}/docs"
    page.wait_for_load_state()  # the address changes before the styles are there
    assert page.evaluate("document.styleSheets[0].cssRules.length > 0")
    page.get_by_role("link", name="openapi.json").click()
    assert page.url == f"{prefix}/openapi.json"
    page.go_back()
    page.get_by_role("link", name="bcdnet").click()
    assert page.url == f"{prefix}/"
    page.get_by_text("Ready.").wait_for()
    page.unroute_all(behavior="wait")  # the icon may be on its way yet
