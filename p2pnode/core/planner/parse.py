"""SQL text to a checked tree: exactly one query, or a typed refusal.

Two parsers are in play. sqlglot's runs here, because a split needs a tree; what it cannot read, or reads in a way
that might lose meaning, is `Unsure`: the caller then asks DuckDB's own parser (in the fenced process) and comes back
through `opaque`, which gathers whole tables and runs the text as it is.
"""

from __future__ import annotations

import logging

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokenizer_core import Token, TokenType

from p2pnode.core.planner.dialect import Verbatim
from p2pnode.errors import QueryError, SqlRefused

#: Longer statements are refused: parsing is quadratic in places, and nobody types 256 KiB.
SQL_CHARS_MAX = 256 * 1024

#: More open brackets than a person writes, and more than parsers care for.
NESTING_MAX = 200

#: Deeper trees (long chains of operators) would overrun the interpreter's stack in recursive walks.
DEPTH_MAX = 150

# sqlglot warns there about what it cannot read; `Unsure` says the same as an exception.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL)


class Unsure(Exception):
    """sqlglot cannot vouch for this statement: DuckDB's own parser must say what it is, or that it is no SQL.

    No failure for a user to see, so none of ours: whoever plans goes on with `plan_opaque`.
    """


def parse(sql: str) -> exp.Expr:
    """The tree of `sql`.

    Raises Unsure (sqlglot cannot read it), SqlRefused (not one SELECT), QueryError (empty or too long).
    """
    if len(sql) > SQL_CHARS_MAX:
        raise QueryError(f"The statement is longer than {SQL_CHARS_MAX} characters.")
    tokens = _tokens(sql)
    _refuse_deep(tokens)
    try:
        trees = [tree for tree in sqlglot.Dialect.get_or_raise(Verbatim).parser().parse(tokens, sql) if tree]
    except ParseError as error:
        raise Unsure(f"sqlglot stopped: {error.errors[0].get('description') if error.errors else error}") from error
    except (ValueError, IndexError, AttributeError, TypeError, RecursionError) as error:
        # sqlglot's parser trips over some malformed statements in these ways.
        raise Unsure(f"The statement cannot be read: {error}") from error
    if not trees:
        raise QueryError("The statement is empty.", advice="Write a SELECT.")
    if len(trees) > 1:
        raise SqlRefused("One statement at a time: this text holds several.")
    if _depth(trees[0]) > DEPTH_MAX:
        raise Unsure(f"The statement's tree is deeper than {DEPTH_MAX} levels.")
    return _one_query(trees[0])


def _depth(tree: exp.Expr) -> int:
    deepest, pending = 0, [(tree, 1)]
    while pending:
        node, depth = pending.pop()
        deepest = max(deepest, depth)
        pending.extend((child, depth + 1) for child in node.iter_expressions())
    return deepest


def _tokens(sql: str) -> list[Token]:
    try:
        tokens = sqlglot.Dialect.get_or_raise(Verbatim).tokenize(sql)
    except TokenError as error:
        raise Unsure(f"The statement cannot be read: {error}") from error
    for token in tokens:
        # `1_000` loses its underscore here and would lose it in the column's name.
        if token.token_type == TokenType.NUMBER and "_" in sql[token.start : token.end + 1]:
            raise Unsure("A number is written with underscores.")
    return tokens


def _refuse_deep(tokens: list[Token]) -> None:
    depth = 0
    for token in tokens:
        if token.token_type in (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE):
            depth += 1
        elif token.token_type in (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END):
            depth -= 1
        if depth > NESTING_MAX:
            raise QueryError(f"The statement nests deeper than {NESTING_MAX} levels.", position=token.start)


def _one_query(tree: exp.Expr) -> exp.Expr:
    if isinstance(tree, (exp.Select, exp.SetOperation, exp.Values, exp.Pivot)) or (
        isinstance(tree, exp.Subquery) and isinstance(tree.unnest(), exp.Query)
    ):
        return tree
    if isinstance(tree, exp.Query):
        raise Unsure("Only DuckDB's own parser reads this form of query.")
    word = tree.key.upper() if not isinstance(tree, exp.Command) else str(tree.this).upper()
    if isinstance(tree, (exp.Condition, exp.Alias)):
        raise Unsure("The statement does not begin like a query.")
    raise SqlRefused(f"{word} is not a SELECT.")
