"""How the site is built: ``make docs``."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import generate  # noqa: E402
import mathml  # noqa: E402

from anomaly_suite import __version__  # noqa: E402

generate.write_pages(HERE / "generated")

project = "anomaly_suite"
author = "The anomaly_suite authors"
release = version = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generated/callback_table.md", "README.md"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tests execute them

html_theme = "furo"
html_title = f"anomaly_suite {version}"
html_static_path = ["static"]
html_css_files = ["suite.css"]
html_show_sphinx = False
html_copy_source = False

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autoclass_content = "class"
maximum_signature_line_length = 90
napoleon_custom_sections = ["Source", "Formulas", "Axes", "Layout"]
napoleon_numpy_docstring = False

linkcheck_timeout = 10
linkcheck_anchors = False


def signature_of(
    app: Any, what: str, name: str, obj: Any, options: Any, text: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Options of a class as its constructor has them; their types stand below."""
    if what != "class" or not hasattr(obj, "__init__"):
        return text, returned
    try:
        known = inspect.signature(obj)
    except (TypeError, ValueError):
        return text, returned
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in known.parameters.values()]
    return str(inspect.Signature(bare)), None


def setup(app: Any) -> None:
    """Formulas are drawn by the browser itself: no script is fetched."""
    mathml.setup(app)
    app.connect("autodoc-process-signature", signature_of)
