"""The page of a report in a browser: what people see, click and print."""

import base64
import io
import json
import math
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from lamp.studies import Store
from tests.lamp import canned_stores

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
_NEEDED = ("chromium", "chromedriver")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return canned_stores.write(tmp_path_factory.mktemp("stores") / "canned.sqlite")


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        reason = f"no {' and no '.join(missing)} here: apt-get install chromium chromium-driver"
        if os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


class Browser:
    """A browser with the page in it."""

    def __init__(self, driver, address):
        self.driver = driver
        self.address = address
        self._is_new = False

    def look(self, width=1280, *, dark=False, media=""):
        """The page for a test that changes nothing: it is loaded again only if another may have."""
        if not self._is_new:
            self.open(width, dark=dark)
        self._show(width, dark, media)
        self._is_new = True
        return self

    def take(self, width=1280):
        """The page for a test that changes it, loaded again as by `look`."""
        self.look(width)
        self._is_new = False
        return self

    @contextmanager
    def borrow(self, width=1280):
        """The page for a test that undoes what it does.  If it fails, the page is loaded again."""
        yield self.take(width)
        self._is_new = True

    def open(self, width=1280, *, dark=False, scripts=True):
        """The page in a window of a width, loaded anew."""
        self._is_new = False
        self._show(width, dark)
        self.command("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.driver.get(self.address)
        return self

    def _show(self, width, dark, media=""):
        colours = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.command("Emulation.setEmulatedMedia", media=media, features=colours)

    def command(self, name, **values):
        return self.driver.execute_cdp_cmd(name, values)

    def run(self, script, *values):
        return self.driver.execute_script(script, *values)

    def all(self, selector):
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def screenshot(self):
        """The whole page as it looks, a PNG file."""
        from selenium.common.exceptions import TimeoutException

        how = {"captureBeyondViewport": True, "optimizeForSpeed": True}
        for attempt in range(3):
            try:
                taken = self.command("Page.captureScreenshot", **how)
                break
            except TimeoutException:  # seen where the browser was still changing pages
                if attempt == 2:
                    raise
        return base64.b64decode(taken["data"])


@pytest.fixture(scope="module")
def window(driver, canned_page):
    return Browser(driver, canned_page.as_uri())


@pytest.fixture
def browser(window):
    for kind in ("browser", "performance"):
        window.driver.get_log(kind)
    return window


def read(screenshot):
    """Every third pixel of every third line, from 0 to 1."""
    with Image.open(io.BytesIO(screenshot)) as image:
        assert image.mode in ("RGB", "RGBA")
        return image.size, np.asarray(image)[::3, ::3, :3] / 255


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True), (1280, False)])
def test_page_can_be_looked_at(browser, tmp_path, width, dark):
    screenshot = browser.look(width, dark=dark).screenshot()
    (tmp_path / f"{width}{'-dark' if dark else ''}.png").write_bytes(screenshot)
    size, pixels = read(screenshot)
    assert width - 20 <= size[0] <= width  # there may be a scroll bar
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    assert (ground < 0.2).all() if dark else (ground > 0.9).all()
    ink = np.abs(pixels - ground).max(axis=2) > 0.5
    rows = ink.any(axis=1)
    assert 0.02 < ink.mean() < 0.3
    assert 0.3 < rows.mean() < 0.99


def test_markup_in_labels_is_no_markup(browser):
    browser.look()
    assert browser.run("return document.scripts.length") == 1
    assert browser.run("return document.images.length") == 0
    titles = browser.run(
        "return [...document.querySelectorAll('.mark title')].map(e => e.textContent)"
    )
    assert any(canned_stores.MARKUP in title for title in titles)
    assert browser.driver.title == "scores, words · lamp"


def test_rows_are_filtered_by_words(browser):
    from selenium.webdriver.common.keys import Keys

    def shown():
        return browser.run(
            "return [...document.querySelector('table.runs').tBodies[0].rows]"
            ".filter(row => row.offsetParent).map(row => [row.cells[3], row.cells[4]]"
            ".map(cell => cell.textContent))"
        )

    with browser.borrow():
        everything = shown()
        field = browser.all("input.filter")[1]
        field.send_keys("scores-ps3 normwise:1.5")
        found = ["scores-ps3", "softmax:normwise:1.5"]
        assert shown() == [each for each in everything if each == found]
        assert 2 < len(shown()) < len(everything)
        field.send_keys(Keys.CONTROL + "a", Keys.DELETE)
        assert shown() == everything


# --- charts ---------------------------------------------------------------------------------------


