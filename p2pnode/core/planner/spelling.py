"""The last check on sqlglot's reading: the text that it would write must be made of the same words.

sqlglot forgives (``SELECT n,, k``) and sometimes forgets (a clause it does not know how to print). Whatever it dropped
or added beyond a few known respellings makes the statement `Unsure`, and DuckDB's own parser decides.
"""

from __future__ import annotations

from collections import Counter

from sqlglot import Dialect, exp
from sqlglot.tokenizer_core import TokenType

from p2pnode.core.planner.dialect import Verbatim, render
from p2pnode.core.planner.functions import words
from p2pnode.core.planner.parse import Unsure

#: Respellings that mean the same: ``x::t``, ``==``, ``!=``, ``ISNULL``, prefix aliases, FROM first, AS and brackets.
_MAY_GO = words(":: == != isnull notnull :")
_MAY_COME = words("as ( ) cast = <> is not null select * from where")


def check_spelling(sql: str, tree: exp.Expr) -> None:
    """Raise Unsure unless `render(tree)` has the words of `sql`."""
    read, written = _words(sql), _words(render(tree))
    changed = ((read - written).keys() - _MAY_GO) | ((written - read).keys() - _MAY_COME)
    if changed:
        raise Unsure(f"{', '.join(sorted(changed))} would be read otherwise.")


def _words(sql: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for token in Dialect.get_or_raise(Verbatim).tokenize(sql):
        # Quotes tell a text from a name; everything else is compared without case.
        found[f"'{token.text}'" if token.token_type == TokenType.STRING else token.text.lower()] += 1
    return found - Counter({";": found[";"]})
