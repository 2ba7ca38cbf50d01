"""Specification of the pages in a real browser: nothing fails, nothing leaves them, everybody can use them."""

import pytest
from browsers import DESKTOP, PHONE, browser, opened
from report_runs import wide_run

from kdnas_ray.report import write_comparison, write_report

pytestmark = pytest.mark.slow
CHARTS = {"pareto", "survival", "curves", "parallel", "importance", "judges", "explain-1_cka"}
SIZES = """charts.map(chart => [chart.id, [...chart.querySelectorAll('svg.main-svg, canvas')].map(
    part => { const box = part.getBoundingClientRect(); return Math.min(box.width, box.height); })])"""
PLACE = """() => {
    const chart = document.getElementById('pareto'), { xaxis, yaxis, _size: size } = chart._fullLayout;
    const trace = chart.data[1], index = trace.text.indexOf('c0006');
    chart.scrollIntoView({ block: 'center', behavior: 'instant' });
    const box = chart.getBoundingClientRect();
    return [box.left + size.l + xaxis.c2p(trace.x[index]), box.top + size.t + yaxis.c2p(trace.y[index])];
}"""
FOCUSED = """(() => { const on = document.activeElement;
    return on.id || on.dataset.candidate || on.getAttribute('list') || on.hash || on.textContent.trim(); })()"""
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of a run and the comparison of two."""
    folder = tmp_path_factory.mktemp("runs")
    for name, candidates in (("first", 40), ("second", 30)):
        wide_run(folder / name, candidates)
    compared = write_comparison([folder / "first", folder / "second"], folder / "both.html")
    return {"report": write_report(folder / "first"), "comparison": compared}


@pytest.fixture(params=["report", "comparison"])
def page(request, pages):
    return pages[request.param]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_when_opened_then_nothing_fails_and_nothing_leaves_it(chromium, page, scheme):
    tab = opened(chromium, page, color_scheme=scheme)
    tab.draw()
    assert tab.complaints == []
    assert tab.requests == []


def test_report_when_opened_then_every_chart_is_drawn(chromium, pages):
    tab = opened(chromium, pages["report"])
    tab.draw()
    drawn = dict(tab.page.evaluate(SIZES))
    assert set(drawn) == CHARTS
    assert all(sizes and max(sizes) > 100 for sizes in drawn.values()), drawn
    assert "is not supported" not in tab.page.inner_text("main")  # what plotly writes where a chart should be


def test_charts_when_scrolled_to_then_are_drawn_without_being_asked(chromium, pages):
    tab = opened(chromium, pages["report"])
    for chart in tab.page.query_selector_all("[data-chart]"):
        chart.scroll_into_view_if_needed()
        tab.page.wait_for_function("chart => chart.dataset.drawn === 'yes'", arg=chart)


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP])
def test_page_when_narrow_or_wide_then_never_scrolls_sideways(chromium, page, viewport):
    tab = opened(chromium, page, viewport=viewport)
    tab.draw()
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def brightness(tab, expression: str) -> float:
    text = tab.page.evaluate(expression)
    return sum(map(float, text[text.index("(") + 1 : text.index(")")].split(",")[:3])) / 3


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_page_when_the_system_is_dark_then_paper_is_dark_and_charts_are_legible(chromium, page, scheme, dark):
    tab = opened(chromium, page, color_scheme=scheme)
    tab.draw()
    assert (brightness(tab, "getComputedStyle(document.body).backgroundColor") < 60) == dark
    assert (brightness(tab, "charts[0].layout.font.color") > 140) == dark
    tab.page.click("#theme")
    assert (brightness(tab, "getComputedStyle(document.body).backgroundColor") < 60) != dark
    assert (brightness(tab, "charts[0].layout.font.color") > 140) != dark


def test_page_when_printed_in_the_dark_then_paper_is_white_and_every_chart_is_there(chromium, pages, tmp_path):
    tab = opened(chromium, pages["report"], color_scheme="dark")
    tab.page.wait_for_function("window.Plotly")
    tab.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.page.wait_for_function("charts.every(chart => chart.dataset.drawn === 'yes')")
    assert brightness(tab, "charts[0].layout.font.color") < 140
    tab.page.emulate_media(media="print")
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.page.is_visible("nav")
    tab.page.emulate_media(media="screen")
    tab.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert brightness(tab, "charts[0].layout.font.color") > 140
    assert len(tab.page.pdf()) > 50_000


def test_report_when_a_mark_is_pointed_at_then_shows_its_architecture_and_recipe(chromium, pages):
    tab = opened(chromium, pages["report"])
    tab.draw()
    place = tab.page.evaluate(PLACE)
    tab.page.mouse.move(*place)
    tab.page.wait_for_function("document.querySelector('#candidate h3').textContent === 'c0006'")
    shown = tab.page.inner_text("#candidate")
    for word in (
        "Recipe",
        "learning rate",
        "alpha",
        "Architecture",
        "stage1",
        "kernel",
        "on validation after 9 epochs",
    ):
        assert word in shown
    assert tab.page.query_selector("#candidate .drawing svg") is not None


def test_report_when_only_the_keyboard_is_used_then_everything_is_reached(chromium, pages):
    tab = opened(chromium, pages["report"])
    tab.draw()
    seen = []
    for _ in range(150):
        tab.page.keyboard.press("Tab")
        seen.append(tab.page.evaluate(FOCUSED))
    for wanted in (
        "#main",
        "#rungs",
        "theme",
        "FLOPs",
        "some",
        "c0000",
        "over time",
        "where they end",
        "Copy",
        "Configuration",
    ):
        assert wanted in seen, seen
    tab.page.focus("[data-plot=pareto] button:nth-child(2)")
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate("document.getElementById('pareto').layout.xaxis.title.text") == "FLOPs for one input"
    assert tab.page.get_attribute("[data-plot=pareto] button:nth-child(2)", "aria-pressed") == "true"
    tab.page.focus("#candidate input")
    tab.page.keyboard.type("c0011")
    assert tab.page.inner_text("#candidate h3") == "c0011"


def test_report_when_a_title_of_the_ranking_is_clicked_then_sorts(chromium, pages):
    tab = opened(chromium, pages["report"])
    tab.page.click("#ranking th:nth-child(6) button")
    sizes = [
        int(cell.inner_text().replace(",", "")) for cell in tab.page.query_selector_all("#ranking td:nth-child(6)")
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_explanation_when_it_is_a_page_then_is_shown_and_none_of_its_scripts_run(chromium, tmp_path):
    wide_run(tmp_path / "run", 10)
    page = "<p>A page of its own</p><script>parent.hacked = 1</script>"
    (tmp_path / "run" / "explain" / "3.html").write_text(page)
    tab = opened(chromium, write_report(tmp_path / "run"))
    tab.draw()
    assert [frame for frame in tab.page.frames if "A page of its own" in frame.content()]
    assert tab.page.evaluate("window.hacked") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_when_checked_by_axe_then_has_no_serious_finding(chromium, page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab = opened(chromium, page, color_scheme=scheme)
    tab.draw()
    found = [finding for finding in axe.Axe().run(tab.page).response["violations"] if finding["impact"] in SERIOUS]
    assert not found, [(finding["id"], [node["html"][:200] for node in finding["nodes"][:3]]) for finding in found]
