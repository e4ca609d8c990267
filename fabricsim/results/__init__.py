"""What happened: Arrow tables, metrics, lower bounds, the digest, and how a console shows them."""
