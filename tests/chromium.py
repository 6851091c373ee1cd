"""Drives headless Chromium with Selenium, for the tests of pages.

As a program, it takes the screenshot of the demo's page in docs/client.md from a running demo:

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


def missing_software():
    """Returns a sentence about the missing software, or an empty string if a browser can run."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    if not any(map(shutil.which, _NAMES)):
        return f"none of {', '.join(_NAMES)} is on the PATH"
    return "" if shutil.which("chromedriver") else "chromedriver is not on the PATH"


@contextlib.contextmanager
def browser(size=(1060, 840)):
    """Starts a browser with a temporary profile and yields its Selenium driver."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, _NAMES)))
    for option in (*_OPTIONS, "--window-size={},{}".format(*size)):
        options.add_argument(option)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # The browser may write to its profile while it exits, which makes the cleanup fail.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield driver
        finally:
            driver.quit()


def console_errors(driver):
    """Returns the errors in the browser's console since the last call."""
    return [e["message"] for e in driver.get_log("browser") if e["level"] == "SEVERE"]


def requested_urls(driver):
    """Returns the URLs that pages have requested over the network since the last call."""
    messages = (json.loads(e["message"])["message"] for e in driver.get_log("performance"))
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    # URLs such as chrome: and chrome-untrusted: are resources within the browser.
    return [url for url in urls if not url.startswith(("chrome", "data:", "blob:"))]


def wait_for(driver, condition, seconds=30):
    """Waits until a function without arguments returns something true, and returns that."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(driver, seconds, ignored_exceptions=[StaleElementReferenceException])
    return wait.until(lambda _: condition())


class DemoPage:
    """The page of `python -m noah_tf.serving demo` in a browser.

    Args:
        driver: the Selenium driver that `browser` yields.
        url: the page's address.
    """

    def __init__(self, driver, url):
        self._driver = driver
        driver.get(url)
        wait_for(driver, lambda: self._all("#photo input[type=file]"))

    def _all(self, selector):
        return self._driver.find_elements("css selector", selector)

    def text(self, selector):
        """Returns the text of the first element that matches a CSS selector."""
        return self._all(selector)[0].text

    def upload(self, path):
        """Uploads a file, and waits for the page's answer."""
        path = pathlib.Path(path).resolve()
        inputs = wait_for(self._driver, lambda: self._all("#photo input[type=file]"))
        inputs[0].send_keys(str(path))
        wait_for(self._driver, lambda: self.text("#status").startswith(path.name))
        self.pictures()

    def pictures(self):
        """Waits until the images are loaded, and returns their addresses and captions."""
        wait_for(
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
        # Looking for a missing element waits two seconds, in which the animations end.
        driver.implicitly_wait(2)
        driver.find_elements("id", "missing")
        driver.save_screenshot(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
