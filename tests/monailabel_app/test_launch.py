"""Starting the server: checks first, clear words when it can't."""

import contextlib
import socket
import subprocess
import sys
import time

import psutil
import pytest

from doselabel.errors import ServerError
from monailabel_app.conf import STATE, Conf, take_over
from monailabel_app.launch import check_port, command, free_port, main, make_app_dir, serve

PATIENCE_S = 300
"""Only a machine with much else to do needs nearly this long."""


def test_a_taken_port_is_told_with_another_to_try(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"Port {port}") as error:
            check_port("127.0.0.1", port)
        assert f"--port {port + 1}" in error.value.hint
        with pytest.raises(ServerError, match=f"Port {port}"):
            serve(tmp_path, port=port)


def test_a_missing_folder_is_told_and_not_made(tmp_path, capsys):
    assert main(["--studies", str(tmp_path / "nothing")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_a_studies_folder_that_can_t_be_written_is_told(tmp_path):
    (tmp_path / ".doselabel").write_text("a file where a folder should be: not even root may write into it")
    with pytest.raises(ServerError, match="can't be written"):
        make_app_dir(tmp_path / ".doselabel")


def test_the_app_folder_is_made_beside_the_studies_and_holds_one_import(tmp_path):
    folder = make_app_dir(tmp_path / ".doselabel")
    assert [path.name for path in folder.iterdir()] == ["main.py"]


def test_the_command_line_is_a_list_so_that_spaces_in_paths_do_no_harm(tmp_path):
    line = command(tmp_path / "a b", "127.0.0.1", 8000, tmp_path, {"planes": "all"}, "INFO")
    assert str(tmp_path / "a b") in line
    assert line[-3:] == ["--conf", "planes", "all"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("plains", "all", "not an option"),
        ("planes", "two", "expected axial or all"),
        ("train_steps", "many", "expected int"),
        ("checkpoint", "/nothing.safetensors", "there is no"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, option, value, said):
    with pytest.raises(ServerError, match=said):
        Conf.read(str(tmp_path), {option: value})


def test_options_that_scripts_give_every_monai_label_app_are_accepted(tmp_path):
    plain = Conf.read(str(tmp_path), {})
    assert Conf.read(str(tmp_path), {"models": "segmentation", "preload": "true"}) == plain


def test_options_reach_the_workers_unchanged(tmp_path):
    conf = Conf.read(str(tmp_path), {"planes": "all", "train_steps": "7", "grace_s": "2.5"})
    assert Conf.from_json(conf.to_json()) == conf
    assert (conf.train_steps, conf.grace_s) == (7, 2.5)


@pytest.mark.parametrize("how", [("monailabel_app.launch", "--studies"), ("doselabel.cli", "serve")])
def test_the_server_of_a_launcher_that_is_stopped_stops_too(tmp_path, how):
    line = [sys.executable, "-m", *how, str(tmp_path), "--port", str(free_port())]
    with (tmp_path / "log").open("wb") as log:
        launcher = subprocess.Popen(line, stdout=log, stderr=log)
        while not (servers := [c for c in psutil.Process(launcher.pid).children() if _is_server(c)]):
            assert launcher.poll() is None
            time.sleep(0.05)
        launcher.terminate()
        assert launcher.wait(PATIENCE_S) == 143
    assert not servers[0].is_running()


def _is_server(child: psutil.Process) -> bool:
    """A library that is imported may start a process for a moment, too (ctypes looks for others so)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return "monailabel_app.serving" in child.cmdline()
    return False


def test_two_servers_do_not_work_on_the_same_studies(tmp_path):
    lock = take_over(tmp_path / STATE)
    with pytest.raises(ServerError, match="Another server is at work"):
        serve(tmp_path, port=free_port())
    lock.release()
    take_over(tmp_path / STATE).release()


def test_a_process_ends_soon_after_its_parent_was_killed():
    child = (
        "import os, time; from monailabel_app.serving import end_with;"
        "end_with(os.getppid()); print(1, flush=True); time.sleep(600)"
    )
    parent = (
        "import subprocess, sys, time;"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE);"
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, encoding="utf-8")
    grandchild = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    grandchild.wait(PATIENCE_S)
    assert not grandchild.is_running()
