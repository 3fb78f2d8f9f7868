from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hm3rl.errors import InputError
from hm3rl.files import RunFolder, write_csv
from hm3rl.reporting.report import render, write_report
from hm3rl.reporting.report_data import finished_folders, recipe_text, report_data
from hm3rl.run.finished import FinishedRun
from hm3rl.run.job import SearchResult

CHROMIUM = shutil.which("chromium")
CHROMEDRIVER = shutil.which("chromedriver")


def test_the_data_are_those_of_the_run_folder(finished: FinishedRun):
    run = report_data([finished.folder])["runs"][0]
    rows = finished.front_rows()
    assert [model["name"] for model in run["front"]] == [row["name"] for row in rows]
    assert run["front"][0]["test"] == [float(rows[0][f"test_{t}"]) for t in finished.objectives]
    used = [one["evaluations"] for one in run["evaluations"] if one["phase"] != "sources"]
    assert used == list(range(1, 21))
    assert run["hypervolume"]["test"] == finished.summary["hypervolume"]["test"]


def test_a_report_that_cannot_be_written_names_the_way_out(finished: FinishedRun, tmp_path: Path):
    pytest.importorskip("plotly", reason="the extra `report` is not installed")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written to") as caught:
        write_report([finished.folder.path], tmp_path / "file" / "report.html")
    assert "--to FILE.html" in caught.value.remedy


def test_a_recipe_is_told_by_what_was_set():
    recipe = {"operator": "ties", "weights": {"math": 0.25, "code": 0.75}, "density": 0.4}
    assert recipe_text(recipe | {"normalise": True}).endswith(", normalise")
    text = recipe_text(recipe | {"scale": 1.5, "seed": 0, "normalise": False})
    assert text == "ties, math 0.25, code 0.75, density 0.40, scale 1.50"


def test_weights_that_vary_over_the_depth_are_shown_by_their_anchors():
    weights = {"math": [0.1, 0.25], "code": {"attention": [0.5], "mlp": [1.0, 0.0]}}
    text = recipe_text({"operator": "dare_ties", "weights": weights, "seed": 3})
    assert text == "dare_ties, math 0.10/0.25, code attention 0.50 mlp 1.00/0.00, seed 3"


def test_a_folder_of_runs_gives_its_finished_runs(tmp_path: Path, finished: FinishedRun):
    for name in ("b", "a"):
        shutil.copytree(finished.folder.path, tmp_path / "sweep" / name)
    (tmp_path / "sweep" / "killed").mkdir()
    found = finished_folders([tmp_path / "sweep", tmp_path / "sweep" / "a"])
    assert [folder.path.name for folder in found] == ["a", "b"]


def test_a_run_that_has_not_finished_is_refused(tmp_path: Path, finished: FinishedRun):
    killed = tmp_path / "killed"
    shutil.copytree(finished.folder.path, killed)
    RunFolder(killed).summary.unlink()
    with pytest.raises(InputError, match=r"resume=.*killed"):
        write_report([killed])


def test_runs_with_other_tasks_are_not_compared(tmp_path: Path, finished: FinishedRun):
    other = RunFolder(tmp_path / "other")
    shutil.copytree(finished.folder.path, other.path)
    summary = json.loads(other.summary.read_text())
    summary["objectives"] = summary["objectives"][::-1]
    other.summary.write_text(json.dumps(summary))
    with pytest.raises(InputError, match="report runs with the same tasks"):
        report_data([finished.folder, other])


def test_the_page_asks_for_nothing_from_outside(finished: FinishedRun):
    page = render(report_data([finished.folder]))
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    carried = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert carried and json.loads(carried[1])["runs"][0]["count"] == 20


def test_a_path_cannot_end_the_script_that_carries_it():
    page = render({"runs": [{"path": "</script><b>"}]})
    carried = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert carried and json.loads(carried[1])["runs"][0]["path"] == "</script><b>"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Headless Chromium; Debian: apt-get install chromium chromium-driver."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


