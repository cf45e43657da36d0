"""What people touch: the manager under trio, asyncio and neither, its configuration and results, the command line."""
