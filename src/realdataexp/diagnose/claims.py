"""A file of claims: what somebody believes of a training, each against a check.

```yaml
claims:
  - claim: the framework reduces gradients, and ours doubles them
    check: gradient_sync
    value: fault          # the claim is that the check finds a fault; ok: that it finds none
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from realdataexp.diagnose.finding import Finding
from realdataexp.options import Options, Text, check, component_name

_DECIDING = ("fault", "ok", "cannot tell")


class Claim(Options):
    """What somebody believes."""

    claim: Text = Field(description="the belief, in words")
    check: Annotated[str, component_name("check")] = Field(description="what can tell")
    value: Literal["fault", "ok"] = Field(description="what the check finds if the claim is true")


class Claims(Options):
    """A claims file."""

    claims: Annotated[tuple[Claim, ...], Field(strict=False, min_length=1)]


def claims_of(values: Mapping[str, Any], where: str) -> tuple[Claim, ...]:
    """The claims in a file's values; InputError with a line for each fault."""
    return check(Claims, values, where).claims


def judged(claims: Sequence[Claim], findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Each claim with the verdict of its check; of several subjects a fault in any decides."""
    told = []
    for x in claims:
        of_check = [found for found in findings if found.check == x.check]
        found = min(of_check, key=lambda found: _DECIDING.index(found.verdict))
        verdict = "supported" if found.verdict == x.value else "refuted"
        if found.verdict == "cannot tell":
            verdict = found.verdict
        told.append({"claim": x.claim, "verdict": verdict, "check": x.check, "value": found.value})
    return told
