"""Builds the site of docs/ as `make docs` does, and opens its pages in a browser."""

import functools
import http.server
import subprocess
import sys
import threading

import pages
import pytest
from chromium import browser, console_errors, missing_software, requested_urls, wait_for
from head_helpers import child_environment
from shared_data import REPOSITORY
from stacks import slow_on_one_stack

pytestmark = pytest.mark.one_stack

# Elements that reach beyond the right edge of the window, and are not inside a part that scrolls.
_OUTSIDE = """
const clips = e => ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX);
const scrolls = e => e && e !== document.body && (clips(e) || scrolls(e.parentElement));
return [...document.querySelectorAll(".md-content *")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e))
    .map(e => e.outerHTML.slice(0, 120));
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Returns the folder of the built site."""
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
    """Returns the address at which a server on this machine serves the site."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@slow_on_one_stack
def test_all_pages_are_built(site):
    expected = {"index.html", "contributing.html", "changelog.html", "finetune.html"}
    for page in pages.PAGES:
        if page.startswith("docs/"):
            expected.add(page.removeprefix("docs/").removesuffix(".md") + ".html")
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert built == expected | {"404.html"}
    # Formulas are MathML, which the browser draws itself.
    mathematics = (site / "mathematics.html").read_text()
    assert mathematics.count("<math") > 30 and "arithmatex" not in mathematics
    # An example that docs/griffe_examples.py missed would become quoted text.
    for path in (site / "api").iterdir():
        assert "<blockquote>" not in path.read_text() and "Example:" not in path.read_text(), path
    # The site has neither sources nor caches.
    assert not list(site.rglob("*.py")) and not list(site.rglob("__pycache__"))


@slow_on_one_stack
@pytest.mark.skipif(missing_software() != "", reason=missing_software())
@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (390, "dark"),
        pytest.param(1280, "dark", marks=pytest.mark.exhaustive),
        pytest.param(390, "light", marks=pytest.mark.exhaustive),
    ],
)
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
            wait_for(
                driver, lambda: driver.execute_script("return document.readyState") == "complete"
            )
            wait_for(
                driver,
                lambda: driver.execute_script(
                    "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
                ),
            )
            actual = driver.execute_script("return document.body.dataset.mdColorScheme")
            assert actual == {"light": "default", "dark": "slate"}[scheme], page
            content = driver.execute_script("return document.documentElement.scrollWidth")
            assert content <= width, f"{page} is {content} pixels wide"
            assert driver.execute_script(_OUTSIDE) == [], page
        assert console_errors(driver) == []
        urls = requested_urls(driver)
    assert urls and all(url.startswith(f"{address}/") for url in urls), urls


@slow_on_one_stack
@pytest.mark.skipif(missing_software() != "", reason=missing_software())
def test_search_finds_a_page(address):
    with browser((1280, 900)) as driver:
        driver.get(f"{address}/index.html")
        fields = wait_for(driver, lambda: driver.find_elements("css selector", ".md-search__input"))
        field = fields[0]
        driver.execute_script("arguments[0].focus()", field)
        field.send_keys("insertion")
        results = wait_for(
            driver, lambda: driver.find_elements("css selector", ".md-search-result__link")
        )
        assert any("attention.html" in link.get_attribute("href") for link in results)
        assert console_errors(driver) == []
