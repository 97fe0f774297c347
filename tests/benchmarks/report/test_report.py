"""The report of a run: what it shows, that it stands alone, and that nothing in a ledger can break it."""

from __future__ import annotations

import copy
import json
import math
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgewright.benchmarks.report.plots import heat_map
from edgewright.benchmarks.report.report import render_html, render_markdown, write_report
from edgewright.errors import EdgewrightError, UsageError

VOID = {
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "source",
    "track",
    "wbr",
}
CONTEXT = {
    "data_hash/reasoning": "9f2c51aa07e1",
    "seq_len/reasoning": 256,
    "problems/reasoning": 200,
    "problems/copying": 200,
    "backend": "torch",
    "device": "cpu",
    "dtype": "float32",
    "threads": 2,
    "latency": {"prompt": 64, "new_tokens": 64, "runs": 5, "batch": 1},
}


def metrics(
    accuracy: float, kl: float, speed: float, size: float, parameters: int
) -> dict[str, float]:
    return {
        "accuracy/reasoning": accuracy,
        "accuracy/reasoning/n": 200,
        "accuracy/reasoning/stderr": math.sqrt(accuracy * (1 - accuracy) / 199),
        "accuracy/copying": accuracy - 0.05,
        "accuracy/copying/n": 200,
        "accuracy/copying/stderr": 0.018,
        "perplexity/reasoning": 1.2 + kl,
        "perplexity/reasoning/n": 51200,
        "kl/reasoning": kl,
        "top1_agreement/reasoning": 1 - kl / 2,
        "ttft_ms/p50": 2400 / speed,
        "ttft_ms/p90": 2600 / speed,
        "ttft_ms/p99": 3000 / speed,
        "decode_tok_s/p50": speed,
        "prefill_tok_s": speed * 14.2,
        "peak_rss_bytes": size + 4.1e8,
        "size_bytes": size,
        "parameters": parameters,
    }


def step(
    name: str, kind: str, numbers: dict[str, float], details: Any = None, **context: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "config": {"method": "gptq"} if kind == "quantize" else {},
        "output": name,
        "fingerprint": (name.encode().hex() * 20)[:64],
        "seconds": 12.3,
        "metrics": numbers,
        "notes": [f"{name}: first note", "second note"] if kind != "baseline" else [],
        "context": CONTEXT | context,
        "details": details or {},
    }


def make_ledger() -> dict[str, Any]:
    dice = random.Random(7)
    importance = [[round(dice.random() ** 3, 4) for _ in range(12)] for _ in range(8)]
    pruned = [sorted(range(12), key=layer.__getitem__)[:3] for layer in importance]
    hidden = [2.5 * 0.97**i + 0.05 * dice.random() + 0.02 for i in range(100)]
    logits = [0.8 * 0.995**i + 0.08 * dice.random() for i in range(1000)]
    modules = {
        f"model.layers.{i}.{m}": {
            "error": 0.001 * (i + 1) * (1 + dice.random()),
            "rtn_error": 0.0021 * (i + 1),
        }
        for i in range(8)
        for m in ("self_attn.q_proj", "mlp.down_proj")
    }
    parity = {
        "parity/max_abs_diff": 0.0121,
        "parity/kl": 3.2e-06,
        "parity/top1_prefill": 1.0,
        "parity/top1_decode": 0.992,
        "parity/positions": 512.0,
        "parity/decode_steps": 8,
        "parity/low_bit_nodes": 57.0,
    }
    row = {
        "step": "export-int4",
        "precision": "int4",
        "weight_bytes": 4.1e6,
        "kv_bytes": 2.1e6,
        "total_bytes": 5.1e9,
        "usable_bytes": 6.2e9,
        "fits": True,
        "ttft_ms": 20.0,
        "ttft_band": 0.5,
        "decode_tok_s": 100.0,
        "band": 0.3,
        "violations": [],
    }
    unfit = row | {"step": "baseline", "precision": "fp32", "total_bytes": 9.3e9, "fits": False}
    unfit["violations"] = [
        "9.3 GB of weights, cache and runtime do not fit into the 6.2 GB that the system leaves"
    ]
    return {
        "schema": 1,
        "edgewright": "0.1.0",
        "created": "2025-11-21T23:45:59+00:00",
        "command": "edgewright run recipes/tiny.yaml --out runs/tiny --set steps.prune.heads=0.25",
        "recipe": {
            "name": "tiny chain",
            "model": "builtin:tiny-reasoner",
            "steps": [{"kind": "prune", "heads": 0.25}],
        },
        "environment": {
            "python": "3.11.2",
            "torch": "2.9.1",
            "cpu": "Example CPU @ 2.0 GHz",
            "os": {"name": "Linux"},
        },
        "steps": [
            step("baseline", "baseline", metrics(0.97, 0.0, 81.2, 12_850_000, 3_212_345)),
            step(
                "prune",
                "prune",
                metrics(0.62, 0.31, 96.4, 9_650_000, 2_409_000),
                {"head_importance": importance, "pruned_heads": pruned},
            ),
            step(
                "distill",
                "distill",
                metrics(0.955, 0.02, 96.9, 9_650_000, 2_409_000),
                {"loss": {"hidden": hidden, "logits": logits}},
            ),
            step(
                "quantize",
                "quantize",
                metrics(0.95, 0.03, 91.0, 2_310_000, 2_409_000),
                {"modules": modules},
            ),
            step(
                "export-int4",
                "export",
                metrics(0.95, 0.031, 214.7, 2_400_000, 2_409_000),
                {"parity": parity},
                backend="onnx",
            ),
        ],
        "gate": {
            "verdict": "fail",
            "candidate": "export-int4",
            "baseline": "baseline",
            "checks": [
                {
                    "metric": "accuracy/reasoning",
                    "baseline": 0.97,
                    "candidate": 0.95,
                    "limit": "ratio >= 0.92",
                    "observed": 0.979381,
                    "passed": True,
                },
                {
                    "metric": "accuracy/copying",
                    "baseline": 0.92,
                    "candidate": 0.9,
                    "limit": "drop <= 0.01",
                    "observed": 0.02,
                    "verdict": "inconclusive",
                    "interval": [-0.005, 0.045],
                    "samples": 200,
                    "samples_needed": 3391,
                    "note": "",
                },
                {
                    "metric": "decode_tok_s/p50",
                    "baseline": 81.2,
                    "candidate": 214.7,
                    "limit": "ratio >= 3",
                    "observed": 2.644,
                    "verdict": "fail",
                    "interval": None,
                    "samples": None,
                    "samples_needed": None,
                    "note": "",
                },
            ],
        },
        "plan": {"target": "jetson-orin-nano-8gb", "rows": [unfit, row]},
    }


