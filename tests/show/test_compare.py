"""onehour show with several runs, and the page that it writes."""

import json
import re
import shutil
import subprocess

import pytest
from matplotlib.image import imread

from onehour.cli import main
from onehour.show.compare import differences, draw_runs, results
from onehour.show.page import MOST_POINTS, for_script, page_data, thin


@pytest.fixture
def two(make_run):
    return [make_run("slow", [4, 3, 2, 1]), make_run("fast", [2, 1, 0.5, 0.25], learning_rate=0.1, clip=None)]


def test_what_came_out_and_what_differs(two):
    assert results(two[1]) == {
        "step": "40", "training loss": "0.2500", "best loss": "0.1250", "samples/s": "1,000", "memory": "200 MB",
        "warnings": "0", "steps done again": "0",
    }  # fmt: skip
    assert differences(two) == {"learning_rate": ["0.001", "0.1"], "clip": ["1.0", "None"]}


def test_faults_are_kept_and_counted(make_run):
    run = make_run("one", [4, 3, 2, 1])
    run.note_warning("A worker died; going on from the newest checkpoint.")
    with run.metrics_file.open("a") as file:
        file.write(json.dumps(run.rows()[-1]) + "\n")
    with run.warnings_file.open("a") as file:
        file.write('{"time": 1, "warni')  # as a full disk leaves it
    assert run.warnings() == ["A worker died; going on from the newest checkpoint."]
    assert (results(run)["warnings"], results(run)["steps done again"]) == ("1", "1")


def test_the_command(two, tmp_path, capsys):
    picture, page = tmp_path / "both.png", tmp_path / "both.html"
    main(["show", "slow", "fast", f"--runs={tmp_path / 'runs'}", f"--png={picture}", f"--html={page}"])
    out = capsys.readouterr().out
    assert "● slow   ▲ fast" in out and re.search(r"learning_rate +0\.001 +0\.1\n", out)
    assert out.endswith(f"curve      {picture}\npage       {page}\n")
    assert imread(picture).shape == (540, 960, 4)
    assert not (two[0].folder / "curve.png").exists()


def test_the_terminal_has_a_sign_for_each_run(two):
    text = draw_runs(two, colorless=True)
    assert text.count("●") == text.count("▲") == 3  # two evaluations, and the name


def test_one_run_tells_its_faults(two, tmp_path, capsys):
    main(["show", "slow", f"--runs={tmp_path / 'runs'}"])
    said = capsys.readouterr().out
    assert "\nspeed      1,000 samples/s in the median, 200 MB of memory at its peak\nfaults     none\n" in said
    two[0].note_warning("A worker died; going on from the newest checkpoint.")
    main(["show", "slow", f"--runs={tmp_path / 'runs'}"])
    said = capsys.readouterr().out
    assert "\nfaults     1; 0 steps that had been reported were done again\n           A worker died; going on" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["slow", "other"],
            "Runs of different recipes cannot be compared (slow trains toy, other trains digits); show those of",
        ),
        (["slow", "fats"], "did you mean fast?"),
        (["slow", "empty"], "The run empty has told nothing yet; look again after its first steps."),
        (["slow", "--html", "page.txt"], "--html page.txt would be a HTML file; call it page.html."),
        (
            ["slow", "--png", "no/such.png"],
            "no/such.png cannot be written (No such file or directory); choose another path.",
        ),
    ],
)
def test_mistakes(arguments, said, two, make_run, tmp_path, capsys):
    pytest.importorskip("sklearn")
    make_run("other", [1], recipe="digits")
    make_run("empty", [])
    with pytest.raises(SystemExit, match="2"):
        main(["show", *arguments, f"--runs={tmp_path / 'runs'}"])
    assert said in capsys.readouterr().err


def test_nothing_in_the_data_can_end_the_script():
    assert "</script>" not in for_script({"name": "</script><b>"})
    assert json.loads(for_script({"name": "</script><b>"})) == {"name": "</script><b>"}


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    pairs = [(step, 1 / step) for step in range(1, 10 * MOST_POINTS + 7)]
    thinned = thin(pairs)
    assert len(thinned) <= MOST_POINTS + 1 and thinned[0] == pairs[0] and thinned[-1] == pairs[-1]
    assert thin(pairs[:10]) == pairs[:10]


def test_the_page_asks_nobody_for_anything(two, tmp_path, capsys):
    main(["show", "slow", "fast", f"--runs={tmp_path / 'runs'}", f"--html={tmp_path / 'page.html'}"])
    page = (tmp_path / "page.html").read_text()
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}  # a name, not a place
    data = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    assert data == json.loads(json.dumps(page_data(two)))
    assert data["runs"][1]["curves"]["loss"] == [[10, 2], [20, 1], [30, 0.5], [40, 0.25]]


HOVER = """<script>
const box = byId("chart").getBoundingClientRect();
byId("metric").value = "loss"; byId("logy").checked = true; draw();
byId("chart").dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + 9 }));
const said = [byId("tip").innerText];
byId("chart").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
said.push(byId("tip").innerText);
document.querySelector(".legend input").click();
look(0);
said.push(byId("tip").innerText, String(document.querySelectorAll(".curve").length));
document.body.replaceChildren(JSON.stringify(said));
</script>"""


def test_in_a_browser(two, tmp_path, capsys):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no chromium here to look at the page with")
    page = tmp_path / "page.html"
    main(["show", "slow", "fast", f"--runs={tmp_path / 'runs'}", f"--html={page}"])
    page.write_text(page.read_text() + HOVER)
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=390,800", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    said = json.loads(re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL).group(1))
    assert [" ".join(text.split()) for text in said] == [
        "step 20 slow 3 fast 1", "step 30 slow 2 fast 0.5", "step 10 fast 2", "1",
    ]  # fmt: skip
