"""The control commands: `tidegate policy`, `consent`, `switch` and `keys`.

They write records to the control topics, or read those to their end and show what
stands there. The broker is all they need.
"""

from __future__ import annotations

from infra.control.commands.consent_cli import consent
from infra.control.commands.keys_cli import keys
from infra.control.commands.policy_cli import policy
from infra.control.commands.switch_cli import switch

__all__ = ["consent", "keys", "policy", "switch"]
