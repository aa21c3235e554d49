"""Secrets do not get into records, not even in pieces."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.load.answers import clipped
from kit.load.worker.redact import forms, redacted

SECRET = "0sesame1open2says3me4"


@given(st.text(alphabet="abc ", max_size=600), st.text(alphabet="abc ", max_size=600))
def test_no_telling_piece_of_a_secret_is_left_wherever_the_text_was_cut(
    before: str, after: str
) -> None:
    seen = redacted(clipped(before + SECRET + after) or "", [SECRET])
    pieces = {SECRET[at : at + 4] for at in range(len(SECRET) - 3)}
    assert not any(piece in seen for piece in pieces)


def test_other_text_stays_as_it_is() -> None:
    assert redacted("nothing of it... here", [SECRET]) == "nothing of it... here"


PASSWORD = "pa/ss+w=rd é&1"
BASIC = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()
COOKIE = f'theme=dark; session="{quote(PASSWORD)}"'


@pytest.mark.parametrize(
    ("value", "echo"),
    [
        (BASIC, BASIC),
        (BASIC, BASIC.removeprefix("Basic ")),
        (BASIC, BASIC.removeprefix("Basic ").rstrip("=")),
        (BASIC, f"user:{PASSWORD}"),
        (BASIC, PASSWORD),
        (COOKIE, COOKIE),
        (COOKIE, quote(PASSWORD)),
        (COOKIE, PASSWORD),
        (f"Bearer {PASSWORD}", PASSWORD),
        (f"Bearer {PASSWORD}", PASSWORD.replace("/", "\\/")),
        (f"Bearer {PASSWORD}", json.dumps(PASSWORD)),
        (f"Bearer {PASSWORD}", json.dumps(PASSWORD).replace("/", "\\/")),
        (f"Bearer {PASSWORD}", quote(PASSWORD, safe="")),
        (f"Bearer {PASSWORD}", quote(PASSWORD, safe="").lower()),
        (f"Bearer {PASSWORD}", quote_plus(PASSWORD)),
        (f"Bearer {PASSWORD}", html.escape(PASSWORD)),
        (f"Bearer {PASSWORD}", base64.b64encode(PASSWORD.encode()).decode()),
        (f"Bearer {PASSWORD}", base64.urlsafe_b64encode(PASSWORD.encode()).decode()),
        (f"Bearer {PASSWORD}", PASSWORD.encode().hex()),
    ],
)
def test_a_secret_is_taken_out_in_every_form_in_which_a_server_echoes_it(
    value: str, echo: str
) -> None:
    seen = redacted(f"401: you sent <{echo}>, which is wrong", forms([value]))
    core = echo.removeprefix("Basic ").strip('"=')
    assert "[secret]" in seen
    assert core not in seen
    assert PASSWORD not in seen
    assert seen.startswith("401: you sent <")
    assert seen.endswith(">, which is wrong")
