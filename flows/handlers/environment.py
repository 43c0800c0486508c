"""The environment of a command: what it inherits, and what its task may add.

An operator allows programs by name. A variable that makes an allowed program load or run something else would
undo that, so the names known to do so are refused: the dynamic loader's, those of interpreters and build
tools, those that name a program to start, and those that say where configuration lies, which can name one.
No such list is ever complete: a program with a variable of its own for this is safe only where the people who
add tasks are trusted, and it is better wrapped in a script that sets its environment itself.
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_REFUSED: Final = (
    # where programs, libraries and configuration are found
    _names("PATH HOME CLASSPATH GCONV_PATH LOCPATH GLIBC_TUNABLES LUA_INIT LUA_PATH LUA_CPATH")
    | _names("OPENSSL_CONF OPENSSL_ENGINES OPENSSL_MODULES PHPRC PHP_INI_SCAN_DIR")
    | _names("XDG_CONFIG_HOME XDG_CONFIG_DIRS XDG_DATA_HOME XDG_DATA_DIRS")
    # what shells read or run when they start
    | _names("ENV SHELLOPTS BASHOPTS PROMPT_COMMAND PS4 IFS ZDOTDIR")
    # programs that other programs start
    | _names("SHELL EDITOR VISUAL PAGER MANPAGER BROWSER LESSOPEN LESSCLOSE")
    | _names("SSH_ASKPASS SUDO_ASKPASS RSYNC_RSH CVS_RSH")
    # options that can name code to run
    | _names("_JAVA_OPTIONS JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS MAVEN_OPTS GRADLE_OPTS")
    | _names("GOFLAGS MAKEFLAGS GNUMAKEFLAGS MAKEFILES TAR_OPTIONS")
)
_REFUSED_PREFIXES: Final = tuple(
    _names("LD_ DYLD_ BASH_ GIT_ NODE_ NPM_CONFIG_ PERL PIP_ PYTHON RUBY RUSTC CARGO_ UV_")
)
_HARMLESS: Final = (
    _names("GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_AUTHOR_DATE GIT_TERMINAL_PROMPT NODE_ENV")
    | _names("GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL GIT_COMMITTER_DATE")
    | _names("PYTHONDONTWRITEBYTECODE PYTHONHASHSEED PYTHONIOENCODING PYTHONUNBUFFERED PYTHONUTF8")
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_added(env: Mapping[str, str]) -> None:
    """ValueError, naming the variable, where a task may not set one of these."""
    for name in env:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a variable; use letters, digits and underscores")
        # Programs for other systems read some of these in any letter case (npm_config_…, for one).
        upper = name.upper()
        if upper not in _HARMLESS and (upper in _REFUSED or upper.startswith(_REFUSED_PREFIXES)):
            raise ValueError(
                f"a task must not set {name}: it can change what program is loaded; "
                "set it where the agent runs and list it in command.pass_environment"
            )


def environment(inherited: Iterable[str], added: Mapping[str, str]) -> dict[str, str]:
    """The agent's own values of the `inherited` names, as far as it has them, and what the task adds."""
    return {name: os.environ[name] for name in inherited if name in os.environ} | dict(added)
