"""How a W&B run of ours is set up: quiet, in the study's folder, with nothing of the machine; and who may log in.

W&B's own settings (``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_NAME``, ``WANDB_TAGS``, ``WANDB_MODE``, the file that
``wandb login`` writes …) hold wherever none of ours is listed here.
"""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from autoprune.errors import UsageError

PROJECT = "autoprune"  # unless WANDB_PROJECT names another
_HOSTED = ("api.wandb.ai",)  # where keys of W&B's own servers lie in a netrc file, whatever they are called now
FLUSH_SECONDS = 0.2  # how often what is logged goes to disk
_OURS: dict[str, object] = {
    # say nothing: the display has the terminal
    **{"silent": True, "console": "off", "show_info": False, "show_warnings": False, "show_errors": False},
    # leave a run alone that the user has open, and the hooks of its process
    "reinit": "create_new",
    # send only what is logged: no code, no git, nothing of the machine, no list of packages
    **{"disable_code": True, "save_code": False, "disable_git": True, "disable_job_creation": True},
    **{"x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True, "x_save_requirements": False},
    "host": "",
    # below the study's folder, in real files, on disk soon
    **{"use_dot_wandb": False, "symlink": False, "x_skip_transaction_log": False},
    "x_transaction_log_flush_interval": FLUSH_SECONDS,
}
_BEGIN_SECONDS, _END_SECONDS = 30.0, 60.0  # W&B would wait for a server 90 seconds at first, and forever at the end


def run_settings(wandb: Any, general: Any) -> Any:
    """Return the settings of a run, as far as the installed version knows them."""
    known = wandb.Settings.model_fields
    ours = {name: value for name, value in _OURS.items() if name in known}
    if general.init_timeout == known["init_timeout"].default:
        ours["init_timeout"] = _BEGIN_SECONDS
    if "finish_timeout" in known and not general.finish_timeout:
        ours |= {"finish_timeout": _END_SECONDS, "finish_timeout_raises": True}
    return wandb.Settings(**ours)


def flushes(wandb: Any) -> bool:
    """Return whether the installed version can be told to write what is logged to disk at once."""
    return "x_transaction_log_flush_interval" in wandb.Settings.model_fields


def place_of(wandb: Any, general: Any) -> str:
    """Return where a run goes: the host if it is not W&B's own, the entity if one is named, the project."""
    host = "" if _is_hosted(wandb, general) else _host(general)
    return "/".join(filter(None, [host, general.entity, general.project or PROJECT]))


def is_offline(general: Any) -> bool:
    """Return whether runs are only written to disk; ``dryrun`` is an older name."""
    return general.mode in ("offline", "dryrun")


def check_login(wandb: Any, general: Any) -> None:
    """Check that a run can be opened without a prompt.

    Raises:
        UsageError: if runs go to a server, and there is no key for it.
    """
    if general.mode == "disabled" or is_offline(general) or _has_key(wandb, general):
        return
    raise UsageError(
        f"logging to wandb found no API key for {_host(general)}; run `wandb login` once, set WANDB_API_KEY, or set "
        f"WANDB_MODE=offline to log to disk only"
    )


def _has_key(wandb: Any, general: Any) -> bool:
    if general.api_key or any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    named = os.environ.get("NETRC")
    paths = [Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]
    hosts = [_host(general), *(_HOSTED if _is_hosted(wandb, general) else ())]
    return any(_is_in(path.expanduser(), host) for path in paths for host in hosts)


def _is_in(path: Path, host: str) -> bool:
    """Return whether a netrc file, where ``wandb login`` keeps keys, has one for a host."""
    try:
        found = netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False
    return bool(found and found[2])


def _is_hosted(wandb: Any, general: Any) -> bool:
    """Return whether runs go to W&B's own servers, whose name has changed between versions."""
    return _host(general) in (_host(wandb.Settings()), *_HOSTED)


def _host(general: Any) -> str:
    """Return a server's name, without a user and a password."""
    netloc: str = urlsplit(str(general.base_url)).netloc
    return netloc.rpartition("@")[2]
