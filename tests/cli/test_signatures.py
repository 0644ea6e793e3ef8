"""Options as the source says them are those that Python takes."""

from __future__ import annotations

import importlib
import inspect

import pytest

from anomaly_suite.cli.catalog import Kind, catalog
from anomaly_suite.cli.signatures import signature


@pytest.mark.parametrize("kind", ["methods", "data"])
def test_options_are_those_of_the_class_each_with_its_text(kind: Kind) -> None:
    for entry in catalog(kind):
        module, _, name = entry.path.rpartition(".")
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
        if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
            continue  # an abstract base passes on what Lightning takes
        said = signature(entry.path).options
        assert [option.name for option in said] == [each.name for each in parameters], entry
        assert {option.name for option in said if option.default is None} == {
            each.name for each in parameters if each.default is inspect.Parameter.empty
        }, entry
        assert all(option.text and "`" not in option.text for option in said), entry


def test_names_stand_for_what_they_are_set_to() -> None:
    found = {option.name: option for option in signature("anomaly_suite.data.videos.shanghaitech.ShanghaiTech").options}
    assert (found["segments"].kind, found["segments"].default) == ("int", "32")
    assert found["layout"].kind == "snippets_first | crops_first"
    assert found["cache"][1:3] == ("str | null", "null")
    written = signature("anomaly_suite.cli.verbs.export.export_run").options
    assert written[0][:3] == ("run", "str", None)
    assert {option.name: option.kind for option in written}["format"] == "onnx | torch_export | torchscript"
