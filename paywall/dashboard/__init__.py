"""What an owner sees: one page over the provider's store, live, behind a token."""

from paywall.dashboard.app import Dashboard

__all__ = ["Dashboard"]
