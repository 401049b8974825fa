"""The page with a camera: started, stopped, asked for twice, unplugged."""

from __future__ import annotations

from typing import Any


def test_the_camera_runs_until_it_is_stopped(page: Any) -> None:
    page.click("#camera")
    page.wait_for_selector("#results li")
    assert page.is_visible("#video") and page.text_content("#camera") == "Stop the camera"
    page.click("#camera")
    assert not page.is_visible("#video")
    assert page.locator("#results li").count() == 0 and page.text_content("#time") == ""  # of nothing that shows


def test_a_camera_that_is_asked_for_twice_is_one(page: Any) -> None:
    page.evaluate(
        """() => {
          const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          window.streams = [];
          window.permissions = [];
          navigator.mediaDevices.getUserMedia = async (what) => {
            await new Promise((resolve) => permissions.push(resolve));
            streams.push(await ask(what));
            return streams.at(-1);
          };
        }"""
    )
    page.click("#camera")
    page.click("#camera")
    assert page.evaluate("permissions.map((give) => give()).length") == 2
    page.wait_for_selector("#results li")
    while page.evaluate("streams.length") < 2:
        page.wait_for_timeout(50)
    live = "streams.filter((stream) => stream.getTracks().some((track) => track.readyState === 'live')).length"
    assert page.evaluate(live) == 1
    page.click("#camera")
    assert page.evaluate(live) == 0


def test_a_camera_that_is_unplugged_is_stopped(page: Any) -> None:
    page.click("#camera")
    page.wait_for_selector("#results li")
    page.evaluate("video.srcObject.getTracks()[0].dispatchEvent(new Event('ended'))")
    assert page.text_content("#status") == "The camera has stopped."
    assert not page.is_visible("#video") and page.text_content("#camera") == "Use the camera"
    page.click("#camera")
    page.wait_for_selector("#video:visible")
    assert page.text_content("#status") == ""
