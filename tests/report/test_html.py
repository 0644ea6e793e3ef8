from __future__ import annotations

import json
import math
import os

from anomaly_suite.report.html import Html, as_json, element, facts, page, section, table

NASTY = """</script><b>&"'ü\u2028"""


def test_everything_but_html_is_escaped() -> None:
    assert element("p", NASTY, title=NASTY) == (
        """<p title="&lt;/script&gt;&lt;b&gt;&amp;&quot;&#x27;ü\u2028">&lt;/script&gt;&lt;b&gt;&amp;&quot;&#x27;ü\u2028</p>"""
    )
    assert element("p", Html("<i>a</i>"), class_="x", title=None) == '<p class="x"><i>a</i></p>'
    assert element("td", os.fsdecode(b"caf\xe9")) == "<td>caf\\udce9</td>"


def test_tables_lists_and_sections() -> None:
    made = table(["a", "<b>"], [["x", 0.5], ["y", None]], "c & d", class_="wide")
    assert '<table class="wide"><caption>c &amp; d</caption>' in made
    assert '<th scope="col">&lt;b&gt;</th>' in made
    assert (
        '<tr><th scope="row">x</th><td class="number">0.5000</td></tr><tr><th scope="row">y</th><td></td></tr>' in made
    )
    assert (
        facts({"a": "1", "b": None, "c": "", "d": 0})
        == '<dl class="facts"><dt>a</dt><dd>1</dd><dt>d</dt><dd>0</dd></dl>'
    )
    assert section("x", "X") == ""
    assert section("x", "X", "y") == '<section id="x" aria-labelledby="x-title"><h2 id="x-title">X</h2>y</section>'


def test_json_ends_no_element_and_keeps_numbers() -> None:
    values = [0.1, 1e-30, math.inf, -math.inf, 123456789, True, None, NASTY, {"a": [], "b": {}}, (1, 2.5)]
    written = as_json(values)
    assert not set("<>&") & set(written)
    read = json.loads(written)
    assert read[:4] == [0.1, 1e-30, math.inf, -math.inf]
    assert read[4:] == [123456789, True, None, NASTY, {"a": [], "b": {}}, [1, 2.5]]
    assert as_json([math.nan]) == "[null]"


def test_a_page_takes_nothing_from_elsewhere() -> None:
    whole = page("a <b> {{data}}", [Html("<p>{{style}}</p>")], script=True, data={"a": "{{script}}"})
    assert "<title>a &lt;b&gt; {{data}}</title>" in whole  # what was filled in is not filled in again
    assert "<p>{{style}}</p>" in whole
    assert '"{{script}}"' in whole
    assert "default-src 'none'" in whole
    for word in ("http://", "https://", "@import", "url(", "<link", "src="):
        found = whole.count(word)
        assert found == {"http://": 1, "url(": 1}.get(word, 0), word  # the name of SVG, and the pattern inside the page
    assert "drawHistogram" not in page("a", [])
