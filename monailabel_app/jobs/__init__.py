"""Long work outside the server process: `manager` queues and watches, `worker` is the other process."""