def test_every_chart_has_axes_and_points(browser):
    browser.look()
    charts = browser.run(
        "return [...document.querySelectorAll('svg.chart')].map(chart => ({"
        "kind: chart.classList[1],"
        "axes: chart.querySelectorAll('.axis path').length,"
        "grid: chart.querySelectorAll('.tick path').length,"
        "ticks: chart.querySelectorAll('.tick text').length,"
        "marks: [...chart.querySelectorAll('.mark path')].filter("
        "mark => mark.getBoundingClientRect().width > 4).length,"
        "cells: chart.querySelectorAll('.cells path').length,"
        "size: [chart.getBoundingClientRect().width, chart.getBoundingClientRect().height]}))"
    )
    kinds = {chart["kind"] for chart in charts}
    assert kinds == {"kl-rate", "kl-share", "flips-rate", "ladder-mu", "layers", "speed"}
    for chart in charts:
        assert min(chart["size"]) > 150
        assert chart["ticks"] >= 4
        if chart["kind"] == "layers":
            assert chart["cells"] > 20
        else:
            assert chart["axes"] == 1
            assert chart["grid"] >= 3
            assert chart["marks"] >= 10


def test_machines_and_rules_can_be_picked(browser):
    def bright():
        return browser.run(
            "return [...arguments[0].querySelectorAll('g.mark')]"
            ".filter(mark => getComputedStyle(mark).opacity === '1')"
            ".map(mark => mark.classList.value)",
            legend,
        )

    with browser.borrow():
        legend = browser.all(".charts")[0]
        picks = browser.run(
            "return [...arguments[0].querySelectorAll('[data-pick]')].map(e => e.dataset.pick)",
            legend,
        )
        buttons = browser.run(
            "return [...arguments[0].querySelectorAll('[data-pick] button')]", legend
        )
        assert len(buttons) == len(picks)
        everything = bright()
        buttons[picks.index("m1")].click()
        first = bright()
        assert first == [style for style in everything if "m1" in style.split()]
        assert 0 < len(first) < len(everything)
        buttons[picks.index("r2")].click()
        assert bright() == [style for style in first if "r2" in style.split()]
        buttons[picks.index("m1")].click()
        assert bright() == [style for style in everything if "r2" in style.split()]
        buttons[picks.index("r2")].click()
        assert bright() == everything


@pytest.mark.parametrize("width", [1280, 700, 360])
def test_no_text_of_a_chart_covers_another_or_leaves_the_page(browser, width):
    browser.look(width)
    overlaps, outside = browser.run(
        "const overlaps = [], outside = [];"
        "for (const chart of document.querySelectorAll('svg.chart')) {"
        "  const texts = [...chart.querySelectorAll('text')]"
        "    .map(text => [text, text.getBoundingClientRect()]);"
        "  texts.forEach(([a, p], i) => {"
        "    if (p.left < -0.5 || p.right > innerWidth + 0.5) outside.push(a.textContent);"
        "    texts.slice(i + 1).forEach(([b, q]) => {"
        "      const x = Math.min(p.right, q.right) - Math.max(p.left, q.left);"
        # Boxes of lines of text have room above and below the letters.
        "      const y = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);"
        "      if (x > 0 && y > 0.3 * Math.min(p.height, q.height))"
        "        overlaps.push([chart.classList[1], a.textContent, b.textContent]);"
        "    });"
        "  });"
        "}"
        "return [overlaps, outside];"
    )
    assert overlaps == []
    assert outside == []


@pytest.mark.parametrize("width", [360, 800])
def test_page_does_not_scroll_sideways(browser, width):
    with browser.borrow(width):
        closed = browser.run(
            "const closed = [...document.querySelectorAll('details:not([open])')];"
            "closed.forEach((each) => (each.open = true)); return closed"
        )
        assert closed
        assert browser.run("return document.documentElement.scrollWidth") <= width
        wide = browser.run(
            "return [...document.body.querySelectorAll('*')].filter(each => !each.closest('.box')"
            " && each.getBoundingClientRect().right > innerWidth + 0.5)"
            ".map(each => each.outerHTML)"
        )
        assert wide == []
        boxes = browser.run(
            "return [...document.querySelectorAll('.box:has(.runs)')]"
            ".map(box => [box.scrollWidth, box.clientWidth, box.tabIndex])"
        )
        assert len(boxes) == 2
        assert all(index == 0 for _, _, index in boxes)
        assert all((inside > outside) == (width > 640) for inside, outside, _ in boxes)
        browser.run("arguments[0].forEach((each) => (each.open = false))", closed)


# --- themes, keys, paper --------------------------------------------------------------------------


def test_paper_is_white_and_has_all_rows(browser):
    browser.look(794, dark=True, media="print")
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    assert not any(each.is_displayed() for each in browser.all("#theme, nav, .filter"))
    hidden = browser.run(
        "return [...document.querySelectorAll('.box')].filter(box =>"
        " getComputedStyle(box).overflow !== 'visible' || box.scrollHeight > box.clientHeight + 1)"
        ".length"
    )
    assert hidden == 0
    printed = base64.b64decode(browser.command("Page.printToPDF", printBackground=False)["data"])
    assert printed.startswith(b"%PDF")


