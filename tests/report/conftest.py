"""What every test here begins with."""

from report_fixtures import make_view

__all__ = ["make_view"]
