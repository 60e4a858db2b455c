"""The main job from first to last, on sample patients: `make demo`.

It starts the same programs a user starts by hand, the server and the plugin, each in its own process, and
compares what comes out with the phantom's ground truth. It knows no networks, windows or dose mathematics.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from doselabel.doctor import need
from doselabel.errors import DoselabelError, ServerError
from doselabel.wire import DoseResults

SERVER_START_S = 240
PLUGIN_S = 1800
KIDNEY_TOLERANCE_PERCENT = 15.0
"""How far the starter model's kidney doses may be from the phantom's truth for the demo to pass."""


def run(out: Path, *, patients: int = 2, seed: int = 0, steps: int = 6, window: bool = False) -> int:
    """Run the demo into ``out`` (made anew); 0 when every step worked and the kidney doses are near the truth.

    With ``window`` a window on its server stays open until it is closed.
    """
    need("monailabel", "napari")
    out = _fresh(out)
    studies = out / "studies"
    _say(1, f"sample patients → {studies}")
    sample(studies, patients, seed)
    _say(2, f"MONAI Label server (log: {out / 'server.log'})")
    with serving(studies, out / "server.log") as url:
        _say(3, "napari: next case, inference, correction, submit, retrain, dose")
        _plugin(url, out, "--steps", str(steps))
        _say(4, "comparison with the phantom's ground truth")
        worst = _compare(out, studies)
        _closing(out, studies)
        if window:
            print("The window stays open; close it, and the server ends.", flush=True)
            _plugin(url, out, "--stay", timeout_s=None)
    if worst > KIDNEY_TOLERANCE_PERCENT:
        print(f"demo: a kidney dose is {worst:.0f} % from the truth; expected at most {KIDNEY_TOLERANCE_PERCENT:.0f} %")
        return 1
    return 0


def _fresh(out: Path) -> Path:
    out = out.resolve()
    if out.exists() and any(out.iterdir()) and not (out / "studies").is_dir():
        raise DoselabelError(
            f"{out}: is not empty and not the folder of an earlier demo.", "Choose another folder with --out."
        )
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return out


def _say(step: int, text: str) -> None:
    print(f"\n[{step}/4] {text}", flush=True)


def sample(studies: Path, patients: int, seed: int) -> None:
    """Make patients, as a user would."""
    command = [sys.executable, "-m", "doselabel.cli", "sample", str(studies)]
    subprocess.run([*command, "--patients", str(patients), "--seed", str(seed)], check=True)


@contextmanager
def serving(studies: Path, log: Path) -> Iterator[str]:
    """A real server process on a free port of this machine, stopped at the end."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "monailabel_app.launch", "--studies", str(studies), "--port", str(port)]
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            _wait_for(url, process, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < SERVER_START_S:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/doselabel/info", timeout=5).status_code == 200:
                print(f"      {url} answers after {time.monotonic() - began:.0f} s", flush=True)
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    raise ServerError(
        f"The server did not start; the end of {log}:\n{tail}", "`doselabel doctor` tells what is missing."
    )


def _plugin(url: str, out: Path, *words: str, timeout_s: float | None = PLUGIN_S) -> None:
    command = [sys.executable, "-m", "napari_plugin.demo", "--server", url, "--studies", str(out / "studies")]
    command += ["--out", str(out), *words]
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        if not shutil.which("xvfb-run"):
            raise DoselabelError(
                "There is no display and no xvfb-run, and napari needs one of them for its window.",
                "apt-get install xvfb xauth libgl1 libegl1, then run the demo again.",
            )
        command = ["xvfb-run", "-a", "-s", "-screen 0 1400x900x24 +extension GLX", *command]
    done = subprocess.run(command, timeout=timeout_s, check=False)
    if done.returncode:
        raise DoselabelError(
            f"The plugin's part of the demo ended with exit code {done.returncode}; its message stands above.",
            f"The server's log is {out / 'server.log'}.",
        )


def _compare(out: Path, studies: Path) -> float:
    """Print doses beside the truth, write report and story; return the worst kidney's deviation in percent."""
    from doselabel.demo_story import write_story
    from doselabel.io.report import write_report_of
    from doselabel.study import Study

    results = DoseResults.model_validate_json((out / "results.json").read_text("utf-8"))
    study = Study.load(studies / results.patient_id)
    truth = json.loads((study.folder / "truth" / "truth.json").read_text("utf-8"))["organs"]
    worst = 0.0
    print(f"      {'organ':<14}{'dose Gy':>9}{'± Gy':>7}{'truth Gy':>10}{'difference':>12}")
    for name, organ in results.organs.items():
        true_gy = truth[name]["mean_dose_gy"]
        percent = 100 * (organ.mean_dose_gy / true_gy - 1)
        print(f"      {name:<14}{organ.mean_dose_gy:>9.2f}{organ.dose_sd_gy:>7.2f}{true_gy:>10.2f}{percent:>+11.1f} %")
        if name.endswith("kidney"):
            worst = max(worst, abs(percent))
    write_report_of(out, study, truth=study.folder / "truth" / "truth.json")
    write_story(out, truth)
    return worst


def _closing(out: Path, studies: Path) -> None:
    print(f"""
Done. Look at
  {out / "story.html"}         case, contours, correction, training, and the dose beside the truth
  {out / "report.html"}        the dose report, beside the phantom's ground truth
  {out / "napari.png"}         the napari window
  {out / "server.log"}         what the server said
Start it by hand (in the virtual environment: source .venv/bin/activate):
  monailabel start_server --app monailabel_app --studies {studies}
  napari      then Plugins → Annotate and dose (doselabel), and connect to http://127.0.0.1:8000
Research use only: not a medical device.""")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
