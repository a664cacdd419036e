"""Reference networks with named attention sites, and adapters for foreign ones."""
