"""What an audit writes: `audit.json`, tables, a picture and one page."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tiacrossfusion.audit.api import Audit
from tiacrossfusion.audit.carriers import Carrier
from tiacrossfusion.audit.effects import FIGURES, cells_of, columns_of, with_interval
from tiacrossfusion.audit.judging import Attack
from tiacrossfusion.audit.nuisance_files import PICTURE as NUISANCE_PICTURE
from tiacrossfusion.audit.nuisance_files import nuisance_rows, nuisance_summary
from tiacrossfusion.audit.slides import NuisanceAudit
from tiacrossfusion.audit.transfer import Transfer
from tiacrossfusion.io.atomic import write_text, writing
from tiacrossfusion.outputs.figures import in_own_style, save_figure
from tiacrossfusion.outputs.pages import page_environment, picture_address

JSON, EFFECTS, DIRECTIONS, SITES, TRANSFER, PATCHES, PICTURE, STRENGTH, PAGE = (
    "audit.json",
    "effects.csv",
    "directions.csv",
    "sites.csv",
    "transfer.csv",
    "patches.csv",
    "effects.png",
    "strength.png",
    "report.html",
)

#: Parts of the page, each of which may be missing.
_PARTS: dict[str, Any] = dict.fromkeys(
    ("nuisances", "attacks", "directions", "sites", "transfers", "patches"), ()
)

_NOTICE = "Research use only, not for clinical use."


def effects_table(found: Audit) -> pd.DataFrame:
    """Return one row an adversary: its figures with intervals, and those of chance at equal norm."""
    rows = []
    for attack in found.attacks:
        row: dict[str, Any] = {
            "adversary": attack.name,
            "strength": attack.strength,
            "share": attack.share,
        }
        row |= columns_of(attack.effect, attack.random)
        row["times_random"] = attack.ratio
        if attack.c_change is not None:
            row |= {
                "c": attack.c,
                "c_change": attack.c_change.value,
                "c_change_low": attack.c_change.low,
                "c_change_high": attack.c_change.high,
                "c_change_random": attack.c_random,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def write_audit(found: Audit, folder: Path) -> None:
    """Write tables and picture into a folder; files of an earlier audit are replaced.

    Raises:
        TiacfError: the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(dataclasses.asdict(found)), indent=1, allow_nan=False)
    write_text(folder / JSON, text + "\n")
    tables = {EFFECTS: effects_table(found)}
    tables[DIRECTIONS] = pd.DataFrame([vars(one) for one in found.directions])
    if found.sites is not None:
        tables[SITES] = pd.DataFrame(
            found.sites.shifts.items(), columns=["site", "shift_at_equal_follow_up"]
        )
    if found.transfers:
        tables[TRANSFER] = pd.DataFrame([_transfer_row(one) for one in found.transfers])
    tables[PATCHES] = _patches(found.carriers)
    for name in (SITES, TRANSFER):  # of an earlier audit
        if name not in tables:
            (folder / name).unlink(missing_ok=True)
    for name, table in tables.items():
        write_text(
            folder / name, table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        )
    with writing(folder):
        effects_figure(found, folder / PICTURE)
        strength_figure(found, folder / STRENGTH)


def write_page(folder: Path, slides: NuisanceAudit | None, features: Audit | None) -> None:
    """Write the page of an audit of slides, of features, or of both, whose files are in the folder.

    Raises:
        TiacfError: the folder cannot be written.
    """
    lines: list[str] = []
    context: dict[str, Any] = {}
    if slides is not None:
        lines += nuisance_summary(slides)
        context |= {
            "nuisances": nuisance_rows(slides),
            "nuisance_picture": picture_address(folder / NUISANCE_PICTURE),
            "sd_of": slides.sd_of,
        }
    if features is not None:
        lines += summary(features)
        context |= {
            "attacks": [_row(attack) for attack in features.attacks],
            "directions": [
                (one.name, f"{one.length:.3f}", f"{one.size:.3f}", f"{one.per_length:.3f}")
                for one in features.directions[:12]
            ],
            "sites": _of_sites(features),
            "picture": picture_address(folder / PICTURE),
            "strength": picture_address(folder / STRENGTH),
            "transfers": [_cells(_transfer_row(one)) for one in features.transfers],
            "transfer_columns": list(_transfer_row(features.transfers[0]))
            if features.transfers
            else [],
            "patches": [_cells(row) for row in _patches(features.carriers[:20]).to_dict("records")],
        }
    model = features.model if features is not None else slides.model if slides is not None else ""
    template = page_environment("tiacrossfusion.audit").get_template("audit.html")
    page = template.render(model=model, lines=lines, figures=FIGURES, **_PARTS | context)
    write_text(folder / PAGE, page)


def summary(found: Audit) -> list[str]:
    """Return in a few lines what was found."""
    lines = [
        f"{found.model}: {found.slides} slides judged, adversaries fitted on {found.fitted_on} others, up to "
        f"{found.tokens:,} patches of each."
    ]
    for attack in found.attacks:
        size, changed = attack.effect.size, attack.effect.changed
        few = f", {attack.share:.1%} of the patches" if attack.name == "sparse" else ""
        lines.append(
            f"{attack.name} at {attack.strength:g} SD{few}: the risk moves by {size.value:.2f} of its SD "
            f"({size.low:.2f} to {size.high:.2f}; chance {attack.random['size'][0]:.2f}), and "
            f"{changed.value:.0%} of the slides change group (chance {attack.random['changed'][0]:.0%})."
        )
    lines += [
        f"The site is told from the features ({told.classifier}) with a balanced accuracy of "
        f"{told.accuracy:.2f} ({told.low:.2f} to {told.high:.2f}; by chance {told.chance:.2f}, p "
        f"{told.p:.2g})."
        for told in found.told
    ]
    if found.sites is not None:
        lines.append(
            f"Risks of sites at equal follow-up: p {found.sites.p:.2g}; C across sites "
            f"{with_interval(found.sites.c_across, 3)}, within {with_interval(found.sites.c_within, 3)}; "
            f"hazard ratio of one SD {with_interval(found.sites.ratio, 2)}, with a baseline hazard for each "
            f"site {with_interval(found.sites.within, 2)}."
        )
    lines += [
        f"The generator moves {one.model} by {with_interval(one.effect.size, 2)} SD: "
        f"{one.times_random:.1f} times chance ({one.random:.2f}), {one.of_own:.2f} of a generator of its own "
        f"({one.own:.2f})."
        for one in found.transfers
    ]
    return lines + [f"note: {note}" for note in found.notes]


