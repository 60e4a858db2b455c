"""Reference pages made from the program: files and messages, options, keys, the model card, whose work is used."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from doselabel import wire
from doselabel.dicom import pacs
from doselabel.dosimetry.options import DoseOptions
from doselabel.model.checkpoint import read_card, starter_path
from doselabel.study import Study
from monailabel_app import conf, oidc
from napari_plugin.shortcuts import KEYS, NAPARI_KEYS

ROOT = Path(__file__).parents[1]


def schemas() -> str:
    """Every field of the files and messages, from the classes that read and write them."""
    parts = [
        "# Files and messages\n\nMade from the classes that read them. A field without a default must be there.\n",
        "## `study.json`\n",
        *_schema(Study, parts=True),
        "What each means for the dose: [a study on disk](../study.md).\n",
        "## Options of a dose\n\nFlags of `doselabel dose`, `params` of the job `dosimetry`, and the window's form.\n",
        *_schema(DoseOptions),
        "## `results.json`\n",
        *_schema(wire.DoseResults),
        "## The wire\n\n```\n" + inspect.cleandoc(wire.__doc__ or "").partition("::\n")[2].strip("\n") + "\n```\n",
    ]
    shown = {"Study", "DoseOptions", "DoseResults"}
    for name in wire.__all__:
        kind = getattr(wire, name)
        if inspect.isclass(kind) and issubclass(kind, BaseModel) and name not in shown | {"Frozen"}:
            parts += [f"### {name}\n", *_schema(kind)]
    return "\n".join(parts)


def _schema(kind: type[BaseModel], parts: bool = False) -> Iterable[str]:
    """The fields of a class, and with ``parts`` of the classes in it."""
    schema = kind.model_json_schema()
    yield f"{_about(schema)}\n\n{_fields(schema)}\n"
    for name, part in schema.get("$defs", {}).items() if parts else ():
        if "properties" in part:
            yield f"### {name}\n\n{_about(part)}\n\n{_fields(part)}\n"


def _about(schema: dict[str, Any]) -> str:
    return schema.get("description", "").partition("\n\n")[0].replace("\n", " ")


def _fields(schema: dict[str, Any]) -> str:
    rows = ["| field | | default | |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        default = f"`{json.dumps(field['default'], ensure_ascii=False)}`" if "default" in field else "…"
        default = "" if name in schema.get("required", ()) else default if len(default) < 80 else "…"
        row = (f"`{name}`", _type(field), default, field.get("description", "").replace("\n", " "))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(rows)


def _type(field: dict[str, Any]) -> str:
    """A JSON schema in a few words: "number > 0", "list of TimePoint", "gtm, margin or threshold"."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(one) for one in field["anyOf"]))
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    if "enum" in field or "const" in field:
        return ", ".join(str(value) for value in field.get("enum", [field.get("const")]))
    kind = field.get("type", "anything")
    if kind == "array":
        inner = field.get("items") or next(iter(field.get("prefixItems", [])), {})
        count = field.get("minItems") if field.get("minItems") == field.get("maxItems") else None
        return f"{count or 'list of'} × {_type(inner)}" if count else f"list of {_type(inner)}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"name → {_type(inner)}" if isinstance(inner, dict) else "object"
    limits = (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
    bounds = " and ".join(f"{sign} {field[key]:g}" for key, sign in limits if key in field)
    return f"{field.get('format', kind)} {bounds}".strip()


ENVIRONMENT = {
    conf.TOKEN: "token for programs: who brings it is an admin of the server",
    conf.ORIGINS: "web origins that may call the server, with commas (also `--origin`)",
    oidc.SECRET: "the server's secret at its OpenID Connect issuer",
    pacs.USER: "name at the PACS for `doselabel pull`, `push`, `listen`",
    pacs.PASSWORD: "its password; without it the keyring's",
    pacs.TOKEN: "a bearer token for the PACS instead of both",
    "DOSELABEL_CACHE": "folder of computed kernels; `~/.cache/doselabel` without it",
    "OMP_NUM_THREADS": "threads of one computation; 1 is best where several processes run side by side",
    "OPENBLAS_NUM_THREADS": "threads of NumPy's part of it; 1 without it, where doselabel is loaded before NumPy",
}


def configuration() -> str:
    """The server's options, from the class that reads them, and every variable of the environment."""
    defaults = {field.name: field.default for field in dataclasses.fields(conf.Conf)}
    listed = (inspect.getdoc(conf.Conf) or "").partition("Attributes\n----------\n")[2]
    rows = []
    for name, words in re.findall(r"^(\w+) : \w+\n((?:    .*\n?)+)", listed, re.MULTILINE):
        if name != "studies":
            shown = f"`{defaults[name]}`" if defaults[name] != "" else ""
            told = " ".join(words.split()).replace("`SMALL_CPUS`", str(conf.SMALL_CPUS))
            rows.append(f"| `{name}` | {shown} | {told} |")
    return "\n".join(
        [
            "# Configuration\n\n## The server (`--conf KEY VALUE`)\n\n| key | default | |\n|---|---|---|",
            *rows,
            "\nIts flags (`--host`, `--port`, `--ssl-certfile` …): [`doselabel serve`](cli.md#doselabel-serve). Users: "
            "`doselabel users`, kept in the studies folder's `.doselabel/users.json`.\n",
            "## The environment\n\n| variable | |\n|---|---|",
            *(f"| `{name}` | {words} |" for name, words in ENVIRONMENT.items()),
            "\n## Files\n\n| file | what |\n|---|---|",
            "| `study.json` | a patient: [a study on disk](../study.md), [its fields](schemas.md#studyjson) |",
            "| a camera file | what was calibrated: [how to](../how-to.md#take-in-a-new-camera) |",
            "| options of a dose | flags, and fields of the form in the window: [all](schemas.md#options-of-a-dose) |",
            "| settings of a training | each a flag and a key of `--config`: [training](../training.md#settings) |",
            "| answers of an import | what DICOM does not say: [from PACS to report](../clinic.md) |",
            "",
        ]
    )


def shortcuts() -> str:
    """Every key of the window."""
    rows = [f"| {key} | {words} |" for key, (_, words) in KEYS.items()]
    own = [f"| {key} | {words} |" for key, words in NAPARI_KEYS.items()]
    return "\n".join(
        [
            "# Keys\n\nThey work wherever the focus is, except while text is typed; `?` shows this list.\n",
            *("| key | |\n|---|---|", *rows, "\n## napari's own\n\n| key | |\n|---|---|", *own, ""),
        ]
    )


def model_card() -> str:
    """What the starter is, was taught and scores: the header of its file."""
    profile, card = read_card(starter_path())
    rows = [
        f"| {row['patient']} | {row['organ'].replace('_', ' ')} | {row['dice']:.3f} | {row['surface_dice_2mm']:.3f} "
        f"| {row['hd95_mm']:.1f} | {row['volume_error_percent']:+.1f} |"
        for row in card["scores"]
    ]
    return "\n".join(
        [
            "# The model card\n\nWhat the header of `starter.safetensors` says of it.\n",
            f"{card['intended_use']}\n",
            f"- Network: profile `{profile.name}`, {profile.backbone}, {profile.in_slices} slices, "
            f"{profile.pixel_mm} mm pixels; {', '.join(name.replace('_', ' ') for name in profile.organs)}.",
            f"- Made {card['made'][:10]} in {card['steps']} steps: {card['training_data']} {card['n_ct']} CTs.",
            f"- Limits: {card['limits']}\n",
            "## Data and their authors\n",
            *(f"- {line}" for line in card["attribution"]),
            f"\n**{card['licence']}**\n",
            "## Scores on patients it has not seen\n",
            "| patient | organ | Dice | surface Dice 2 mm | HD95, mm | volume, % |",
            *("|---|---|---|---|---|---|", *rows, ""),
        ]
    )


def notices() -> str:
    """Whose work is used: what ships, and what is installed with it, with licences."""
    card = read_card(starter_path())[1]
    kernels = json.loads((ROOT / "shared/doselabel/dosimetry/physics/data/index.json").read_text("utf-8"))
    rows = []
    for line in sorted((ROOT / "constraints.txt").read_text("utf-8").splitlines(), key=str.lower):
        name, _, version = line.partition("==")
        if version and (found := _licence(name)):
            rows.append(f"| {name} | {version} | {found} |")
    return "\n".join(
        [
            "# Whose work this uses\n\nThe code of doselabel is Apache-2.0.\n\n## What ships with it\n",
            f"- Dose-point kernels, computed with {kernels['physics']}; decay data: {kernels['decay_data']}.",
            f"- The starter. {card['licence']}",
            *(f"    - {line}" for line in card["attribution"]),
            "\n## What is installed with it\n\nEach under its own licence; versions as pinned in `constraints.txt`.\n",
            *("| package | version | licence |\n|---|---|---|", *rows, ""),
        ]
    )


def _licence(name: str) -> str:
    """What a distribution says of its licence; empty where it is not installed here."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    classified = [
        line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if line.startswith("License ::")
    ]
    stated = about.get("License-Expression") or " / ".join(classified) or (about.get("License") or "").split("\n")[0]
    return (stated or "see the package").replace("|", "/")[:80]
