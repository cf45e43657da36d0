"""SQL over local shard files, run where it can do no harm.

    runner ── what the services call: run(sql, tables, relations) -> Arrow IPC
      pool ── a fixed number of workers, a bounded queue before them
        launcher ── the node's end of the zygote: one more worker, please
    ┈┈┈┈┈┈┈┈┈┈ process boundary: below this line nothing belongs to the node's process ┈┈┈┈┈┈┈┈┈┈
          zygote ── imports DuckDB and pyarrow, uses neither, forks
            worker ── shuts itself in (fence, seccomp), then answers requests
              engine ── DuckDB: locked settings, shards as views, answers as Arrow
              admit ── the last look at the statement before it runs

The node's process never imports DuckDB: a fault in it costs one query, never the node. SQL is code from a stranger;
what holds it is the operating system (Landlock, seccomp, resource limits), with DuckDB's own settings and the check
of the statement in front of it.
"""
