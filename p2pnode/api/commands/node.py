"""`node readmit`: what an operator decides about a member of the swarm."""

from __future__ import annotations

from typing import Annotated

import typer

from p2pnode.api.commands.session import Session

app = typer.Typer(help="Decide about a member of the swarm.", no_args_is_help=True, rich_markup_mode=None)


@app.command("readmit")
def readmit(
    context: typer.Context,
    node: Annotated[str, typer.Argument(help="Its node id, or its peer id.")],
    keep: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Keep what it said up to this event of its own; by default, up to the fork."),
    ] = None,
) -> None:
    """Let a member that signed two events in one place count again.

    What a node signs after such a fork counts no more: its key is used twice, or it lies. Find out why first, for
    whoever has its key can do it again. The member takes up the readmission by itself.
    """
    from p2pnode.api import output

    session = Session.of(context)
    found = session.client().post("nodes", node, "readmit", body={"keep": keep})
    if session.json:
        output.document(found)
        return
    output.text(
        f"readmitted {found['node_id']} ({found['peer_id']}): {output.counted(found['forgiven'], 'event')} forgiven"
    )
