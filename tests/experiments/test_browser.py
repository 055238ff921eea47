"""The gallery in a real browser: nothing in the console, pictures load, maps answer the pointer."""

import shutil

import numpy as np
import pytest

from experiments import embedding
from experiments.__main__ import main
from tests.experiments.conftest import GOOD

MAPS = """
    import numpy as np
    images = np.linspace(0, 1, 9 * 16).reshape(9, 4, 4)
    points = np.stack(np.divmod(np.arange(9), 3), 1)
    report.embedding("map", points, labels=np.arange(9) % 3, images=images, caption="A </map>.")
    report.embedding("scale", points, labels=np.arange(9) / 7, caption="Without pictures.")
"""

# The pixel of the page where a map draws data coordinates (1, 1).
PIXEL = """
const element = document.getElementById("good-map");
const view = [...Bokeh.index.roots].find(root => element.contains(root.el) || root.el === element);
if (!view) return null;
const box = view.canvas_view.el.getBoundingClientRect();
return [box.x + view.frame.x_scale.compute(1), box.y + view.frame.y_scale.compute(1)];
"""
# What tooltips show; Bokeh draws them in shadow trees at the end of the body.
TOOLTIP = """
const tips = [...document.querySelectorAll(".bk-Tooltip")];
return tips.flatMap(tip => [...tip.shadowRoot.querySelectorAll("img")])
           .map(img => [img.src, img.naturalWidth, img.parentElement.textContent.trim()]);
"""


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1000,800"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def wait(browser, script):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 20).until(lambda b: b.execute_script(script))


def complaints(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"]


def test_gallery(lab, browser):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    (lab / "lab/sparse/good.py").write_text(GOOD + MAPS)
    out = lab / "out"
    assert main(["gallery", "--output", str(out), "--jobs", "1"]) == 1  # of the others, which fail
    browser.get((out / "index.html").as_uri())
    images = wait(browser, "return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert images
    assert all(complete and width > 0 for complete, width in images)

    browser.execute_script(
        "document.getElementById('good-map').scrollIntoView({behavior: 'instant'})"
    )
    x, y = wait(browser, PIXEL)
    assert not browser.execute_script(TOOLTIP)
    pointer = ActionBuilder(browser)
    pointer.pointer_action.move_to_location(round(x), round(y))
    pointer.perform()
    ((source, width, text),) = wait(browser, TOOLTIP)
    assert source == embedding._png(np.linspace(0, 1, 9 * 16).reshape(9, 4, 4)[4])
    assert (width, text) == (4, "1")

    button = browser.find_elements("css selector", "table.sortable th button")[0]
    ActionChains(browser).scroll_to_element(button).click(button).click(button).perform()
    assert browser.find_element("css selector", "table.sortable tbody td").text == "2"
    assert complaints(browser) == []


def test_a_map_alone(browser, tmp_path):
    figure = embedding.draw(np.random.default_rng(0).random((30, 2)), list("abc") * 10)
    path = tmp_path / "map.html"
    path.write_text(embedding.page(figure, "A map"))
    browser.get(path.as_uri())
    wait(browser, "return [...Bokeh.index.roots].length")
    assert complaints(browser) == []


def test_maps_refuse_what_they_cannot_draw():
    with pytest.raises(ValueError, match=r"points must be finite and of shape \(n, 2\)"):
        embedding.draw(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="labels must have length 3, got 2"):
        embedding.draw(np.zeros((3, 2)), [1, 2])
    thinned = embedding.draw(np.random.default_rng(0).random((100, 2)), at_most=10)
    assert len(thinned.renderers[0].data_source.data["x"]) == 10
