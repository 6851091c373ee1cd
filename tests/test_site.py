"""The site of docs/, as `make docs` builds it, in a browser."""

import functools
import http.server
import subprocess
import sys
import threading

import pages
import pytest
from chromium import browser, console_errors, requested, until, what_is_missing
from head_helpers import child_environment
from shared_data import REPOSITORY
from stacks import slow_on_one_stack

WIDTHS = (1280, 390)
# Elements that reach over the window's right edge and cannot be scrolled to within a part of it.
_OUTSIDE = """
const clips = e => ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX);
const scrolls = e => e && e !== document.body && (clips(e) || scrolls(e.parentElement));
return [...document.querySelectorAll(".md-content *")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e))
    .map(e => e.outerHTML.slice(0, 120));
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    for module in ("mkdocs", "material", "mkdocstrings", "nbconvert", "latex2mathml"):
        pytest.importorskip(module, reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    process = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    """Where a server on this machine has it."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@slow_on_one_stack
def test_every_page_is_there(site):
    wanted = {"index.html", "finetune.html"}
    for page in pages.PAGES:
        if page.startswith("docs/"):
            wanted.add(page.removeprefix("docs/").removesuffix(".md") + ".html")
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert built == wanted | {"404.html"}
    # Formulas are drawn by the browser itself.
    mathematics = (site / "mathematics.html").read_text()
    assert mathematics.count("<math") > 30 and "arithmatex" not in mathematics
    # What docs/griffe_examples.py did not find would be quoted text.
    for path in (site / "api").iterdir():
        assert "<blockquote>" not in path.read_text() and "Example:" not in path.read_text(), path
    # Neither sources nor caches.
    assert not list(site.rglob("*.py")) and not list(site.rglob("__pycache__"))


@slow_on_one_stack
@pytest.mark.skipif(what_is_missing() != "", reason=what_is_missing())
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_pages_in_a_browser(site, address, width, scheme):
    with browser((width, 900)) as driver:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        for path in sorted(site.rglob("*.html")):
            page = path.relative_to(site).as_posix()
            driver.get(f"{address}/{page}")
            until(driver, lambda: driver.execute_script("return document.readyState") == "complete")
            until(
                driver,
                lambda: driver.execute_script(
                    "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
                ),
            )
            shown = driver.execute_script("return document.body.dataset.mdColorScheme")
            assert shown == {"light": "default", "dark": "slate"}[scheme], page
            wide = driver.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"{page} is {wide} pixels wide"
            assert driver.execute_script(_OUTSIDE) == [], page
        assert console_errors(driver) == []
        asked = requested(driver)
    assert asked and all(url.startswith(f"{address}/") for url in asked), asked


@slow_on_one_stack
@pytest.mark.skipif(what_is_missing() != "", reason=what_is_missing())
def test_search_finds_a_page(address):
    with browser((1280, 900)) as driver:
        driver.get(f"{address}/index.html")
        field = until(driver, lambda: driver.find_elements("css selector", ".md-search__input"))[0]
        driver.execute_script("arguments[0].focus()", field)
        field.send_keys("insertion")
        found = until(
            driver, lambda: driver.find_elements("css selector", ".md-search-result__link")
        )
        assert any("attention.html" in link.get_attribute("href") for link in found)
        assert console_errors(driver) == []