def test_button_switches_between_light_and_dark(browser):
    def ground():
        shown = browser.run("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, shown[4:-1].split(",")))

    for dark in (False, True):
        browser.open(dark=True) if dark else browser.take()
        (button,) = browser.all("#theme")
        assert (ground() < 150) == dark
        assert button.text == ("Light" if dark else "Dark")
        button.click()
        assert (ground() < 150) != dark
        button.click()
        assert (ground() < 150) == dark


def test_everything_can_be_reached_by_keys(browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.take()
    browser.run(
        "window.reached = []; document.addEventListener('focusin', ({target: e}) =>"
        " window.reached.push(e.id || e.className || `${e.parentNode.tagName} ${e.tagName}`))"
    )
    ActionChains(browser.driver).send_keys(Keys.TAB * 60).perform()
    reached = browser.run("return window.reached")
    assert len(reached) == 60
    wanted = {"theme", "LI A", "DETAILS SUMMARY", "filter", "TH BUTTON", "box", "LI BUTTON"}
    assert wanted <= set(reached)
    assert reached.count("TH BUTTON") >= 12
    outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


# --- tables ---------------------------------------------------------------------------------------


def column(browser, index):
    return browser.run(
        "return [...document.querySelector('table.runs').tBodies[0].rows]"
        ".map(row => row.cells[arguments[0]].dataset.v ?? row.cells[arguments[0]].textContent)",
        index,
    )


def numbers(browser, index):
    return [*map(float, column(browser, index))]


def test_numbers_are_sorted_by_a_click(browser, store):
    from selenium.webdriver.common.by import By

    with Store.open(store) as opened:
        done = [r for r in opened.runs("scores") if r.state == "done"]
    columns = {
        ("KL", 5): [record.metrics.kl for record in done],
        ("seconds", 11): [record.seconds for record in done],
        ("rate", 9): [record.metrics.recomputation_rate for record in done],
    }
    heads = browser.take().all("table.runs th")
    for (heading, index), values in columns.items():
        assert heads[index].text == heading
        assert numbers(browser, index) == pytest.approx(values, nan_ok=True, abs=0, rel=0)
    for (_, index), values in columns.items():
        usual = [value for value in values if not math.isnan(value)]
        unusual = [math.nan] * (len(values) - len(usual))
        for way, expected in (("ascending", False), ("descending", True), ("ascending", False)):
            heads[index].find_element(By.TAG_NAME, "button").click()
            found = numbers(browser, index)
            assert heads[index].get_attribute("aria-sort") == way
            assert found == pytest.approx(
                sorted(usual, reverse=expected) + unusual, nan_ok=True, abs=0, rel=0
            )
        assert len(browser.all("th[aria-sort]")) == 1
        whose = {record.position: value for record, value in zip(done, values, strict=True)}
        expected = [whose[int(position)] for position in column(browser, 0)]
        assert found == pytest.approx(expected, nan_ok=True, abs=0, rel=0)


def test_words_are_sorted_and_every_column_can_be(browser):
    browser.take()
    heads = browser.all("table.runs th")[:12]
    for index, head in enumerate(heads):
        browser.run("arguments[0].querySelector('button').click()", head)
        assert head.get_attribute("aria-sort") == "ascending"
        found = column(browser, index)
        assert len(found) > 100
        if index in (1, 2, 3):
            assert len(set(found)) == sum(
                a != b for a, b in zip(found, [None, *found], strict=False)
            )
    browser.run("arguments[0].querySelector('button').click()", heads[0])
    positions = [*map(float, column(browser, 0))]
    assert positions == sorted(positions)


# --- scripts --------------------------------------------------------------------------------------


def test_without_scripts_everything_is_there(browser):
    driver = browser.open(scripts=False).driver
    tree = browser.command("DOM.getDocument", depth=0)["root"]["nodeId"]

    def count(selector):
        return len(
            browser.command("DOM.querySelectorAll", nodeId=tree, selector=selector)["nodeIds"]
        )

    assert count("table.runs tbody tr") == 127 + 52
    assert count("svg.chart") == 34
    assert count("th button") == count("input") == count(".legend button") == 0
    assert count("#theme[hidden]") == 1
    browser.command("Emulation.setScriptExecutionDisabled", value=False)
    assert driver.get_log("browser") == []


def test_page_is_quiet_and_asks_for_nothing(browser):
    browser.open()
    browser.run("document.querySelectorAll('summary, th button').forEach((each) => each.click())")
    assert browser.driver.get_log("browser") == []
    events = [
        json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")
    ]
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked - {"data:,"} == {browser.address}
