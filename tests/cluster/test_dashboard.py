"""--dashboard: Ray's own, with the training in its Train page."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen


def test_the_training_is_in_the_train_page(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "onehour", "train", "toy", "--runs", str(tmp_path), "--num-steps", "200000", "--dashboard",
         "--evaluate-every", "1000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        said = ""
        while "held out:" not in said:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            said += line
        form = r"^dashboard  (http://127.0.0.1:\d+), with the token in (\S+), until the training ends$"
        address, token = re.search(form, said, re.MULTILINE).groups()
        headers = {"Authorization": f"Bearer {Path(token).expanduser().read_text().strip()}"}
        with urlopen(Request(f"{address}/api/train/v2/runs/v1", headers=headers)) as answer:
            runs = json.load(answer)["train_runs"]
        assert [(run["name"], run["status"]) for run in runs] == [("toy-1", "RUNNING")]
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 130
