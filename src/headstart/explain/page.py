"""Pages of the explain step: one file each, no script, nothing loaded from elsewhere.

Every text is escaped by the template, pictures are WebP or PNG inside the page, and the policy of
the page allows its own style, by its hash, and data images only.
"""

from __future__ import annotations

import base64
import hashlib
from io import BytesIO
from typing import Any

from PIL import Image

from headstart.data.images import thumbnail
from headstart.errors import show

SMALL_PX = 64
"""pictures up to this side are kept to the last pixel"""


def render_page(template: str, facts: dict[str, Any]) -> str:
    """The HTML text of a page.

    Args:
        template: name of the file beside this one. facts: what it names; texts are cleaned and
            escaped there, by `shown` and by the template.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("headstart", "explain"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["csp_hash"] = _csp_hash
    environment.filters["shown"] = show
    return environment.get_template(template).render(**facts)


def inline(picture: Image.Image, most_px: int | None = None) -> str:
    """A picture as a data address: lossless when it is small, else WebP of at most `most_px`."""
    if max(picture.size) <= SMALL_PX:
        out = BytesIO()
        picture.save(out, "PNG", optimize=True)
        return _address("png", out.getvalue())
    return _address("webp", thumbnail(picture, most_px or max(picture.size), quality=80))


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _csp_hash(source: str) -> Any:
    """The policy's name for an inline style: the SHA-256 of its exact text."""
    import markupsafe

    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return markupsafe.Markup(f"'sha256-{digest}'")  # Base64 holds nothing to escape