class Page(HTMLParser):
    """Checks that tags balance, and keeps what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.html = text
        self.feed(text)
        self.close()
        assert self.open == []
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "small":
            self.rows[-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing that is open"

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def ids(self) -> list[str]:
        return [value for _, name, value in self.attributes if name == "id"]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_html(make_ledger()))


def test_page_stands_alone(page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), f"<{tag} {name}> would run code"
        assert "://" not in value, f"<{tag} {name}={value}> points outside"
        if name in ("href", "src"):
            assert value.startswith("#")
    assert "@import" not in page.html
    assert set(re.findall(r"url\(.", page.html)) <= {"url(#"}


def test_every_reference_inside_a_figure_has_one_definition(page: Page) -> None:
    used = {v[1:] for _, n, v in page.attributes if n == "href"}
    used |= {v[5:-1] for _, n, v in page.attributes if v.startswith("url(#")}
    assert used
    assert sorted(page.ids) == sorted(set(page.ids))
    assert set(page.ids) == used


def test_steps_table_shows_the_figures_as_people_read_them(page: Page) -> None:
    head, *rows = page.rows[:6]
    cells = dict(zip(head, rows[4], strict=True))
    assert cells == {
        "step": "export-int4 candidate",
        "kind": "export",
        "exact match ± stderr reasoning, n=200": "0.950 ± 0.015",
        "exact match ± stderr copying, n=200": "0.900 ± 0.018",
        "perplexity reasoning, n=51,200": "1.231",
        "KL reasoning": "0.0310",
        "top-1 reasoning": "0.985",
        "TTFT p50 ms": "11.2",
        "decode tok/s": "215",
        "prefill tok/s": "3,049",
        "peak memory MB": "412",
        "size MB": "2.40",
        "parameters": "2.41 M",
        "seconds": "12.3",
    }
    assert [row[0].split()[0] for row in rows] == [
        "baseline",
        "prune",
        "distill",
        "quantize",
        "export-int4",
    ]


def test_all_parts_are_there(page: Page) -> None:
    text = "\n".join(page.texts)
    for part in (
        "tiny chain",
        "builtin:tiny-reasoner",
        "2025-11-21 23:45 UTC",
        "jetson-orin-nano-8gb",
        "✓ pass",
        "✗ fail",
        "? inconclusive",
        "0.0200 observed, limit drop <= 0.01",
        "-0.005 to 0.045 on 200 samples; about 3,391 samples would decide",
        "0.979 observed, limit ratio >= 0.92",
        "2.64 observed, limit ratio >= 3",
        "81.2 tok/s → 215 tok/s",
        "from 12.8 MB (0.187×)",
        "Head importance: prune",
        "Distillation loss: distill, hidden",
        "export-int4: first note",
        "Distillation loss: distill, logits",
        "Accuracy on reasoning against size",
        "low bit nodes",
        "3.20e-06",
        "Example CPU @ 2.0 GHz",
        "os.name",
        "--set steps.prune.heads=0.25",
        "heads: 0.25",
        "76.9 to 130 tok/s",
        "13.3 to 30.0 ms",
        "82%",
        "9.3 GB of weights",
    ):
        assert part in text, part
    assert page.tags.count("svg") == 12
    assert ["export-int4", "0.0121", "3.20e-06", "1.000", "0.992", "512", "8", "57"] in page.rows
    assert sum(row[0].startswith("model.layers.") for row in page.rows) == 10
    errors = [float(row[1]) for row in page.rows if row[0].startswith("model.layers.")]
    assert errors == sorted(errors, reverse=True)


def test_figures_follow_the_theme(page: Page) -> None:
    styles = " ".join(
        value for tag, name, value in page.attributes if name == "style" and tag != "i"
    )
    assert "currentColor" in styles and "var(--series-1" in styles and "var(--good" in styles
    bare = re.sub(r"var\([^)]*\)", "", styles)
    assert not re.findall(r"#[0-9a-f]{6}", bare), "a colour that does not follow light and dark"
    assert "prefers-color-scheme: dark" in page.html


def test_steps_measured_otherwise_stay_out_of_comparisons() -> None:
    ledger = make_ledger()
    ledger["steps"][4]["context"] |= {"threads": 8, "problems/reasoning": 50}
    text = "\n".join(Page(render_html(ledger)).texts)
    assert text.count("Left out, because measured differently: export-int4.") == 6
    assert "2.64×" not in text
    assert "0.187×" in text  # sizes are always comparable


def test_plan_without_a_target_shows_what_is_known() -> None:
    plan = {
        "target": None,
        "rows": [{"step": "prune", "precision": "fp32", "weight_bytes": 9.65e6, "violations": []}],
    }
    page = Page(render_html({"plan": plan}))
    assert page.rows == [["step", "precision", "weights MB"], ["prune", "fp32", "9.65"]]
    assert "Plan" in page.texts


def test_many_steps_are_numbered_beside_the_dots() -> None:
    ledger = make_ledger()
    ledger["steps"] += [
        step(f"again-{i}", "distill", metrics(0.9, 0.02, 90.0, 9e6 - i, 2_409_000))
        for i in range(4)
    ]
    page = Page(render_html(ledger))
    assert (
        sum("1\N{NO-BREAK SPACE}baseline, 2\N{NO-BREAK SPACE}prune" in text for text in page.texts)
        == 4
    )


HOSTILE = "<script>alert(1)</script> \"onload='x' $\\frac{ | ` --> \x00 \ud800 {{ 7*7 }} 漢字"


def test_hostile_strings_are_text() -> None:
    ledger = json.loads(json.dumps(make_ledger()).replace("export-int4", json.dumps(HOSTILE)[1:-1]))
    ledger |= {
        "command": HOSTILE,
        "edgewright": HOSTILE,
        "created": HOSTILE,
        "environment": {HOSTILE: HOSTILE},
    }
    ledger["recipe"] = {"name": HOSTILE, "model": HOSTILE}
    ledger["gate"] |= {"verdict": HOSTILE}
    ledger["steps"][1]["details"] = {
        "modules": {HOSTILE: {"error": 1.0}},
        "loss": {HOSTILE: [2.0, 1.0]},
    }
    html = render_html(ledger)
    assert "script" not in Page(html).tags
    assert "{{ 7*7 }}" in html
    markdown = render_markdown(ledger)
    assert "<script>" not in re.sub(r"```.*?```", "", markdown, flags=re.S)
    widths = {
        len(re.findall(r"(?<!\\)\|", line))
        for line in markdown.splitlines()
        if line.startswith("|") and "kind" in line
    }
    assert widths == {
        len(
            re.findall(
                r"(?<!\\)\|", next(x for x in markdown.splitlines() if x.startswith("| baseline"))
            )
        )
    }


def test_recipe_cannot_close_its_code_block() -> None:
    markdown = render_markdown(make_ledger() | {"recipe": "a: |\n  ```\n  # not a heading\n"})
    assert "````yaml\na: |\n  ```\n" in markdown and markdown.rstrip().endswith("````")


def test_unfinished_ledger_renders() -> None:
    ledger = make_ledger()
    ledger["steps"] = ledger["steps"][:2]
    for key in ("metrics", "context", "details", "notes", "seconds"):
        del ledger["steps"][1][key]
    del ledger["gate"], ledger["plan"]
    page = Page(render_html(ledger))
    assert "No verdict" in page.texts and "svg" not in page.tags and "candidate" not in page.html
    assert page.rows[2] == ["prune", "prune"] + ["–"] * 12
    assert "| prune | prune | – |" in render_markdown(ledger)


ALMOST_EMPTY: list[dict[str, Any]] = [
    {},
    {"steps": []},
    {"steps": [{}]},
    {"steps": [{"metrics": None}], "gate": None},
]


@pytest.mark.parametrize("ledger", ALMOST_EMPTY)
def test_almost_empty_ledgers_render(ledger: dict[str, Any]) -> None:
    assert "svg" not in Page(render_html(ledger)).tags
    assert render_markdown(ledger).startswith("# unnamed run")


def test_odd_numbers_render() -> None:
    ledger = make_ledger()
    ledger["steps"][1]["metrics"] |= {
        "perplexity/reasoning": math.inf,
        "kl/reasoning": math.nan,
        "ttft_ms/p50": None,
    }
    ledger["steps"][0]["metrics"]["size_bytes"] = 0
    ledger["steps"][1]["details"] = {
        "head_importance": [[math.nan, 1.0], [0.5]],
        "pruned_heads": [[0], []],
        "loss": {"hidden": [math.nan, 5.0], "logits": []},
    }
    ledger["gate"]["checks"][0] |= {"observed": None, "baseline": None}
    row = Page(render_html(ledger)).rows[2]
    assert row[4] == "∞" and row[5] == "–" and row[7] == "–"


def test_markdown_has_one_row_a_step() -> None:
    lines = render_markdown(make_ledger()).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| step | kind |"))
    rows = lines[
        start + 2 : next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    ]
    assert [row.split("|")[1].strip() for row in rows] == [
        "baseline",
        "prune",
        "distill",
        "quantize",
        "export-int4 (candidate)",
    ]
    assert (
        {row.count("|") for row in rows}
        == {lines[start].count("|")}
        == {lines[start + 1].count("|")}
    )
    assert (
        "- **FAIL**: decode\\_tok\\_s/p50 2.64, limit ratio &gt;= 3 (81.2 tok/s → 215 tok/s)"
        in lines
    )
    evidence = "-0.005 to 0.045 on 200 samples; about 3,391 samples would decide"
    assert (
        f"- inconclusive: accuracy/copying 0.0200, limit drop &lt;= 0.01 (0.920 → 0.900; {evidence})"
        in lines
    )


def test_tasks_are_derived_not_known() -> None:
    ledger = json.loads(json.dumps(make_ledger()).replace("/reasoning", "/a/b"))
    head = Page(render_html(ledger)).rows[0]
    assert head[2:5] == [
        "exact match ± stderr a/b, n=200",
        "exact match ± stderr copying, n=200",
        "perplexity a/b, n=51,200",
    ]


def test_write_report_writes_both_and_changes_nothing_else(tmp_path: Path) -> None:
    ledger = make_ledger()
    ledger["steps"][0]["name"] = "\ud800"
    (tmp_path / "ledger.json").write_text(json.dumps(ledger))
    paths = write_report(tmp_path)
    assert [path.name for path in paths] == ["report.html", "report.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ledger.json",
        "report.html",
        "report.md",
    ]
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_report(tmp_path)] == first, (
        "the same ledger gives the same report"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "no ledger"), ("{", "not valid JSON"), ("[]", "schema"), ('{"schema": 9}', "schema 9")],
)
def test_no_usable_ledger_is_a_usage_error(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / "ledger.json").write_text(text)
    with pytest.raises(UsageError, match=reason) as caught:
        write_report(tmp_path)
    assert caught.value.hint
    assert not (tmp_path / "report.html").exists()


def test_unwritable_run_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text(json.dumps(make_ledger()))
    (tmp_path / "report.html").mkdir()
    (tmp_path / "report.html" / "x").touch()
    with pytest.raises(EdgewrightError, match="could not be written"):
        write_report(tmp_path)


def test_rendering_leaves_the_ledger_alone() -> None:
    ledger = make_ledger()
    before = copy.deepcopy(ledger)
    render_html(ledger)
    assert ledger == before


def test_report_needs_neither_torch_nor_matplotlib_to_be_imported() -> None:
    code = "import sys, edgewright.benchmarks.report.report; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_heat_map_of_scores_whose_spread_is_rounded() -> None:
    """0.92 * spread / spread may come out above 0.92, and more than fully opaque is an error."""
    assert "<svg" in heat_map([[0.8444218515250481, 1.6023762544653506]], [[0]], "heads")
