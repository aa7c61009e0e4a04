"""The report is complete, right about what is missing, and cannot break itself."""

from __future__ import annotations

from importlib import metadata

import pytest
import torch

from tests.ops.self_check.imagined import FORMS, ImaginedGPU, gpu, halved  # noqa: F401  (a fixture)
from tglo import __version__, doctor, ops
from tglo.console.versions import version_line
from tglo.ops.self_check import verdicts


def by_name() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.report()}


def test_report_says_what_runs() -> None:
    findings = by_name()
    assert findings["torch"].detail == metadata.version("torch")
    for op in ops.OPERATORS:
        chosen = ops.backend_for(op, "cpu", torch.bfloat16)
        assert findings[f"{op} on cpu"].detail.startswith(f"{chosen} for bfloat16")
        assert f"{op} on cuda" in findings
    assert (findings["extension"].status == "ok") == ops.EXTENSION.loaded


def test_everything_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    monkeypatch.setattr(doctor.shutil, "which", lambda *a, **k: None)
    findings = by_name()
    assert findings["deepspeed"] == doctor.Finding(
        "deepspeed",
        "missing",
        "not installed; for training on several processes",
        'pip install ".[train]" in a checkout of tglo',
    )
    assert findings["nvcc"].status == "missing"


def test_version_outside_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2.14.0+cu130")
    assert by_name()["torch"].status == "problem"
    assert "outside >=2.11,<2.14" in by_name()["torch"].detail


@pytest.mark.parametrize(
    ("version", "limits", "inside"),
    [
        ("2.13.0+cpu", ">=2.11,<2.14", True),
        ("2.11", ">=2.11,<2.14", True),
        ("2.14.0rc1", ">=2.11,<2.14", False),
        ("2.9.1", ">=2.11,<2.14", False),
        ("0.0.35", ">=0.0.35", True),
        ("6.0", ">=5.17,<6", False),
        ("unknown", ">=2", False),
    ],
)
def test_ranges(version: str, limits: str, inside: bool) -> None:
    assert doctor._inside(version, limits) is inside


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> doctor.Finding:
        raise OSError("driver went away")

    monkeypatch.setattr(doctor, "_gpu", fail)
    assert by_name()["GPU"] == doctor.Finding("GPU", "problem", "OSError: driver went away")


def test_a_cuda_build_of_torch_wants_the_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    built = ops.EXTENSION._replace(loaded=True, architectures=())
    monkeypatch.setattr(ops, "EXTENSION", built)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert by_name()["extension"].detail.endswith("no CUDA kernels")
    assert by_name()["extension"].remedy == ""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "TGLO_CUDA=ON pip install" in by_name()["extension"].remedy
    monkeypatch.setattr(ops, "EXTENSION", built._replace(architectures=(80, 90)))
    finding = by_name()["extension"]
    assert finding.detail.endswith("CUDA kernels for sm_80, sm_90") and finding.remedy == ""


def test_a_build_without_the_extension_that_was_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = ops.EXTENSION._replace(loaded=False, problem="there is no tglo/_C.so")
    monkeypatch.setattr(ops, "EXTENSION", absent)
    version, label = metadata.version, ""

    def labelled(name: str) -> str:
        return f"{__version__}{label}" if name == "tglo" else version(name)

    monkeypatch.setattr(metadata, "version", labelled)
    for label, status in (("", "problem"), ("+cpu", "problem"), ("+bare", "missing")):
        assert doctor._extension().status == status
        assert version_line().startswith(f"tglo {__version__}{label} (")
    doctor.print_report()
    assert capsys.readouterr().out.startswith(f"tglo {__version__}+bare\n")


def test_forced_backend_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGLO_BACKEND", "fast")
    assert by_name()["TGLO_BACKEND"].status == "problem"


def test_table_has_a_line_per_finding_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.print_report()
    lines = capsys.readouterr().out.splitlines()
    findings = doctor.report()
    remedies = sum(bool(f.remedy) for f in findings)
    assert len(lines) == 1 + len(findings) + remedies


@pytest.fixture
def loss_alone(gpu: ImaginedGPU, monkeypatch: pytest.MonkeyPatch) -> ImaginedGPU:
    """The kernels of the CPU stand in for those of the loss only."""
    monkeypatch.setattr(verdicts, "FAMILIES", {"loss": verdicts.FAMILIES["loss"]})
    return gpu


def test_the_kernels_are_checked_anew_on_a_gpu(loss_alone: ImaginedGPU) -> None:
    assert ops.backend_for("tgo_loss", "cpu", torch.float32) == "cuda"
    loss_alone.launched.clear()
    loss_alone.faults["cuda"] = halved
    findings = [f for f in doctor.report() if f.name.startswith("loss by ")]
    assert loss_alone.launched
    cuda = [f for f in findings if f.name == "loss by cuda on GPU 0"]
    assert len(cuda) == FORMS
    wrong = [f for f in cuda if f.status == "problem"]
    assert wrong and all("tglo doctor" in f.remedy and ", limit " in f.detail for f in wrong)
    triton = [f for f in findings if f.name == "loss by triton on GPU 0"]
    assert [f.status for f in triton] == ["ok"] * len(triton)
    assert triton[0].detail == f"passed {len(triton) - 1} forms"
    assert all(" off by " in f.detail and ", limit " in f.detail for f in triton[1:])
    # what it found counts from here on, in this process and in the next
    assert ops.backend_for("tgo_loss", "cpu", torch.float32) == "triton"
    loss_alone.forget()
    assert ops.backend_for("tgo_loss", "cpu", torch.float32) == "triton"
    loss_alone.faults.clear()
    doctor.report()
    loss_alone.forget()
    assert ops.backend_for("tgo_loss", "cpu", torch.float32) == "cuda"
    assert not loss_alone.launched


def test_no_check_where_the_environment_forbids_it(
    loss_alone: ImaginedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGLO_SELF_CHECK", "0")
    assert by_name()["self-check"].detail.startswith("TGLO_SELF_CHECK=0: ")
    assert not loss_alone.launched


def test_kernels_that_end_all_work_do_not_end_the_report(
    loss_alone: ImaginedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error: misaligned address")

    monkeypatch.setattr(verdicts.machine, "wait", fail)
    monkeypatch.setattr(verdicts.machine, "broken", lambda device: "misaligned address")
    found = by_name()["self-check"]
    assert found.status == "problem" and found.detail.startswith("BrokenDevice: backend 'cuda'")
    assert "tgo_loss on cpu" in by_name()
