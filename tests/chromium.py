"""Headless Chromium, driven by Selenium, for the tests of pages.

As a program it takes the picture of the demo's page in docs/serving.md, of a page that is open:

    python tests/chromium.py http://127.0.0.1:7860/ scene.png docs/demo.png
"""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import tempfile

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def what_is_missing():
    """Why no browser can be driven here, or an empty string."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    if not any(map(shutil.which, _NAMES)):
        return f"none of {', '.join(_NAMES)} is on the PATH"
    return "" if shutil.which("chromedriver") else "chromedriver is not on the PATH"


@contextlib.contextmanager
def browser(size=(1060, 840)):
    """Starts a browser with a profile of its own and gives its Selenium driver."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, _NAMES)))
    for option in (*_OPTIONS, "--window-size={},{}".format(*size)):
        options.add_argument(option)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # It may still write to its profile while it ends.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield driver
        finally:
            driver.quit()


def console_errors(driver):
    """What the browser's console has shown as errors since the last call."""
    return [e["message"] for e in driver.get_log("browser") if e["level"] == "SEVERE"]


def requested(driver):
    """The addresses that pages have asked for over the network since the last call."""
    messages = (json.loads(e["message"])["message"] for e in driver.get_log("performance"))
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    # Not what the browser loads from within itself, as chrome: and chrome-untrusted: addresses.
    return [url for url in urls if not url.startswith(("chrome", "data:", "blob:"))]


def until(driver, condition, seconds=30):
    """Waits for a function without arguments to give something true, and returns that."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(driver, seconds, ignored_exceptions=[StaleElementReferenceException])
    return wait.until(lambda _: condition())


class DemoPage:
    """The page of `python -m noah_tf.serving demo` in a browser.

    Args:
        driver: of `browser`.
        url: the page's address.
    """

    def __init__(self, driver, url):
        self._driver = driver
        driver.get(url)
        until(driver, lambda: self._all("#photo input[type=file]"))

    def _all(self, selector):
        return self._driver.find_elements("css selector", selector)

    def text(self, selector):
        """The text of the first element that a CSS selector finds."""
        return self._all(selector)[0].text

    def upload(self, path):
        """Gives the page a file, and waits until it has said something about it."""
        path = pathlib.Path(path).resolve()
        until(self._driver, lambda: self._all("#photo input[type=file]"))[0].send_keys(str(path))
        until(self._driver, lambda: self.text("#status").startswith(path.name))
        self.pictures()

    def pictures(self):
        """Waits until the pictures are loaded; gives their addresses and captions."""
        until(
            self._driver,
            lambda: self._driver.execute_script(
                "return [...document.querySelectorAll('#pictures img')]"
                ".every(i => i.complete && i.naturalWidth > 0)"
            ),
        )
        addresses = [image.get_attribute("src") for image in self._all("#pictures img")]
        return addresses, [caption.text for caption in self._all("#pictures .caption-label")]


def main(url, photo, output):
    with browser() as driver:
        page = DemoPage(driver, url)
        page.upload(photo)
        # Bars and pictures move into their places.
        driver.implicitly_wait(2)
        driver.find_elements("id", "nothing")
        driver.save_screenshot(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
