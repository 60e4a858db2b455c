"""Pages for a browser. Knows what `doselabel.wire` has; no routes."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment

from doselabel.wire import ModelEvent, ModelInfo

_MODELS = """<!doctype html><html lang="en"><meta charset="utf-8"><title>doselabel: models</title>
<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem}
table{border-collapse:collapse;width:100%}td,th{padding:.4rem .8rem .4rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid #ddd}code{font-size:13px}</style>
<h1>Which model answers</h1>
<p>{% if model %}<b>{{ model.card.name or model.name }}</b>, profile {{ model.profile }},
<code>{{ model.sha256[:12] }}</code>{% else %}None: there is no model.{% endif %}</p>
<table><tr><th>when (UTC)</th><th>what</th><th>model</th><th>before</th><th>why</th><th>by</th></tr>
{% for event in events %}<tr><td>{{ event.time.strftime("%Y-%m-%d %H:%M") }}</td><td>{{ event.what }}</td>
<td><code>{{ event.sha256[:12] }}</code>{{ "" if event.kept else " (gone)" }}</td>
<td><code>{{ event.previous_sha256[:12] }}</code></td><td>{{ event.reason }}</td><td>{{ event.by }}</td></tr>
{% else %}<tr><td colspan="6">No model has been promoted yet.</td></tr>{% endfor %}</table>
<p>An admin goes back with <code>POST /doselabel/model/rollback?sha256=…</code>. Research use only.</p></html>"""

_PAGES = Environment(autoescape=True)


def models_page(events: Sequence[ModelEvent], model: ModelInfo | None) -> str:
    """The history of the models that answered."""
    return _PAGES.from_string(_MODELS).render(events=events, model=model)
