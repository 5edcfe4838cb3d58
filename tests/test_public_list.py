"""The public list is what is there, and importing it costs next to nothing."""

from __future__ import annotations

import inspect
import subprocess
import sys

import headstart
from headstart import api, cli
from headstart.settings import FitSettings

HEAVY = ("torch", "timm", "sklearn", "scipy", "onnx", "onnxruntime", "numpy", "PIL", "altair")


def test_the_public_list_is_what_is_there() -> None:
    public = {name for name in vars(headstart) if not name.startswith("_")}
    submodules = {name for name in public if inspect.ismodule(getattr(headstart, name))}
    assert public - submodules == set(headstart.__all__)


def test_public_functions_are_documented_and_take_no_bag_of_arguments() -> None:
    for name in (
        "fit",
        "make_plan",
        "compare",
        "load",
        "evaluate",
        "next_images",
        "explain_images",
        "show_filters",
    ):
        function = getattr(headstart, name)
        assert inspect.getdoc(function)
        kinds = {p.kind for p in inspect.signature(function).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds


def test_python_and_the_command_line_take_the_same_settings() -> None:
    fields = set(FitSettings.model_fields)
    assert set(inspect.signature(api.fit).parameters) == fields
    flags = set(inspect.signature(cli.fit).parameters)
    assert flags - {"no_report"} == fields - {"report"}


def test_comparisons_take_the_same_settings_with_the_same_defaults() -> None:
    python, typed = (inspect.signature(one.compare).parameters for one in (api, cli))
    assert set(python) == set(typed)
    assert {name: p.default for name, p in python.items()} == {
        name: p.default for name, p in typed.items()
    }
    for name in set(python) - {"folds"}:
        assert python[name].default == FitSettings.model_fields[name].default, name


def test_defaults_agree_in_all_three_places() -> None:
    for name, field in FitSettings.model_fields.items():
        if field.is_required() or name == "report":
            continue
        assert inspect.signature(api.fit).parameters[name].default == field.default, name
        assert inspect.signature(cli.fit).parameters[name].default == field.default, name


def test_importing_headstart_loads_nothing_heavy() -> None:
    code = f"import headstart, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
