"""Many nodes on one machine, as real processes: `local` starts them, `demo` shows them, `bench` measures them.

Stands outside the node and drives it as a user does; the commands join the command line by entry points (`commands`).
"""