@in_own_style
def effects_figure(found: Audit, path: Path) -> None:
    """Draw how far each adversary moves the risk, with its interval, beside chance."""
    attacks = found.attacks
    figure = Figure(figsize=(8.2, 1.5 + 0.42 * len(attacks)), dpi=130, facecolor="white")
    axes = figure.subplots()
    for row, attack in enumerate(attacks):
        size, chance = attack.effect.size, attack.random["size"]
        axes.plot([size.low, size.high], [-row] * 2, color="#d55e00", lw=2)
        axes.plot(size.value, -row, "o", color="#d55e00", label="adversary" if row == 0 else None)
        axes.plot([chance[1], chance[2]], [-row - 0.25] * 2, color="0.5", lw=2)
        label = "chance, equal norm (20 draws)" if row == 0 else None
        axes.plot(chance[0], -row - 0.25, "s", color="0.5", markersize=4, label=label)
    axes.set_yticks([-row for row in range(len(attacks))], [_name(attack) for attack in attacks])
    axes.set_ylim(-len(attacks) + 0.4, 0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("mean change of the risk, in SDs of the risks")
    axes.set_title(f"{found.model}: {found.slides} slides. {_NOTICE}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    save_figure(figure, path)


@in_own_style
def strength_figure(found: Audit, path: Path) -> None:
    """Draw the change of the risk, and of Harrell's C where it is known, against the strength."""
    with_c = any(attack.c_change is not None for attack in found.attacks)
    figure = Figure(figsize=(8.2, 3.4), dpi=130, facecolor="white")
    panels = figure.subplots(1, 1 + with_c, squeeze=False)[0]
    for name, colour in (("universal", "#d55e00"), ("generator", "#0072b2")):
        attacks = [attack for attack in found.attacks if attack.name == name]
        if not attacks:
            continue
        strengths = [attack.strength for attack in attacks]
        size = [attack.effect.size for attack in attacks]
        _band(panels[0], strengths, [(f.value, f.low, f.high) for f in size], colour, name)
        chance = [attack.random["size"] for attack in attacks]
        _band(panels[0], strengths, chance, "0.5", f"chance beside the {name}")
        if with_c:
            change = [attack.c_change for attack in attacks]
            values = [(f.value, f.low, f.high) for f in change if f is not None]
            _band(panels[1], strengths, values, colour, name)
            by_chance = [attack.c_random for attack in attacks]
            panels[1].plot(strengths, by_chance, "--", color="0.5")
    panels[0].set_ylabel("size of the change, SDs of the risks")
    if with_c:
        panels[1].set_ylabel("change of Harrell's C")
        panels[1].axhline(0, color="0.8", lw=0.8, zorder=0)
    for axes in panels:
        axes.set_xlabel("strength, SDs of the training features")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=7)
    figure.suptitle(f"{found.model}. {_NOTICE}", fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)


def _band(
    axes: Axes,
    strengths: Sequence[float],
    values: Sequence[tuple[float, float, float]],
    colour: str,
    label: str,
) -> None:
    """Draw values (value, low, high) against the strength, with the interval as a band."""
    middle, low, high = zip(*values, strict=True)
    axes.plot(strengths, middle, "o-", color=colour, markersize=3, label=label)
    axes.fill_between(strengths, low, high, color=colour, alpha=0.15, lw=0)


def _transfer_row(one: Transfer) -> dict[str, Any]:
    size = one.effect.size
    return {
        "model": one.model,
        "size": size.value,
        "size_low": size.low,
        "size_high": size.high,
        "size_random": one.random,
        "size_own": one.own,
        "times_random": one.times_random,
        "of_own": one.of_own,
        "changed": one.effect.changed.value,
        "rank": one.effect.rank.value,
    }


def _patches(found: Sequence[Carrier]) -> pd.DataFrame:
    """Return a row for each patch that was perturbed alone."""
    return pd.DataFrame(
        [(one.slide, one.scale, *one.bounds, one.attribution, one.change) for one in found],
        columns=["slide", "scale", "x0", "y0", "x1", "y1", "attribution", "change"],
    )


def _cells(row: Mapping[Any, Any]) -> list[str]:
    """Return the values of a row as text."""
    return [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()]


def _name(attack: Attack) -> str:
    few = f", {attack.share:.1%} of patches" if attack.name == "sparse" else ""
    return f"{attack.name}, {attack.strength:g} SD{few}"


def _row(attack: Attack) -> Sequence[str]:
    return [_name(attack), *cells_of(attack.effect, attack.random), f"{attack.ratio:.1f}"]


def _of_sites(found: Audit) -> list[tuple[str, str]]:
    if found.sites is None:
        return []
    return [(name, f"{shift:+.2f}") for name, shift in found.sites.shifts.items()]


def _plain(value: Any) -> Any:
    """Return a value without numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
