"""What is shown of an observation: the tables of observe.json, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from realdataexp.files import read_json
from realdataexp.report.numbers import Scale, number
from realdataexp.report.table import Cell, Table, say

Found = Mapping[str, Any]
_ARMS = ("control", "treatment")
_PARTS = (*_ARMS, "effect")


def print_observation(folder: Path, console: Console | None = None) -> None:
    """Print what an observation found."""
    found, console = read_json(folder / "observe.json"), console or Console(highlight=False)
    for shown in (_off_policy, _natural, _beside, _support):
        for part in shown(found):
            if isinstance(part, Table):
                part.show(console)
            else:
                say(console, part)


def _named(found: Found, outcome: str) -> str:
    unit = found["outcomes"][outcome]
    return f"{outcome} ({unit})" if unit else outcome


def _with_error(x: Found | None, scale: Scale) -> str:
    if x is None or x.get("value") is None:
        return "-"
    return f"{scale.text(x['value'])} ± {scale.text(x.get('se'))}"


def _scale(xs: Sequence[Found]) -> Scale:
    known = [x for x in xs if x.get("value") is not None]
    return Scale.of([x["value"] for x in known], [x.get("se") for x in known])


# --- off-policy values ---------------------------------------------------------------------------


def _off_policy(found: Found) -> Iterator[Table | str]:
    values = found["off_policy"]
    is_known = "cannot_tell" not in values
    reasons: dict[str, list[str]] = {}
    for outcome, rows in values["outcomes"].items():
        table = Table(
            f"{_named(found, outcome)} per exposure, of each frozen arm: the best of "
            f"{found['n_candidates']} videos",
            *_PARTS, *(["error of the effect", "p"] if is_known else []),
            first="estimator",
        )  # fmt: skip
        loop = {"name": "replay, loop", **found["loop"][outcome]}
        rows = [*rows[:2], loop, *rows[2:]]
        scale = _scale([x[part] for x in rows for part in _PARTS if part in x])
        for x in rows:
            if "cannot_tell" in x:
                reasons.setdefault(x["cannot_tell"], []).append(f"{x['name']} ({outcome})")
                continue
            error = x.get("error", {})
            if "cannot_tell" in error:
                reasons.setdefault(error["cannot_tell"], []).append(f"error of {x['name']}")
            graded = _graded(error.get("effect"), scale) if is_known else []
            table.add(x["name"], *(_with_error(x.get(part), scale) for part in _PARTS), *graded)
        yield table
    yield from (f"{', '.join(who)}: cannot tell: {why}" for why, who in reasons.items())
    yield (
        _rest_on(values) if is_known else f"Off-policy values: cannot tell: {values['cannot_tell']}"
    )


def _graded(error: Found | None, scale: Scale) -> list[str]:
    known = error is not None and error["p_value"] is not None
    return [_with_error(error, scale), f"{error['p_value']:.2g}" if error and known else "-"]


def _rest_on(values: Found) -> str:
    exposure, weights = values["exposure"], values["weights"]
    said = (
        f"They rest on {exposure['rows']:,} exposures of {exposure['users']:,} users (of "
        f"{exposure['eligible_users']:,}), from {exposure['videos']:,} videos"
    )
    for arm in _ARMS:
        x = weights[arm]
        said += (
            f"; {arm}: {x['effective_rows']:,.0f} effective rows ({x['effective_share']:.0%}), "
            f"mean weight {x['mean']['value']:.3f} ± {x['mean']['se'] or 0:.3f}, largest "
            f"{x['largest']:.3g}"
        )
    if "dispersion" in exposure:
        said += (
            f"; how often videos were shown varies {exposure['dispersion']:.2f} times as much as "
            f"by an even chance (p {exposure['dispersion_p_value']:.2g})"
        )
    return f"{said}."


# --- the natural experiment ----------------------------------------------------------------------


def _natural(found: Found) -> Iterator[Table | str]:
    natural = found["natural_experiment"]
    random, change = natural["standard_against_random"], natural["before_against_after"]
    if "cannot_tell" in random:
        yield f"Standard against random exposures: cannot tell: {random['cannot_tell']}"
    else:
        yield from _standard_against_random(found, random)
    if "cannot_tell" in change:
        yield f"Before against after: cannot tell: {change['cannot_tell']}"
    else:
        yield from _before_against_after(found, natural["start"], change)


def _standard_against_random(found: Found, random: Found) -> Iterator[Table | str]:
    table = Table(
        "Standard exposures less random ones, of the same users", "standard", "random",
        "difference", "in the same tab", first="outcome",
    )  # fmt: skip
    for outcome, x in random["effects"].items():
        within = random["effects_within_tab"][outcome]
        scale = _scale([x, within])
        table.add(
            _named(found, outcome), number(x.get("mean")), number(x.get("mean_other")),
            _with_error(x, scale), _with_error(within, scale),
        )  # fmt: skip
    yield table
    balance = Table(
        "Balance: when and where both kinds were shown", "standard", "random", "difference, SD",
        "balanced", first="of",
    )  # fmt: skip
    for x in random["balance"]:
        balance.add(
            x["name"], Cell.of(x["standard"]), Cell.of(x["random"]), Cell.of(x["difference_sd"]),
            "yes" if x["is_balanced"] else "NO",
        )  # fmt: skip
    yield balance


def _before_against_after(found: Found, start: str, change: Found) -> Iterator[Table | str]:
    days = " to ".join(change["days"])
    for outcome, effect in change["effects"].items():
        placebos = change["placebos"][outcome]
        scale = _scale([effect, *placebos])
        table = Table(
            f"{_named(found, outcome)} of standard exposures ({days}): the week from a day on "
            "less the week before, of users in both",
            "users", "change", first="from",
        )  # fmt: skip
        if "value" in effect:
            users = f"{effect['n_users']:,}"
            table.add(f"{start}: random exposures begin", users, _with_error(effect, scale))
        for x in placebos:
            users = f"{x['n_users']:,}" if "value" in x else "-"
            table.add(f"{x['day']}: nothing (placebo)", users, _with_error(x, scale))
        if table.rows:
            yield table
        if (is_beyond := change["beyond_placebos"][outcome]) is not None:
            size = "larger than all" if is_beyond else "no larger than the largest of"
            yield f"The change at {start} is {size} {len(placebos)} placebos."
    days_both = change["exposures_per_day"]
    if days_both is not None and not days_both["is_alike"]:
        yield (
            f"The logs hold {days_both['before']:,.0f} standard exposures a day before {start} and "
            f"{days_both['after']:,.0f} after it: another part of them is logged, so a change need "
            "not be the experiment's."
        )
    effects = change["effects"].values()
    reasons = dict.fromkeys(x["cannot_tell"] for x in effects if "cannot_tell" in x)
    yield from (f"The change at {start}: cannot tell: {reason}" for reason in reasons)


def _beside(found: Found) -> Iterator[Table | str]:
    for outcome, rows in found["beside"].items():
        table = Table(
            f"{_named(found, outcome)} per exposure, by who ranks", "mean", first="who ranks"
        )
        scale = _scale(rows)
        for x in rows:
            table.add(x["who"], scale.text(x["value"]))
        yield table


# --- support -------------------------------------------------------------------------------------


def _support(found: Found) -> Iterator[Table | str]:
    x = found["support"]
    table = Table(
        f"Support: what of the arms' preferences among {x['videos']:,} videos was logged for the "
        f"same user ({x['users']:,} users)",
        *_ARMS, first="",
    )  # fmt: skip
    rows = {
        "the best video": "best_logged",
        f"of the {x['top']} best": "top_logged",
        f"of the picks from {found['n_candidates']} random videos": "chance_logged",
    }
    for name, key in rows.items():
        table.add(name, *(f"{x['arms'][arm][key]:.2%}" for arm in _ARMS))
    table.add("of any videos", *[f"{x['share_logged']:.2%}"] * 2)
    yield table
    yield "A replay of these rows does not show effects"
    for effect in x["unseen"]:
        measured = f" ({effect['measured']})" if effect["measured"] else ""
        yield f"- {effect['effect']}: {effect['why']}{measured}"