def test_moving_a_slider_shows_the_best_model_for_that_preference(
    browser, tmp_path: Path, searched: Callable[..., SearchResult]
):
    from selenium.webdriver.common.by import By

    # The value and the event a mouse leaves behind: a key sent to a busy browser may get lost.
    move = "[s, v] = arguments; s.value = v; s.dispatchEvent(new Event('input', {bubbles: true}))"
    where = "return [...document.querySelectorAll('#sliders input')].map(s => Number(s.value))"
    folder = searched("budget=20").folder
    page = write_report([folder.path], tmp_path / "report.html")
    browser.get(page.as_uri())
    run = report_data([folder])["runs"][0]
    # A slider stands where its number says, before it is touched and when another one moves.
    assert browser.execute_script(where) == pytest.approx([0.33] * 3)
    browser.execute_script(move, browser.find_elements(By.CSS_SELECTOR, "#sliders input")[0], 0.5)
    assert browser.execute_script(where) == pytest.approx([0.5, 0.25, 0.25])
    assert browser.find_element(By.ID, "verdict").text == run["verdict"]
    scores = np.array([model["search"] for model in run["front"]]) / run["z_star"]["search"]
    for number, task in enumerate(run["objectives"]):
        sliders = browser.find_elements(By.CSS_SELECTOR, "#sliders input")
        for other, slider in enumerate(sliders):
            browser.execute_script(move, slider, 1 if other == number else 0)
        best = run["front"][int(np.argmax(scores[:, number]))]
        assert browser.find_element(By.ID, "chosen-name").text == f"Model {best['name']}"
        assert f"{best['test'][number]:.3f}" in browser.find_element(By.ID, "chosen").text
        commands = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "#chosen pre")]
        assert f" {best['name']} --to" in commands[0]
        assert f"--prefer {task}=1 --export" in commands[1]
        assert (
            browser.find_element(By.CSS_SELECTOR, "#strips tr.chosen td").text[:3] == best["name"]
        )
    # The chosen model's answers stand beside the experts', for the task that is asked for.
    kept = run["answers"]
    browser.find_elements(By.CSS_SELECTOR, "#answers-select option")[1].click()
    shown = browser.find_element(By.CSS_SELECTOR, "#answer-list article").text.split("\n")
    assert kept["items"]["math"][0]["prompt"].strip().split("\n")[0] in shown
    own = browser.find_element(By.CSS_SELECTOR, "#answer-list dt.own").text
    assert own.startswith(browser.find_element(By.ID, "chosen-name").text.split()[1])
    assert [line for line in shown if line.startswith("code ")]
    # And how the experts go together, a row a pair.
    drawn = browser.execute_script("return document.getElementById('heat').data[0].y")
    assert drawn == ["translation · math", "translation · code", "math · code"]
    assert browser.get_log("browser") == []


def test_the_page_chooses_by_balance_first_and_by_the_runs_own_on_request(
    browser, tmp_path: Path, finished: FinishedRun
):
    from selenium.webdriver.common.by import By

    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished.folder.path, folder.path)
    # Two experts and a model between them that no weighted sum of equal weights prefers.
    rows, z_star = folder.read_front()[:3], finished.archive.z_star
    paths = ("math | math[0:8]", "code | code[0:8]", "math | math[0:4] + code[4:8]")
    for row, path, shares in zip(
        rows, paths, ([0.1, 1, 0.3], [0.1, 0.2, 1], [0.4, 0.45, 0.42]), strict=True
    ):
        row["path"] = path
        for task, best, share in zip(finished.objectives, z_star, shares, strict=True):
            row[f"search_{task}"] = str(best * share)
    write_csv(folder.front, list(rows[0]), [list(row.values()) for row in rows])
    browser.get(write_report([folder.path], tmp_path / "report.html").as_uri())
    assert browser.find_element(By.ID, "chosen-name").text == f"Model {rows[2]['name']}"
    assert "No model keeps 80%" in browser.find_element(By.ID, "verdict").text
    browser.find_element(By.ID, "own-option").click()
    chosen = browser.find_element(By.ID, "chosen").text
    assert f"Model {rows[0]['name']}" in chosen and "This is the expert math itself" in chosen
    assert "--utility run --export" in chosen
    assert browser.get_log("browser") == []


def test_where_the_front_goes_by_posterior_means_so_does_the_page(
    browser, tmp_path: Path, searched: Callable[..., SearchResult]
):
    from selenium.webdriver.common.by import By

    blends = ("agent.first_steps=20", "agent.steps=5", "agent.fit_steps=10")
    folder = searched("agent=psl", "budget=30", *blends).folder
    browser.get(write_report([folder.path], tmp_path / "report.html").as_uri())
    run = report_data([folder])["runs"][0]
    means = np.array([m["posterior"] for m in run["front"]]) / run["z_star"]["search"]
    utility = FinishedRun(folder.path).utility.balanced
    best = run["front"][utility.best(means, np.full(len(means), 8), np.full(3, 1 / 3))]
    chosen = browser.find_element(By.ID, "chosen").text
    assert f"Model {best['name']}" in chosen
    assert f"{best['posterior'][0]:.3f} ± {best['posterior_se'][0]:.3f}" in chosen
    option = browser.find_element(By.ID, "posterior-option")
    assert option.is_displayed()
    option.click()
    drawn = browser.execute_script("return document.getElementById('parallel').data.at(-1).y")
    assert drawn == best["posterior"]
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_fits_wide_and_narrow_windows(
    browser, tmp_path: Path, searched: Callable[..., SearchResult], width: int
):
    folders = [searched("budget=20").folder.path, searched("budget=20", "seed=1").folder.path]
    page = write_report(folders, tmp_path / "report.html")
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # Every figure has been drawn: plotly puts its marks into an svg.
    empty = "return [...document.querySelectorAll('.plot')].filter(p => !p.querySelector('svg g'))"
    assert browser.execute_script(empty) == []
