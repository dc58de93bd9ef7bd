"""Files are told apart by what they hold, and all that is wrong with them is told with its line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from own_logs import log_text

from parsim.calibrate import measured_files
from parsim.calibrate.measured_files import MeasuredFiles, read_files

LOG = log_text("all_reduce", ["n0"] * 8, {2**20: 50e-6})


def read(folder: Path, text: str | bytes, name: str = "a.csv") -> MeasuredFiles:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_files([folder / name])


def faults(folder: Path, text: str | bytes) -> list[str]:
    return [str(fault).removeprefix(str(folder / "a.csv")) for fault in read(folder, text).faults]


def test_names_of_files_say_nothing_of_what_they_hold(tmp_path: Path) -> None:
    texts = {
        "a.txt": LOG,
        "b": "m,n,k,dtype,seconds\n8,8,8,bf16,1e-6\n",
        "c.log": "plan,step_s\nfull,1.5\n",
        "d": "accelerator,step_s\nh100,2\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    found = read_files([tmp_path / name for name in texts])
    assert found.faults == []
    assert [len(each) for each in (found.collectives, found.gemms, found.plans, found.tables)] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("columns", "cells", "seconds"),
    [
        ("m,n,k,dtype,seconds", "4096,1024,512,bf16,2e-3", 2e-3),
        ("M;N;K;dtype;Time (us)", "4096;1024;512;torch.bfloat16;2000", 2e-3),
        ("m\tn\tk\tprecision\ttime_ms\tnotes", "4096\t1024\t512\tbfloat16\t2\tx", 2e-3),
        ("op,m,n,k,dtype,TFLOPS", "gemm,4096,1024,512,bf16,2.147483648", 2e-3),  # 2 x 2^12 x 2^10 x 2^9 FLOP
        ("m,n,k,dtype,time_us,tflops", "4096,1024,512,bf16,2000,2.147", 2e-3),
    ],
)
def test_times_and_rates_of_gemms_are_read_in_the_unit_that_the_column_names(
    tmp_path: Path, columns: str, cells: str, seconds: float
) -> None:
    (found,) = read(tmp_path, f"\ufeff{columns}\r\n{cells}\r\n\r\n").gemms
    assert (found.m, found.n, found.k, found.dtype, found.line) == (4096, 1024, 512, "bf16", 2)
    assert found.seconds == pytest.approx(seconds, rel=1e-3)


def test_rows_of_another_op_are_no_gemms(tmp_path: Path) -> None:
    found = read(tmp_path, "op,m,n,k,dtype,time_us\nattention,,,,bf16,3\ngemm,8,8,8,fp8_e4m3,3\n")
    assert [each.dtype for each in found.gemms] == ["fp8"] and not found.faults


GEMM = "m,n,k,dtype,time_us,tflops\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GEMM + "8,8,8,bf16,-1,\n8,0,8,bf17,1,\n8,8,x,bf16,nan,\n",
         [":2:1: time_us = '-1' is no", ":3:1: n = '0' is no whole number from 1; dtype = 'bf17'", ":4:1: k = 'x' is no"]),
        (GEMM + "4096,4096,4096,bf16,1000,137.4\n4096,4096,4096,bf16,1,137.4\n",
         [":3:1: time_us = 1 says 1e-06 s, and tflops = 137.4 0.001 s, of 1.374e+11 FLOP: units are"]),
        (GEMM + "8,8,8,bf16,,\n", [":2:1: it states neither a time nor a rate"]),
        (GEMM, [":1:1: has no line of figures"]),
        ("m,n,k,seconds\n8,8,8,1\n", [":1:1: a table of GEMMs lacks the column dtype"]),
        ("plan,step_s\n,1\na,0\na,\n", [":2:1: names no plan", ":3:1: step_s = '0' is no number above 0", ":4:1: states neither"]),
        ("plan\na\n", [":1:1: a table of plans lacks the column step_s"]),
        ("", [": is empty"]),
        ("a,b\n1,2\n", [": is nothing that is read: a log of nccl-tests as it is, or a CSV table"]),
        (LOG.encode("utf-16"), [": is UTF-16, or no text"]),
        (GEMM.encode("utf-16-le"), [": is UTF-16, or no text"]),
    ],
)  # fmt: skip
def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, text: str | bytes, said: list[str]) -> None:
    found = faults(tmp_path, text)
    assert len(found) == len(said), found
    for each, start in zip(found, said, strict=True):
        assert each.startswith(start)


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_files, "MOST_BYTES", 1000)
    assert "is larger than the 1 kB that are read" in faults(tmp_path, LOG)[0]


def test_a_missing_file_a_folder_and_a_file_given_twice_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(LOG)
    found = read_files([tmp_path / "none", tmp_path, tmp_path / "a.log", tmp_path / "." / "a.log"])
    said = [fault.message for fault in found.faults]
    assert said == [
        "cannot be read: No such file or directory",
        "cannot be read: Is a directory",
        "is given twice; its measurements would count twice",
    ]


def test_a_file_that_is_wrong_in_every_line_tells_some(tmp_path: Path) -> None:
    found = faults(tmp_path, GEMM + "8,8,8,bf17,1,\n" * 30)
    assert len(found) == 21 and found[-1] == ": and 10 more"


def test_a_damaged_file_ends_in_measurements_or_faults_and_in_no_traceback(tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(300):
        text = list(rng.choice([LOG, GEMM + "8,8,8,bf16,1,\n", "plan,step_s\na,1\n"]))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(text))
            text[at : at + rng.choice([0, 1, 40])] = rng.choice(["nan", "1e999", "-", '"', "\n", "#", "9" * 5000, "\ufeff", "\0", " 3"])
        found = read(tmp_path, "".join(text))
        assert found.collectives or found.gemms or found.plans or found.tables or found.faults
