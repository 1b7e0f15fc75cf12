"""Draw a circuit and its evidence: a bundle (JSON, no model) becomes one offline page."""

from gossamer.show.bundle import Bundle, read_bundle
from gossamer.show.page import render_page, write_page

__all__ = ["Bundle", "read_bundle", "render_page", "write_page"]
