"""What tglo reads is JSON, TOML, tables, images and safetensors; the exceptions are listed (fault 24)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.architecture.test_imports import MODULES

PICKLES = ("pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
# What can run code when it reads, or reads a format that can -> where it may stand.
ALLOWED = {
    # With weights_only, of reward models; without, DeepSpeed's own files, after their checksums.
    "torch.load": {"tglo.rewards.weights", "tglo.train.engines.deepspeed_files"},
    "load_checkpoint": {"tglo.train.engines.deepspeed_files"},  # of the run's own folder
    "eval": set(),
    "exec": set(),
}
UNSAFE = {"allow_pickle", "trust_remote_code"}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def test_no_module_that_unpickles_is_imported() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {n.split(".")[0] for n in names} & set(PICKLES), name


def test_what_can_run_code_is_called_where_it_is_listed() -> None:
    found: dict[str, set[str]] = {call: set() for call in ALLOWED}
    for name in MODULES:
        for called, node in calls(name):
            for call in ALLOWED:
                if called == call or (call == "load_checkpoint" and called.endswith(f".{call}")):
                    found[call].add(name)
            keywords = {k.arg: k.value for k in node.keywords}
            if called == "torch.load":
                weights_only = ast.literal_eval(keywords["weights_only"])
                assert weights_only is not name.endswith(".deepspeed_files"), name
            for keyword in UNSAFE & keywords.keys():
                assert ast.literal_eval(keywords[keyword]) is False, name
    assert found == ALLOWED


def test_a_run_reads_checkpoints_of_its_own_folder_alone() -> None:
    """DeepSpeed's are pickles: `Engine.load` gets folders that `resume.load` found in output.folder."""
    callers = {
        name
        for name in MODULES
        for called, _ in calls(name)
        if called.endswith("engine.load") or called.endswith("checkpoint.newest")
    }
    assert callers == {"tglo.train.resume"}
    for called, node in calls("tglo.train.resume"):
        if called.endswith("checkpoint.newest"):
            assert ast.unparse(node.args[0]) == "run.config.output.folder / CHECKPOINTS"
