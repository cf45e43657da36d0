"""DuckDB's SQL read and written without a change of meaning or of column names.

sqlglot translates between dialects, so its own DuckDB dialect turns known functions into general nodes and prints
them in one preferred spelling (``len`` becomes ``LENGTH``, ``a ** 2`` ``POWER(a, 2)``). DuckDB names a result column
after the spelling, and a split needs the functions DuckDB will really call. `Verbatim` therefore keeps every call as
written (`exp.Anonymous`) and remembers the spelling of the few operators, literals and types where it shows.

It refuses nothing; which nodes may run is decided in `allow`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.generators.duckdb import DuckDBGenerator
from sqlglot.parsers.duckdb import DuckDBParser
from sqlglot.tokenizer_core import TokenType

#: `node.meta` key: how the node was written, where sqlglot would forget it.
SPELLING = "spelling"

#: Calls whose arguments are no plain list (``CAST(x AS t)``, ``EXTRACT(year FROM d)``) keep sqlglot's parser.
_SPECIAL_CALLS = ("CAST", "TRY_CAST", "EXTRACT")

#: Type names are written out again as they were read only if they are made of these.
_PLAIN_TYPE = re.compile(r"[A-Za-z0-9_]+|[(),\[\]]")


class Caret(exp.Pow):
    """``a ^ b``: DuckDB names a column by that sign."""


class DoubleStar(exp.Pow):
    """``a ** b``."""


class UnaryPlus(exp.Unary):
    """``+a``."""


class _VerbatimParser(DuckDBParser):
    FUNCTIONS: ClassVar[dict[str, Callable[..., Any]]] = {}
    FUNCTION_PARSERS: ClassVar[dict[Any, Any]] = {name: DuckDBParser.FUNCTION_PARSERS[name] for name in _SPECIAL_CALLS}
    NO_PAREN_FUNCTIONS: ClassVar[dict[Any, Any]] = {}
    NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[Any, Any]] = {
        name: parse for name, parse in DuckDBParser.NO_PAREN_FUNCTION_PARSERS.items() if name != "IF"
    }
    EXPONENT: ClassVar[dict[Any, Any]] = {**DuckDBParser.EXPONENT, TokenType.CARET: Caret, TokenType.DSTAR: DoubleStar}
    UNARY_PARSERS: ClassVar[dict[Any, Any]] = {
        **DuckDBParser.UNARY_PARSERS,
        TokenType.PLUS: lambda self: self.expression(UnaryPlus(this=self._parse_unary())),
    }

    def _parse_range(self, this: Any = None, parse_is: bool = False) -> Any:
        found = super()._parse_range(this, parse_is)
        if isinstance(found, exp.Not) and self._prev.token_type == TokenType.NOTNULL:
            found.meta[SPELLING] = "infix"
        return found

    def _parse_is(self, this: Any) -> Any:
        found = super()._parse_is(this)
        if isinstance(found, exp.Not):
            found.meta[SPELLING] = "infix"
        return found

    def _parse_interval_span(self, this: Any, parse_function_unit: bool = True) -> exp.Interval:
        number = this.sql() if this.is_number else None
        whole = this.name if this.is_string and exp.INTERVAL_STRING_RE.findall(this.name) else None
        interval = super()._parse_interval_span(this, parse_function_unit)
        if number is not None and interval.unit is not None:
            interval.meta[SPELLING] = number
        elif whole is not None:
            interval.meta[SPELLING] = whole
            interval.set("unit", None)
            interval.set("this", exp.Literal.string(whole))
        return interval

    def _parse_ordered(self, parse_method: Any = None) -> exp.Ordered | None:
        ordered = super()._parse_ordered(parse_method)
        ending = [token.text.upper() for token in self._tokens[self._index - 2 : self._index]]
        if isinstance(ordered, exp.Ordered) and ending == ["NULLS", "LAST"]:
            ordered.meta[SPELLING] = "nulls last"
        return ordered

    def _parse_types(self, *args: Any, **kwargs: Any) -> Any:
        start = self._index
        found = super()._parse_types(*args, **kwargs)
        tokens = self._tokens[start : self._index]
        plain = all(
            token.token_type != TokenType.STRING and _PLAIN_TYPE.fullmatch(token.text) is not None for token in tokens
        )
        if isinstance(found, exp.DataType) and plain:
            found.meta[SPELLING] = " ".join(token.text for token in tokens)
        return found

    def _parse_primary(self) -> Any:
        if self._match_pair(TokenType.DOT, TokenType.NUMBER, advance=False):
            self._advance(2)
            return exp.Literal.number(f".{self._prev.text}")
        return super()._parse_primary()


class _VerbatimGenerator(DuckDBGenerator):
    TRANSFORMS: ClassVar[dict[Any, Any]] = {
        **DuckDBGenerator.TRANSFORMS,
        Caret: lambda self, node: self.binary(node, "^"),
        DoubleStar: lambda self, node: self.binary(node, "**"),
        UnaryPlus: lambda self, node: f"+ {self.sql(node, 'this')}",
    }

    def not_sql(self, expression: exp.Not) -> str:
        inner = expression.this
        if expression.meta.get(SPELLING) == "infix" and isinstance(inner, exp.Is):
            return f"{self.sql(inner, 'this')} IS NOT {self.sql(inner, 'expression')}"
        return super().not_sql(expression)

    def interval_sql(self, expression: exp.Interval) -> str:
        number = expression.meta.get(SPELLING)
        if number is not None and expression.unit is not None:
            return f"INTERVAL {number} {self.sql(expression.unit)}"
        if number is not None:
            return f"INTERVAL {self.sql(expression.this)}"
        return super().interval_sql(expression)

    def ordered_sql(self, expression: exp.Ordered) -> str:
        written = super().ordered_sql(expression)
        return f"{written} NULLS LAST" if expression.meta.get(SPELLING) == "nulls last" else written

    def datatype_sql(self, expression: exp.DataType) -> str:
        return expression.meta.get(SPELLING) or super().datatype_sql(expression)

    def ignorenulls_sql(self, expression: exp.IgnoreNulls) -> str:
        return f"{self.sql(expression, 'this')} IGNORE NULLS"

    def respectnulls_sql(self, expression: exp.RespectNulls) -> str:
        return f"{self.sql(expression, 'this')} RESPECT NULLS"


class Verbatim(DuckDB):
    """DuckDB's dialect that keeps calls, operators and types as they were written."""

    Parser = _VerbatimParser
    Generator = _VerbatimGenerator


def render(node: exp.Expr) -> str:
    """The SQL text of `node`: every identifier quoted, so that reserved words and spaces need no thought."""
    return node.sql(dialect=Verbatim, identify=True, normalize_functions=False, comments=False)
