"""Services for every command: hosts, files, locks, limits, flags, configs."""
